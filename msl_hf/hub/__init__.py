"""For the Hub and for clusters: plain dictionaries in, files or labels out."""

from .batches import LabelBatches

__all__ = ["LabelBatches"]
