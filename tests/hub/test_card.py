import re

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

from msl_hf.data import build_processor
from msl_hf.hub.card import is_our_card, write_card

FIGURES = {"mAP": 0.61234, "CP": 0.5, "CR": 0.4, "CF1": 0.44, "OP": 0.7, "OR": 0.3, "OF1": 0.42}
REPORT = {
    "model": "best", "dataset": "my photographs", "base_model": "timm/resnet50.a1_in1k", "num_labels": 3,
    "test_split": "test", "selection_split": "val", "train_split": "train", "num_train_images": 10,
    "num_test_images": 5, "train_seconds": 120.0, "hardware": "2 CPU threads", "command": "accelerate launch x.py",
    "versions": {"torch": "2", "transformers": "5", "msl_hf": "0"},
    "last": {"epoch": 6.0, "clean": {**FIGURES, "mAP": 0.1}, "masked": FIGURES},
    "best": {"epoch": 4.0, "clean": FIGURES, "masked": {**FIGURES, "mAP": 0.35}},
}  # fmt: skip


def test_card_shows_what_was_measured_and_nothing_else(tmp_path):
    write_card(tmp_path, REPORT, {"loss_weights": [0.3, 0.2, 0.5], "seed": 1})
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.pipeline_tag == "image-classification" and card.data.base_model == "timm/resnet50.a1_in1k"
    results = {(r.dataset_name, r.metric_name): r.metric_value for r in card.data.eval_results}
    assert results["my photographs", "mAP"] == 61.23
    assert results["my photographs, masked images", "mAP"] == 35.0
    assert "| clean | 61.2 | 50.0 |" in card.text and "| masked | 35.0 |" in card.text
    assert "accelerate launch x.py" in card.text and "Masked Supervised Learning" in card.text
    assert "best epoch by mAP on split `val`" in card.text and "10.0" not in card.text


def test_card_without_a_test_split_has_no_results(tmp_path):
    report = {**REPORT, "model": "last", "last": {"epoch": 6.0}, "test_split": None}
    write_card(tmp_path, report, {"loss_weights": [1.0, 0.0, 0.0]})
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.eval_results is None and "no held-out split" in card.text and "plain supervised" in card.text


def test_metadata_survives_the_round_trip(tmp_path):
    """What is written is what huggingface_hub reads, and writes again."""
    write_card(tmp_path, {**REPORT, "license": "mit", "dataset_id": "me/photos"}, {"loss_weights": [0.3, 0.2, 0.5]})
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "mit" and card.data.datasets == ["me/photos"]
    assert "multi-label-image-classification" in card.data.tags
    metrics = card.data.to_dict()["model-index"][0]["results"]
    assert {metric["name"] for result in metrics for metric in result["metrics"]} == set(FIGURES)
    card.save(tmp_path / "again.md")
    assert ModelCard.load(tmp_path / "again.md").data.to_dict() == card.data.to_dict()
    assert is_our_card(tmp_path / "README.md") and not is_our_card(tmp_path / "missing.md")
    (tmp_path / "README.md").write_text("# Somebody else's card")
    assert not is_our_card(tmp_path / "README.md")


def test_figures_that_are_there_are_shown(tmp_path):
    (tmp_path / "robustness.png").touch()
    write_card(tmp_path, REPORT, {"loss_weights": [0.3, 0.2, 0.5]})
    text = (tmp_path / "README.md").read_text()
    assert "](robustness.png)" in text and "per_class.png" not in text and "state a licence" in text


def test_usage_lines_run(tiny_model, tmp_path, monkeypatch, capsys):
    """The code blocks of a card, beside the folder that they name and a photograph."""
    folder = tmp_path / "my-model"
    model = tiny_model()
    model.config.thresholds = [0.01, 0.01, 0.01]
    model.save_pretrained(folder)
    build_processor(None, 32).save_pretrained(folder)
    write_card(folder, REPORT, {"loss_weights": [0.3, 0.2, 0.5]})
    text = (folder / "README.md").read_text()
    Image.fromarray(np.zeros((50, 40, 3), np.uint8)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2 and "one of its own for each class" in text
    for block in blocks:
        exec(block, {})
    printed = capsys.readouterr().out
    assert all(label in printed for label in ("cat", "dog", "fish"))


@pytest.mark.parametrize(("settings", "text"), [
    ({"loss_weights": [1.0, 0.0, 0.0], "mask_augmentation": 0.5}, "masks laid over a share"),
    ({"loss_weights": [1.0, 0.0, 0.0], "mask_augmentation": 0.0}, "without masks"),
])  # fmt: skip
def test_training_is_called_what_it_was(settings, text, tmp_path):
    write_card(tmp_path, REPORT, settings)
    assert text in (tmp_path / "README.md").read_text()
