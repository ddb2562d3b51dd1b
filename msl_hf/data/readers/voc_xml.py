"""The XML files of PASCAL VOC, one an image."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

from transformers.utils import logging

from ..files import walk
from ..schema import DataError
from .samples import Sample, is_box

logger = logging.get_logger(__name__)


def annotation_files(root: Path) -> list[Path]:
    """The XML files of VOC below a folder; other XML is left aside."""
    return [file for file in walk(root) if file.suffix.lower() == ".xml" and _is_annotation(file)]


def _is_annotation(file: Path) -> bool:
    with file.open("rb") as stream:
        return re.search(rb"<annotation[\s>]", stream.read(2**12)) is not None


def report_boxes(folder: Path, count: int) -> None:
    """Log how many boxes could not be used."""
    if count:
        logger.warning(f"{folder}: {count} objects have an empty or incomplete box; they give labels but no objects")


def read_annotation(path: Path) -> tuple[str, list[dict], int]:
    """(file name as written, objects, number of those without a box that can be used)."""
    try:
        annotation = ET.parse(path).getroot()
    except (ET.ParseError, ValueError, LookupError) as error:  # malformed, or in an encoding that does not exist
        raise DataError(f"{path}: is not valid XML ({error})") from error
    objects = [_read_object(element, path) for element in annotation.iter("object")]
    filename = (annotation.findtext("filename") or "").strip().replace("\\", "/").rsplit("/", 1)[-1]
    return filename, objects, sum("bbox" not in item for item in objects)


def _read_object(element: ET.Element, path: Path) -> dict:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise DataError(f"{path}: an object has no name")
    found = {
        "label": name,
        "truncated": (element.findtext("truncated") or "0").strip() == "1",
        "difficult": (element.findtext("difficult") or "0").strip() == "1",
        "crowd": False,
    }
    try:
        box = element.find("bndbox")
        xmin, ymin, xmax, ymax = (float(box.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax"))
        visible = element.findtext("visible")
        found["visible"] = None if visible is None else float(visible)
    except (AttributeError, TypeError, ValueError):
        return found
    bbox = [xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1]
    if is_box(bbox):
        found["bbox"] = bbox
    return found


def image_root(folder: Path) -> Path:
    """The folder of the images: beside it there may be others of segmentations, with the same names."""
    return next((place for name in ("JPEGImages", "images") if (place := folder / name).is_dir()), folder)


def annotated_sample(image: str, image_id: str, where: str, objects: list[dict]) -> Sample:
    """Objects give labels; a class with difficult ones alone is ignored."""
    labels = list(dict.fromkeys(item["label"] for item in objects if not item["difficult"]))
    ignored = [name for name in dict.fromkeys(item["label"] for item in objects) if name not in labels]
    return Sample(image, image_id, where, labels, ignored, objects=[item for item in objects if "bbox" in item])
