"""The public names, parameters, defaults and flags that other people's code relies on."""

import inspect
from dataclasses import fields

import numpy as np
import pytest
import torch

import msl_hf
import msl_hf.data
from msl_hf import MaskBank, MSLForImageClassification, MSLLoss, MSLTrainer, MSLTrainingArguments, multilabel_metrics
from msl_hf.model.heads_msl import CSRAHead
from msl_hf.runs.arguments import DataArguments, MaskArguments, ModelArguments, RunArguments
from msl_hf.runs.evaluate import EvaluateArguments
from msl_hf.runs.export import ExportArguments
from msl_hf.runs.predict import PredictArguments
from msl_hf.studies.ablate import AblateArguments
from msl_hf.studies.benchmark import BenchmarkArguments

REQUIRED = inspect.Parameter.empty
CALLS = {
    msl_hf.data.load_voc: {"root": REQUIRED, "year": 2007},
    msl_hf.data.load_coco: {"root": REQUIRED, "year": 2014},
    msl_hf.data.load_wider: {"root": REQUIRED},
    msl_hf.data.load_image_folder: {"path": REQUIRED},
    msl_hf.data.make_scenes: {"path": REQUIRED},
    MSLForImageClassification.from_backbone: {
        "backbone": REQUIRED, "label_names": REQUIRED, "head": "csra", "num_heads": 1, "csra_lambda": 0.1,
        "image_size": None,
    },
    MSLForImageClassification.forward: {"self": REQUIRED, "pixel_values": REQUIRED, "labels": None, "keep": None},
    MSLForImageClassification.score_maps: {"self": REQUIRED, "pixel_values": REQUIRED},
    MaskBank.generate: {"count": REQUIRED, "hole_ratio": (0.5, 0.6), "seed": 0},
    MaskBank.from_folder: {"path": REQUIRED, "hole": REQUIRED, "hole_ratio": None},
    MaskBank.patches: {"ratio": 0.75, "patch": 16},
    MaskBank.split: {"self": REQUIRED, "fraction": 0.5},
    MaskBank.sample: {"self": REQUIRED, "batch_size": REQUIRED, "size": REQUIRED, "device": "cpu", "generator": None},
    msl_hf.apply_mask: {
        "pixel_values": REQUIRED, "keep": REQUIRED, "image_mean": None, "image_std": None, "fill": "black",
        "keep_value": 1.0,
    },
    CSRAHead.__init__: {
        "self": REQUIRED, "in_features": REQUIRED, "num_labels": REQUIRED, "num_heads": 1, "csra_lambda": 0.1,
    },
    MSLLoss.__init__: {"self": REQUIRED, "weights": (0.3, 0.2, 0.5)},
    MSLLoss.forward: {"self": REQUIRED, "logits": REQUIRED, "masked_logits": REQUIRED, "labels": REQUIRED},
    multilabel_metrics: {"scores": REQUIRED, "targets": REQUIRED, "threshold": 0.5},
    MSLTrainer.__init__: {"self": REQUIRED, "model": None, "args": None, "masks": None},
}  # fmt: skip
FLAGS = {
    "data_dir": DataArguments, "train_split": DataArguments, "selection_split": DataArguments,
    "max_train_samples": DataArguments, "max_eval_samples": DataArguments, "backbone": ModelArguments,
    "model": ModelArguments, "image_size": ModelArguments, "head": ModelArguments, "num_heads": ModelArguments,
    "csra_lambda": ModelArguments, "masks": MaskArguments, "mask_hole": MaskArguments, "hole_ratio": MaskArguments,
    "cpu_threads": RunArguments, "loss_weights": MSLTrainingArguments, "output_dir": MSLTrainingArguments,
    "seed": MSLTrainingArguments, "resume_from_checkpoint": MSLTrainingArguments,
}  # fmt: skip
TOOLS = {
    EvaluateArguments: {
        "model",
        "data_dir",
        "dataset",
        "split",
        "masks",
        "hole_ratio",
        "output_dir",
        "seed",
        "views",
        "tune_views",
        "view_cost",
        "occluders",
        "covered",
    },
    PredictArguments: {"model", "images", "output", "views", "boxes"},
    ExportArguments: {"model", "format", "output_dir"},
    BenchmarkArguments: {"quick", "output", "seed"},
    AblateArguments: {"grid", "output_dir", "seeds"},
}


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__qualname__)
def test_parameters_and_defaults(call):
    """These first and in this order, so that calls by position go on working; what was added comes after them."""
    expected = CALLS[call]
    parameters = list(inspect.signature(call).parameters.values())[: len(expected)]
    assert {parameter.name: parameter.default for parameter in parameters} == expected
    assert [parameter.name for parameter in parameters] == list(expected)


@pytest.mark.parametrize("flag", FLAGS)
def test_flags_of_training(flag):
    assert flag in {field.name for field in fields(FLAGS[flag])}


@pytest.mark.parametrize("arguments", TOOLS, ids=lambda arguments: arguments.__name__)
def test_flags_of_the_other_recipes(arguments):
    assert {field.name for field in fields(arguments)} >= TOOLS[arguments]


def test_trainer_takes_what_a_trainer_takes():
    taken = inspect.signature(MSLTrainer.__init__).parameters
    assert "processing_class" in taken and taken["kwargs"].kind is inspect.Parameter.VAR_KEYWORD
    assert MSLTrainingArguments("unused", use_cpu=True).loss_weights == [0.6, 0.4, 0.0]


def test_shapes_types_and_keys(tiny_model):
    model = tiny_model().eval()
    images, labels = torch.randn(2, 3, 32, 32), torch.eye(3)[:2]
    bank = MaskBank.generate(4, hole_ratio=(0.5, 0.6), seed=0)
    assert bank.hole_ratios.shape == (4,) and 0.5 <= bank.hole_ratios.min() <= bank.hole_ratios.max() <= 0.6
    train, test = bank.split(0.5)
    assert len(train) == len(test) == 2
    keep = bank.sample(2, (32, 32), device="cpu", generator=torch.Generator().manual_seed(0))
    assert keep.shape == (2, 1, 32, 32) and keep.dtype == torch.bool
    masked = msl_hf.apply_mask(images, keep, [0.5] * 3, [0.5] * 3)
    assert torch.equal(masked[keep.expand_as(images)], images[keep.expand_as(images)])  # True keeps
    outputs = model(images, labels=labels, keep=keep)
    assert outputs.logits.shape == (2, 3) and outputs.loss.ndim == 0
    assert model.score_maps(images).shape[:2] == (2, 3)
    assert set(MSLLoss()(outputs.logits, outputs.logits, labels)) == {"loss", "recognition", "masked", "consistency"}
    assert CSRAHead(16, 3)(torch.randn(2, 49, 16)).shape == (2, 3)
    metrics = multilabel_metrics(np.array([[0.9, 0.2], [0.1, 0.6]]), np.eye(2))
    assert metrics == dict.fromkeys(("mAP", "CP", "CR", "CF1", "OP", "OR", "OF1"), 1.0)


def test_schema_and_splits(scenes):
    datasets = msl_hf.data.load_voc(scenes)
    assert list(datasets) == ["trainval", "train", "val", "test"]
    assert set(datasets["train"].features) >= {"image", "labels", "ignored", "objects", "image_id"}
    assert set(datasets["train"][0]["objects"]) >= {"label", "bbox", "area", "truncated"}
