"""Partial inputs: banks of binary masks, and the one function that paints them over a batch of images."""

from .bank import MaskBank
from .counters import counter_generator
from .painting import FILLS, apply_mask

__all__ = ["FILLS", "MaskBank", "apply_mask", "counter_generator"]
