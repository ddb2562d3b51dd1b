"""labelme: a JSON file beside each image, with flags and shapes -> the schema."""

import base64
import binascii
import math
import os
from pathlib import Path

from transformers.utils import logging

from ..files import by_folders, image_endings, json_holds, read_json, read_record, unlisted_images, walk
from ..image_finder import ImageFinder
from ..schema import DataError
from .samples import Sample, class_names_of_samples, to_datasets

logger = logging.get_logger(__name__)


def read_labelme(path: str | os.PathLike, keep_unlabelled: bool | None = None):
    """Read images that were labelled with labelme.

    A flag that is set, and a shape, give a label; shapes give boxes, too. The image is the one that the JSON file
    names, or that of its own name, or the one that it holds.

    Args:
        path: The folder, or one with a folder for each split.
        keep_unlabelled: Keep images without a JSON file, as images without labels; otherwise they are left out and
            counted.

    Returns:
        `datasets.DatasetDict` of the schema; `objects.bbox` is [x, y, w, h] in pixels.

    Raises:
        DataError: naming the file and the shape at fault.
    """
    root = Path(path)
    files = annotation_files(root)
    if not files:
        raise DataError(f"{root}: holds no JSON files of labelme")
    finder, num_bad, samples = ImageFinder(root), 0, []
    for file in files:
        sample, bad = read_record(read_json(file), str(file), lambda content, f=file: _read_file(content, f, finder))
        samples.append(sample)
        num_bad += bad
    if num_bad:
        logger.warning(f"{root}: {num_bad} shapes are points or lines; they give labels but no objects")
    annotated = {sample.image for sample in samples if isinstance(sample.image, str)}
    rest = unlisted_images(root, annotated, "JSON file", bool(keep_unlabelled))
    if keep_unlabelled:
        samples += [Sample(str(image), image.relative_to(root).as_posix(), str(image)) for image in rest]
    splits: dict[str, list[Sample]] = {}
    for sample, split in zip(samples, by_folders([sample.where for sample in samples], root, root), strict=True):
        splits.setdefault(split or "train", []).append(sample)
    return to_datasets(splits, class_names_of_samples(root, splits, are_names=True))


def annotation_files(root: Path) -> list[Path]:
    """The JSON files of labelme below a folder."""
    return [file for file in walk(root) if file.suffix.lower() == ".json" and json_holds(file, b"{", "shapes")]


def _read_file(content: dict, file: Path, finder: ImageFinder) -> tuple[Sample, int]:
    """A sample, and the number of shapes without an area."""
    sample = Sample(_image(content, file, finder), file.stem, str(file))
    sample.labels = [str(name) for name, is_set in (content.get("flags") or {}).items() if is_set]
    num_bad = 0
    for number, shape in enumerate(content["shapes"]):
        label, box = read_record(shape, f"{file}: shapes[{number}]", _read_shape)
        sample.labels.append(label)
        if box is None:
            num_bad += 1
        else:
            sample.objects.append({"label": label, "bbox": box})
    return sample, num_bad


def _read_shape(shape: dict) -> tuple[str, list[float] | None]:
    points = [(float(x), float(y)) for x, y in shape["points"]]
    if not str(shape["label"]).strip():
        raise ValueError("its label is empty")
    if shape.get("shape_type") == "circle" and len(points) == 2:
        (x, y), radius = points[0], math.dist(*points)
        points = [(x - radius, y - radius), (x + radius, y + radius)]
    xs, ys = zip(*points, strict=True)
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    return str(shape["label"]), None if shape.get("shape_type") in ("point", "line", "linestrip") else box


def _image(content: dict, file: Path, finder: ImageFinder) -> str | dict:
    """The image beside the JSON file, by the name in it or its own, else what the file holds."""
    written = str(content.get("imagePath") or "").replace("\\", "/")
    name = written.rsplit("/", 1)[-1]
    beside = [Path(os.path.normpath(file.parent / written)), file.parent / name] if name and "\0" not in name else []
    beside = [path for path in beside if path.is_relative_to(finder.root)]  # labelme itself writes `..`
    beside += [file.with_suffix(ending) for ending in sorted(image_endings())]
    for candidate in beside:
        if os.path.isfile(candidate):
            return str(candidate)
    found = (name and finder.find(name, str(file))) or finder.find(file.stem, str(file))
    if found:
        return str(found)
    if not content.get("imageData"):
        return str(file.parent / (name or file.stem))  # the check of all images names it
    try:
        return {"bytes": base64.b64decode(content["imageData"], validate=True), "path": name or file.stem}
    except (binascii.Error, TypeError, ValueError) as error:
        raise DataError(f"{file}: imageData cannot be decoded ({error})") from error
