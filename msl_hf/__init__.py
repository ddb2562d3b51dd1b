"""Masked Supervised Learning for multi-label image classification with Hugging Face."""

# isort: off
from .cores import share_cores

SHARES_CORES = share_cores()  # before torch is imported
# isort: on

from .evaluation.metrics import multilabel_metrics  # noqa: E402
from .masks import MaskBank, apply_mask  # noqa: E402
from .model import MSLConfig, MSLForImageClassification  # noqa: E402
from .training import MSLLoss, MSLTrainer, MSLTrainingArguments  # noqa: E402

__version__ = "0.2.0"

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
