"""Files on disk or on the Hub -> one schema -> batches."""

from .images import check_images
from .readers import load_image_folder, load_images
from .readers.coco import load_coco
from .readers.voc import load_voc
from .readers.wider import load_wider
from .scenes import make_scenes
from .schema import MultiLabelCollator
from .transforms import ImageDataset, build_processor

__all__ = [
    "ImageDataset",
    "MultiLabelCollator",
    "build_processor",
    "check_images",
    "load_coco",
    "load_image_folder",
    "load_images",
    "load_voc",
    "load_wider",
    "make_scenes",
]
