"""Files on disk or on the Hub -> one schema -> batches."""

from .coco import load_coco
from .folder import load_image_folder
from .scenes import make_scenes
from .schema import MultiLabelCollator, check_images
from .transforms import ImageDataset, build_processor
from .voc import load_voc
from .wider import load_wider

__all__ = [
    "ImageDataset",
    "MultiLabelCollator",
    "build_processor",
    "check_images",
    "load_coco",
    "load_image_folder",
    "load_voc",
    "load_wider",
    "make_scenes",
]
