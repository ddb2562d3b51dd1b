"""Evaluation: metrics, and the same under masked inputs."""

from .metrics import multilabel_metrics
from .robustness import MaskedDataset

__all__ = ["MaskedDataset", "multilabel_metrics"]
