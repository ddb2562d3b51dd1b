"""Evaluation: metrics, and the same under masked inputs."""

from .metrics import metrics_from_logits, multilabel_metrics
from .robustness import MaskedDataset

__all__ = ["MaskedDataset", "metrics_from_logits", "multilabel_metrics"]
