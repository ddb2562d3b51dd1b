"""Masked Supervised Learning for multi-label image classification with Hugging Face."""

from .evaluation.metrics import multilabel_metrics
from .masks import MaskBank, apply_mask
from .model import MSLConfig, MSLForImageClassification
from .training import MSLLoss, MSLTrainer, MSLTrainingArguments

__version__ = "0.1.0"

__all__ = [
    "MSLConfig",
    "MSLForImageClassification",
    "MSLLoss",
    "MSLTrainer",
    "MSLTrainingArguments",
    "MaskBank",
    "apply_mask",
    "multilabel_metrics",
]
