from huggingface_hub import ModelCard

from msl_hf.hub.card import write_card

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
