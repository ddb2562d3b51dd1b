import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor
from trees import ATTRIBUTES, make_coco, make_wider

from msl_hf import MSLForImageClassification, multilabel_metrics
from msl_hf.data import load_wider
from msl_hf.data.schema import make_targets

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def run(monkeypatch, backbone_folder, tmp_path):
    """Runs a recipe on a folder for one epoch: its metrics.json."""

    def run(recipe, data_dir, *flags):
        file = str(RECIPES / recipe)
        backbone = str(backbone_folder("timm_resnet"))
        command = [file, "--data_dir", str(data_dir), "--backbone", backbone, "--image_size", "32",
                   "--num_train_epochs", "1", "--per_device_train_batch_size", "3", "--masks", "patches", "--use_cpu",
                   "true", "--disable_tqdm", "true", "--cpu_threads", "1", "--output_dir", str(tmp_path / "out"),
                   *flags]  # fmt: skip
        monkeypatch.setattr(sys, "argv", command)
        runpy.run_path(file, run_name="__main__")
        return json.loads((tmp_path / "out" / "metrics.json").read_text())

    return run


@pytest.mark.parametrize("year", [2014, 2017])
def test_coco(year, run, tmp_path, capsys):
    metrics = run(
        "train_coco.py", make_coco(tmp_path / "coco", year), "--year", str(year), "--keep_unlabelled", "true"
    )
    assert (metrics["num_train_images"], metrics["num_test_images"]) == (6, 6)
    assert metrics["test_split"] == "validation"
    assert "no image of split 'train' shows toothbrush" in capsys.readouterr().out
    model = MSLForImageClassification.from_pretrained(tmp_path / "out")
    assert list(model.config.id2label.values()) == ["person", "dog", "toothbrush"]


def test_wider(run, tmp_path):
    flags = ("--crop_scale", "1", "1", "--pos_weight", "balanced", "--ignored_as", "ignore")
    metrics = run("train_wider.py", make_wider(tmp_path / "wider"), *flags)
    assert (metrics["num_train_images"], metrics["test_split"], metrics["num_labels"]) == (18, "test", 14)
    model = MSLForImageClassification.from_pretrained(tmp_path / "out")
    assert list(model.config.id2label.values()) == list(ATTRIBUTES)
    assert "count unspecified labels as negative" not in (tmp_path / "out" / "README.md").read_text()


def test_unspecified_attributes_count_as_negative_in_the_report_as_in_table_12(run, tmp_path):
    """The figures are those of the same weights, measured by the public function."""
    metrics = run("train_wider.py", make_wider(tmp_path / "wider"), "--ignored_as_negative", "true", "--bf16", "false")
    assert metrics["ignored_as_negative"]
    assert "count unspecified labels as negative" in (tmp_path / "out" / "README.md").read_text()
    model = MSLForImageClassification.from_pretrained(tmp_path / "out").eval()
    processor, data = AutoImageProcessor.from_pretrained(tmp_path / "out"), load_wider(tmp_path / "wider")["test"]
    with torch.no_grad():
        images = torch.cat([processor(row["image"], return_tensors="pt").pixel_values for row in data])
        scores = model(images).logits.sigmoid().numpy()
    targets = make_targets([{name: row[name] for name in ("labels", "ignored")} for row in data], 14, "ignore").numpy()
    counted, left_out = (multilabel_metrics(scores, targets, count_ignored_as=how) for how in ("negative", "ignore"))
    found = metrics["last"]["clean"]
    assert {key: found[key] for key in ("CP", "CR", "OP", "OR", "OF1")} == pytest.approx(
        {key: counted[key] for key in ("CP", "CR", "OP", "OR", "OF1")}
    )
    assert counted["OP"] < left_out["OP"]


@pytest.mark.parametrize("recipe", ["train_coco.py", "train_wider.py"])
def test_a_folder_is_needed_and_has_to_be_the_right_one(recipe, run, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="error: .*empty"):
        run(recipe, tmp_path / "empty")
    monkeypatch.setattr(sys, "argv", [recipe, "--output_dir", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="--data_dir FOLDER"):
        runpy.run_path(str(RECIPES / recipe), run_name="__main__")


@pytest.mark.slow
def test_real_coco_from_training_to_figures(shared, tmp_path, monkeypatch, capsys):
    """A few steps at full resolution on MS-COCO 2017 photographs; then everything that is measured of the model."""
    data = ["--data_dir", str(shared / "data/coco"), "--year", "2017"]
    masks = ["--masks", str(shared / "data/masks/nvidia"), "--use_cpu", "true", "--disable_tqdm", "true"]
    flags = {
        "train_coco.py": ["--backbone", str(shared / "weights/tf_efficientnet_lite0"), "--image_size", "96",
                          "--num_train_epochs", "1", "--max_train_samples", "32", "--bf16", "false", "--output_dir"],
        "evaluate.py": ["--dataset", "coco", "--num_bootstrap", "50", "--model", str(tmp_path / "train_coco.py"),
                        "--output_dir"],
        "figures.py": ["--dataset", "coco", "--num_examples", "2", "--model", str(tmp_path / "train_coco.py"),
                       "--output_dir"],
    }  # fmt: skip
    for recipe, own in flags.items():
        monkeypatch.setattr(sys, "argv", [str(RECIPES / recipe), *data, *masks, *own, str(tmp_path / recipe)])
        runpy.run_path(str(RECIPES / recipe), run_name="__main__")
    trained = json.loads((tmp_path / "train_coco.py" / "metrics.json").read_text())
    assert (trained["num_labels"], trained["num_test_images"]) == (80, 80)
    result = json.loads((tmp_path / "evaluate.py" / "metrics.json").read_text())["models"]["train_coco.py"]
    assert result["clean"]["mAP"] == pytest.approx(trained["last"]["clean"]["mAP"], abs=2e-3)
    sizes = {name: group["positives"] for name, group in result["breakdown"]["size"].items()}
    assert min(sizes.values()) > 20 and "overlap" in result["breakdown"] and "visible" not in result["breakdown"]
    sheets = json.loads((tmp_path / "figures.py" / "metrics.json").read_text())["sheets"]
    assert set(sheets) == {"small_objects", "occluded_objects", "masked_objects", "visible_objects"}
