import json
import os
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from exports import EXPORTS
from PIL import Image
from transformers import AutoImageProcessor

from msl_hf import MSLForImageClassification, MSLTrainer, multilabel_metrics
from msl_hf.console.files import locked
from msl_hf.data import load_image_folder
from msl_hf.data.schema import make_targets
from msl_hf.evaluation.thresholds import tune_thresholds

RECIPE = str(Path(__file__).parents[2] / "recipes" / "train_folder.py")


@pytest.fixture
def photos(tmp_path):
    """Twenty little photographs of reddish and bluish things."""
    folder = tmp_path / "photos" / "train"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = []
    for index in range(20):
        labels = [name for name, on in zip(("blue", "red"), rng.random(2) < 0.6, strict=True) if on]
        pixels = rng.integers(0, 90, (30, 40, 3))
        pixels[..., 0] += 150 * ("red" in labels)
        pixels[..., 2] += 150 * ("blue" in labels)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
        lines.append(json.dumps({"file_name": f"{index}.png", "labels": labels}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder.parent


def run(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", [RECIPE, *flags])
    runpy.run_path(RECIPE, run_name="__main__")


def test_own_photographs_without_a_validation_split(photos, backbone_folder, tmp_path, monkeypatch, capsys):
    backbone = str(backbone_folder("timm_resnet"))
    run(monkeypatch, "--data_dir", str(photos), "--backbone", backbone, "--image_size", "32",
        "--validation_fraction", "0.25", "--num_train_epochs", "2", "--per_device_train_batch_size", "5", "--use_cpu",
        "true", "--masks", "patches", "--output_dir", str(tmp_path / "out"), "--disable_tqdm", "true",
        "--cpu_threads", "1")  # fmt: skip
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["num_train_images"] == 15 and metrics["selection_split"] == "validation" == metrics["test_split"]
    config = MSLForImageClassification.from_pretrained(tmp_path / "out").config
    assert config.id2label == {0: "blue", 1: "red"}
    assert "also chose the best epoch" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_ends_with_the_choice_of_a_view(photos, backbone_folder, tmp_path, monkeypatch, capsys):
    """On the selection split; test figures of the model as it is used are those of its folder."""
    for split in ("validation", "test"):
        shutil.copytree(photos / "train", photos / split)
        for file in (photos / split).glob("*.png"):
            Image.open(file).rotate(20).save(file)
    flags = ("--data_dir", str(photos), "--backbone", str(backbone_folder("timm_vit")), "--image_size", "32",
             "--num_train_epochs", "1", "--per_device_train_batch_size", "5", "--use_cpu", "true",
             "--masks", "patches", "--disable_tqdm", "true", "--cpu_threads", "1",
             "--bf16", "false", "--selection_split", "validation")  # fmt: skip
    run(monkeypatch, *flags, "--output_dir", str(tmp_path / "out"))
    printed, metrics = capsys.readouterr().out, json.loads((tmp_path / "out" / "metrics.json").read_text())
    rows, own = metrics["tuned_views"], metrics["best"]["own_view"]
    assert rows[0]["view"] == "whole" and len(rows) > 4 and all(row["cost"] <= 4 for row in rows)
    model = MSLForImageClassification.from_pretrained(tmp_path / "out")
    assert model.config.views == own["view"] == max(rows, key=lambda row: (row["mAP"], -row["cost"]))["view"]
    data, processor = load_image_folder(photos), AutoImageProcessor.from_pretrained(tmp_path / "out")
    targets = {split: make_targets(list(data[split]), 2, ignored_as="ignore").numpy() for split in data}
    scores = {
        split: model.view_logits([row["image"] for row in data[split]], processor).sigmoid().numpy()
        for split in ("validation", "test")
    }
    np.testing.assert_allclose(tune_thresholds(scores["validation"], targets["validation"]), model.config.thresholds,
                               atol=1e-5)  # fmt: skip
    found = multilabel_metrics(scores["test"], targets["test"], np.array(model.config.thresholds))
    assert {name: own[name] for name in found} == pytest.approx(found, abs=1e-6)
    assert f"as used  {100 * own['mAP']:7.1f}" in printed and "--view_cost 1 leaves them out" in printed
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"it looks at an image as `{own['view']}`" in card and "one of its own for each class" in card
    # Checkpoints and the last step are other models, of which nothing was chosen.
    assert MSLForImageClassification.from_pretrained(tmp_path / "out" / "last").config.views is None
    run(monkeypatch, *flags, "--output_dir", str(tmp_path / "plain"), "--view_cost", "1")
    config = MSLForImageClassification.from_pretrained(tmp_path / "plain").config
    assert config.views is None and config.thresholds is None
    assert json.loads((tmp_path / "plain" / "metrics.json").read_text())["tuned_views"] is None
    with pytest.raises(SystemExit, match="--view_cost must be at least 1"):
        run(monkeypatch, *flags, "--output_dir", str(tmp_path / "wrong"), "--view_cost", "0.5")


def test_folder_is_needed(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match="--data_dir FOLDER"):
        run(monkeypatch, "--output_dir", str(tmp_path), "--backbone", "timm/resnet50.a1_in1k")


@pytest.mark.parametrize("streaming", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_hub_data_set_with_boxes(streaming, photos, backbone_folder, tmp_path, monkeypatch, capsys):
    """What a Hub id gives, saved as parquet: labels are the categories of boxes; one image is broken."""
    from datasets import ClassLabel, Dataset, Features, Image, List

    files = sorted((photos / "train").glob("*.png"))
    files[3].write_bytes(b"no image")
    features = Features({"photo": Image(), "objects": {"category": List(ClassLabel(names=["a", "b"]))}})
    (tmp_path / "hub").mkdir()
    for split, part in (("train", files[:14]), ("test", files[14:])):
        columns = {"photo": [{"path": None, "bytes": file.read_bytes()} for file in part],
                   "objects": [{"category": [index % 2]} for index in range(len(part))]}  # fmt: skip
        Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "hub" / f"{split}.parquet")
    flags = ["--data_dir", str(tmp_path / "hub"), "--backbone", str(backbone_folder("timm_resnet")), "--image_size",
             "32", "--per_device_train_batch_size", "5", "--use_cpu", "true", "--masks", "patches", "--output_dir",
             str(tmp_path / "out"), "--disable_tqdm", "true", "--cpu_threads", "1", "--drop_bad_images",
             "true"]  # fmt: skip
    if streaming:
        with pytest.raises(SystemExit, match="no known length.*--max_steps"):
            run(monkeypatch, *flags, "--streaming", "true")
        run(monkeypatch, *flags, "--streaming", "true", "--max_steps", "4")
    else:
        run(monkeypatch, *flags, "--num_train_epochs", "1", "--pos_weight", "balanced")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["num_train_images"] == (None if streaming else 13) and metrics["num_test_images"] == 6
    assert "A stream of" in (tmp_path / "out" / "README.md").read_text() or not streaming
    assert MSLForImageClassification.from_pretrained(tmp_path / "out").config.id2label == {0: "a", 1: "b"}


@pytest.fixture
def flags(backbone_folder, tmp_path):
    return ["--backbone", str(backbone_folder("timm_resnet")), "--image_size", "32", "--num_train_epochs", "1",
            "--per_device_train_batch_size", "2", "--use_cpu", "true", "--masks", "patches", "--output_dir",
            str(tmp_path / "out"), "--disable_tqdm", "true", "--cpu_threads", "1"]  # fmt: skip


@pytest.mark.parametrize("name", ["coco", "openimages"])
def test_exports_of_others(name, flags, tmp_path, monkeypatch, capsys):
    EXPORTS[name](tmp_path / "data")
    run(monkeypatch, "--data_dir", str(tmp_path / "data"), "--selection_split", "valid", *flags)
    printed = capsys.readouterr().out
    assert f"read as {name}" in printed and "train: 2 images, 1 of them without any label, 0 unknown" in printed
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["selection_split"] == "validation" and metrics["num_train_images"] == 2


@pytest.mark.parametrize("names", [("$", "$$"), ("a_b^c", "\\frac{"), ("犬", "猫")])
def test_class_names_of_any_characters_and_no_test_split(names, photos, flags, tmp_path, monkeypatch, capsys):
    """The run ends with metrics and card; without a split to measure on, with a sentence instead of an empty table."""
    metadata = photos / "train" / "metadata.jsonl"
    rows = [json.loads(line) for line in metadata.read_text().splitlines()]
    for row in rows:
        row["labels"] = [names[label == "red"] for label in row["labels"]]
    metadata.write_text("\n".join(map(json.dumps, rows)))
    run(monkeypatch, "--data_dir", str(photos), *flags)
    printed = capsys.readouterr().out
    assert "Nothing was held out to measure on: add a test or validation split" in printed and "mAP" not in printed
    run(monkeypatch, "--data_dir", str(photos), "--validation_fraction", "0.3", *flags[:-6],
        "--output_dir", str(tmp_path / "two"), *flags[-4:])  # fmt: skip
    for name in ("metrics.json", "README.md", "per_class.png", "curves.png"):
        assert (tmp_path / "two" / name).is_file(), name
    assert set(json.loads((tmp_path / "two" / "metrics.json").read_text())["best"]["per_class_AP"]) == set(names)


def test_a_figure_that_fails_costs_the_figure_alone(photos, flags, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("no such font")

    monkeypatch.setattr("msl_hf.runs.train.plot_per_class", fail)
    monkeypatch.setattr("msl_hf.runs.train.plot_training_curves", fail)
    run(monkeypatch, "--data_dir", str(photos), "--validation_fraction", "0.3", *flags)
    assert "Warning: no per_class.png: RuntimeError: no such font" in capsys.readouterr().out
    assert (tmp_path / "out" / "metrics.json").is_file() and (tmp_path / "out" / "README.md").is_file()
    assert not (tmp_path / "out" / "curves.png").exists()


def settings(photos, backbone_folder, tmp_path, *more):
    return ["--data_dir", str(photos), "--backbone", str(backbone_folder("timm_vit")), "--image_size", "32",
            "--validation_fraction", "0.25", "--num_train_epochs", "2", "--per_device_train_batch_size", "5",
            "--use_cpu", "true", "--bf16", "false", "--masks", "patches", "--output_dir", str(tmp_path / "out"),
            "--disable_tqdm", "true", "--cpu_threads", "1", "--robustness_curve", "false", *more]  # fmt: skip


def test_low_rank_adapters_end_as_a_model_like_any_other(photos, backbone_folder, tmp_path, monkeypatch):
    run(monkeypatch, *settings(photos, backbone_folder, tmp_path, "--lora_rank", "2", "--save_adapter", "true"))
    out = tmp_path / "out"
    assert (out / "adapter" / "adapter_model.safetensors").is_file() and not list(out.glob("adapter_*"))
    assert (out / "checkpoint-6" / "adapter_model.safetensors").is_file()
    best, last = (MSLForImageClassification.from_pretrained(folder) for folder in (out, out / "last"))
    assert best.state_dict().keys() == last.state_dict().keys() == tiny_keys(backbone_folder)
    with pytest.raises(SystemExit, match="--save_adapter writes the adapters of --lora_rank"):
        run(monkeypatch, *settings(photos, backbone_folder, tmp_path, "--save_adapter", "true"))


def test_cached_features_are_shared_by_runs_and_leave_an_ordinary_model(
    photos, backbone_folder, tmp_path, monkeypatch, capsys
):
    flags = ["--freeze_backbone", "true", "--cache_features", "true", "--feature_dir", str(tmp_path / "features")]
    run(monkeypatch, *settings(photos, backbone_folder, tmp_path, *flags))
    printed = capsys.readouterr().out
    assert "backbone frozen" in printed and "Caching 4 views of each training image" in printed
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "features").rglob("*.npy")}
    assert len(files) == 9  # four views, whole and masked, and the evaluation
    model = MSLForImageClassification.from_pretrained(tmp_path / "out")
    backbone = MSLForImageClassification.from_backbone(
        backbone_folder("timm_vit"), ["blue", "red"], image_size=32
    ).backbone
    assert all(torch.equal(value, backbone.state_dict()[key]) for key, value in model.backbone.state_dict().items())
    more = ["--output_dir", str(tmp_path / "other"), "--num_train_epochs", "6", "--classification_loss", "asl"]
    run(monkeypatch, *settings(photos, backbone_folder, tmp_path, *flags, *more))
    assert files == {file: file.stat().st_mtime_ns for file in (tmp_path / "features").rglob("*.npy")}
    with pytest.raises(SystemExit, match="holds features of another run: .*processor is"):
        more = ["--output_dir", str(tmp_path / "third"), "--image_size", "48"]
        run(monkeypatch, *settings(photos, backbone_folder, tmp_path, *flags, *more))
    with pytest.raises(SystemExit, match="--from_scratch has none"):
        run(monkeypatch, *settings(photos, backbone_folder, tmp_path, *flags, "--from_scratch", "true"))


def test_last_epochs_with_larger_images(photos, backbone_folder, tmp_path, monkeypatch):
    """The model that is left is of the final size; early steps see the small images, late ones the large ones."""
    sizes = []
    compute_loss = MSLTrainer.compute_loss

    def noted(self, model, inputs, *args, **kwargs):
        if model.training:
            sizes.append(inputs["pixel_values"].shape[-1])
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(MSLTrainer, "compute_loss", noted)
    flags = settings(photos, backbone_folder, tmp_path, "--final_image_size", "48", "--final_epochs", "1")
    run(monkeypatch, *flags)
    assert sizes == [32] * 3 + [48] * 3
    assert MSLForImageClassification.from_pretrained(tmp_path / "out").config.image_size == 48
    assert AutoImageProcessor.from_pretrained(tmp_path / "out").size["height"] == 48
    for more, message in (
        (["--final_epochs", "2"], "--final_epochs 2 must lie between 0 and --num_train_epochs 2"),
        (["--max_steps", "3"], "--final_image_size counts epochs, and --max_steps steps"),
        (["--image_size", "36"], "image_size 36 is no multiple of the backbone's patches of 8 pixels"),
    ):
        with pytest.raises(SystemExit, match=message):
            run(monkeypatch, *flags, *more, "--output_dir", str(tmp_path / "other"))


def tiny_keys(backbone_folder):
    model = MSLForImageClassification.from_backbone(backbone_folder("timm_vit"), ["blue", "red"], image_size=32)
    return model.state_dict().keys()


def test_a_run_without_a_whole_batch_leaves_nothing_behind(photos, backbone_folder, tmp_path, monkeypatch):
    for length in ([], ["--max_steps", "3"]):
        with pytest.raises(SystemExit, match="4 training images do not fill one batch of 5; .*dataloader_drop_last"):
            run(monkeypatch, *settings(photos, backbone_folder, tmp_path, "--max_train_samples", "4", *length))
    assert not (tmp_path / "out").exists()


def test_a_second_run_into_the_folder_of_one_at_work_is_refused(photos, backbone_folder, tmp_path, monkeypatch):
    with locked(tmp_path / "out" / ".lock"), pytest.raises(SystemExit, match="another process is writing here"):
        run(monkeypatch, *settings(photos, backbone_folder, tmp_path))
    assert [file.name for file in (tmp_path / "out").iterdir()] == []


def test_checkpoints_are_of_their_run(photos, backbone_folder, tmp_path, monkeypatch, capsys):
    """The last one is cut off, one of another run is copied in: the run goes on from the one before."""
    run(monkeypatch, *settings(photos, backbone_folder, tmp_path, "--save_total_limit", "9"))
    out = tmp_path / "out"
    os.truncate(out / "checkpoint-6" / "model.safetensors", 1000)
    shutil.copytree(out / "checkpoint-3", out / "checkpoint-9")
    noted = json.loads((out / "checkpoint-9" / "run.json").read_text())
    (out / "checkpoint-9" / "run.json").write_text(json.dumps({**noted, "seed": 7}))
    more = ["--save_total_limit", "9", "--resume_from_checkpoint", "true"]
    run(monkeypatch, *settings(photos, backbone_folder, tmp_path, *more))
    printed = capsys.readouterr().out
    assert "checkpoint-9: is of another run (seed 7 -> 42)" in printed
    assert "checkpoint-6: half-written checkpoint, model.safetensors is missing or cut off" in printed
    assert json.loads((out / "metrics.json").read_text())["last"]["epoch"] == 2


def test_a_tracker_that_is_not_installed_is_a_message(photos, backbone_folder, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="error: .*(dvclive|DVCLive)"):
        run(monkeypatch, *settings(photos, backbone_folder, tmp_path, "--report_to", "dvclive"))
    assert not (tmp_path / "out").exists()
