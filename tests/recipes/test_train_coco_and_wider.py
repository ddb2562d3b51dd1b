import json
import runpy
import sys
from pathlib import Path

import pytest
from trees import ATTRIBUTES, make_coco, make_wider

from msl_hf import MSLForImageClassification

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


@pytest.mark.parametrize("recipe", ["train_coco.py", "train_wider.py"])
def test_a_folder_is_needed_and_has_to_be_the_right_one(recipe, run, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="error: .*empty"):
        run(recipe, tmp_path / "empty")
    monkeypatch.setattr(sys, "argv", [recipe, "--output_dir", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="--data_dir FOLDER"):
        runpy.run_path(str(RECIPES / recipe), run_name="__main__")
