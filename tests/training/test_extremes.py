"""Batches, classes and images at the edge of what can occur: finite losses, finite gradients, or a clear error."""

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from tiny import BACKBONES

from msl_hf import MaskBank, MSLTrainer, MSLTrainingArguments
from msl_hf.data import ImageDataset, MultiLabelCollator, build_processor
from msl_hf.evaluation.metrics import metrics_from_logits
from msl_hf.model.configuration_msl import HEADS


def train(model, images: torch.Tensor, labels: torch.Tensor, folder, **arguments) -> MSLTrainer:
    """Two steps on all of the images at once; the weights and every logged figure have to stay finite."""
    data = [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]
    args = MSLTrainingArguments(
        str(folder), use_cpu=True, disable_tqdm=True, save_strategy="no", max_steps=2, logging_steps=1,
        per_device_train_batch_size=len(data), mask_fill="zero", report_to="none", **arguments,
    )  # fmt: skip
    trainer = MSLTrainer(
        model, args, MaskBank.patches(), train_dataset=data, eval_dataset=data, compute_metrics=metrics_from_logits
    )
    trainer.train()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    losses = [log for log in trainer.state.log_history if "loss" in log]
    assert len(losses) == 2 and all(0 <= log["loss"] < 100 for log in losses)
    return trainer


@pytest.mark.parametrize("loss", ["bce", "asl", "focal"])
@pytest.mark.parametrize("num_labels", [1, pytest.param(10_000, marks=pytest.mark.slow)])
def test_one_class_and_ten_thousand(num_labels, loss, tiny_model, tmp_path):
    model = tiny_model("timm_resnet", label_names=[str(number) for number in range(num_labels)], num_heads=2)
    labels = (torch.rand(4, num_labels) < 0.5).float()
    labels[0], labels[1] = 0, 1
    trainer = train(model, torch.randn(4, 3, 64, 64), labels, tmp_path, classification_loss=loss)
    assert 0 <= trainer.evaluate()["eval_mAP"] <= 1


@pytest.mark.parametrize("head", HEADS)
def test_any_head_for_one_class(head, tiny_model, tmp_path):
    model = tiny_model("timm_vit", label_names=["cat"], head=head)
    train(model, torch.randn(4, 3, 32, 32), torch.tensor([[0.0], [1], [1], [0]]), tmp_path)
    assert model.eval().score_maps(torch.randn(2, 3, 32, 32)).shape[:2] == (2, 1)


@pytest.mark.parametrize("loss", ["bce", "asl", "focal"])
def test_nothing_positive(loss, tiny_model, tmp_path):
    train(tiny_model(), torch.randn(4, 3, 64, 64), torch.zeros(4, 3), tmp_path, classification_loss=loss)


@pytest.mark.parametrize("mode", ["auto", "sequential"])
def test_everything_ignored_changes_nothing(mode, tiny_model, tmp_path):
    model = tiny_model("timm_vit")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    labels = torch.full((4, 3), -100.0)
    trainer = train(model, torch.randn(4, 3, 32, 32), labels, tmp_path, weight_decay=0.0, masked_forward=mode)
    assert [log["loss"] for log in trainer.state.log_history if "loss" in log] == [0, 0]
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_one_image(tiny_model, tmp_path):
    train(tiny_model("timm_vit"), torch.randn(1, 3, 32, 32), torch.tensor([[1.0, 0, 0]]), tmp_path)
    train(tiny_model("timm_resnet"), torch.randn(1, 3, 64, 64), torch.tensor([[1.0, 0, 0]]), tmp_path)


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_constant_images(backbone, value, tiny_model, tmp_path):
    """Blank photographs among others. (A batch of nothing else is beyond deep networks with batch normalisation, whose
    gradients grow by 1/sqrt(epsilon) in every layer; the trainer's error of non-finite losses ends such a run.)"""
    images = torch.randn(4, 3, 32, 32)
    images[:2] = value
    train(tiny_model(backbone), images, torch.eye(3)[[0, 1, 2, 0]], tmp_path)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 700), (500, 3)])
@pytest.mark.parametrize("augment", [False, True])
def test_photographs_smaller_than_a_patch(augment, size, tmp_path):
    PILImage.new("RGB", size, (200, 10, 10)).save(tmp_path / "small.png")
    features = Features({"image": Image(), "labels": List(ClassLabel(names=["a", "b"])), "image_id": Value("string")})
    rows = {"image": [str(tmp_path / "small.png")], "labels": [[0]], "image_id": ["small"]}
    data = ImageDataset(Dataset.from_dict(rows, features=features), build_processor(None, 32), augment=augment)
    batch = MultiLabelCollator(2)([data[0]])
    assert batch["pixel_values"].shape == (1, 3, 32, 32) and batch["pixel_values"].isfinite().all()
