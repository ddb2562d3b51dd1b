"""The one schema of all loaders, reading its images, and turning its labels into targets.

Columns: `image`, `labels` and, where the data set has such, `ignored` (lists of class
indices), `image_id`, `objects` where there are boxes, and `crop` where a sample is a
part of its image.
"""

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import ExifTags, Image, ImageOps

IGNORED = -100.0  # target of an entry that counts neither as positive nor as negative


class DataError(ValueError):
    """Something is wrong with the user's data; the message names the file or value and the way out."""


def make_features(class_names: Sequence[str], ignored: bool = False, objects: bool = False, crop: bool = False):
    """`datasets.Features` of the schema; what a data set does not know about an object (`truncated`, ...) is None."""
    from datasets import ClassLabel, Features, List, Value
    from datasets import Image as ImageFeature

    label = ClassLabel(names=list(class_names))
    columns = {"image": ImageFeature(), "labels": List(label), "image_id": Value("string")}
    if ignored:
        columns["ignored"] = List(label)
    if objects:
        columns["objects"] = {
            "label": List(label),
            "bbox": List(List(Value("float32"), length=4)),
            "area": List(Value("float32")),
            "truncated": List(Value("bool")),
            "difficult": List(Value("bool")),
            "crowd": List(Value("bool")),
            "visible": List(Value("float32")),
        }
    if crop:
        columns["crop"] = List(Value("float32"), length=4)
    return Features(columns)


def class_names_of(dataset) -> list[str]:
    """The class names of a `datasets.Dataset` of the schema, in the order of their indices."""
    return list(dataset.features["labels"].feature.names)


def column(dataset, name: str) -> list:
    """The values of one column of a `datasets.Dataset`; unlike `dataset[:][name]` it decodes no image."""
    return dataset.with_format(None)[name][:]


def undecoded(dataset):
    """The data set or stream with `image` as {"path", "bytes"}: read with `read_image`, whose errors name the file."""
    from datasets import Image as ImageFeature

    return dataset.with_format(None).cast_column("image", ImageFeature(decode=False))


def read_json_lists(file: Path, *keys: str) -> dict:
    """An annotation file: a JSON object that holds a list under each of the keys."""
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{file}: is not valid JSON ({error})") from error
    for key in keys:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{file}: has no list {key!r}")
    return content


def path_inside(folder: Path, name: str, where: str) -> Path:
    """`folder / name`, for a name that stays within the folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"{where}: file_name {name!r} leads out of the folder")
    if "\0" in name:
        raise DataError(f"{where}: file_name {name!r} holds a zero byte")
    return folder / name


def read_record(record, where: str, read: Callable):
    """`read(record)`; what it lacks, or holds of the wrong kind, is an error that says where."""
    try:
        return read(record)
    except KeyError as error:
        raise DataError(f"{where}: has no {error}") from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{where}: cannot be used ({error})") from error


def image_name(row: Mapping) -> str:
    """How to call an image in a message: its path, else its id."""
    return str(row["image"].get("path") or row.get("image_id") or "an image")


def read_image(row: Mapping, least_size: tuple[int, int] | None = None) -> Image.Image:
    """Decode the image of a row to upright RGB, and cut out what `crop` says, where the row has one.

    Args:
        row: Of an `undecoded` data set: `image` is a dictionary with `bytes` or `path`.
        least_size: (width, height) in pixels: a JPEG of two, four or eight times this size is decoded at a half, a
            quarter or an eighth of its own, which is several times as fast.

    Raises:
        DataError: naming the file that is missing or cannot be decoded.
    """
    source = row["image"].get("bytes")
    try:
        with Image.open(io.BytesIO(source) if source is not None else row["image"]["path"]) as image:
            if least_size is not None and row.get("crop") is None:
                image.draft("RGB", least_size)
            image = ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError as error:
        raise DataError(f"{image_name(row)}: no such image file") from error
    except Exception as error:  # Pillow raises half a dozen types for broken files
        raise DataError(f"{image_name(row)}: cannot be decoded ({error})") from error
    if row.get("crop") is None:
        return image
    try:
        return crop_box(image, row["crop"])
    except ValueError as error:
        raise DataError(f"{image_name(row)}: {error}") from error


def image_size(row: Mapping) -> tuple[int, int]:
    """(width, height) of the upright image of an `undecoded` row, from its header alone."""
    source = row["image"].get("bytes")
    with Image.open(io.BytesIO(source) if source is not None else row["image"]["path"]) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return image.size[::-1] if turned else image.size


def crop_box(image: Image.Image, bbox: Sequence[float]) -> Image.Image:
    """The part of an image within [x, y, w, h] pixels; what of the box lies outside the image is left out."""
    left, top = max(round(bbox[0]), 0), max(round(bbox[1]), 0)
    right, bottom = min(round(bbox[0] + bbox[2]), image.width), min(round(bbox[1] + bbox[3]), image.height)
    if right <= left or bottom <= top:
        size = f"{image.width} x {image.height}"
        raise ValueError(f"the box {[round(side) for side in bbox]} has no part inside the {size} image")
    return image.crop((left, top, right, bottom))


def check_images(dataset, drop: bool = False, progress: bool = True):
    """Decode every image once and report all that are missing or broken, before any training starts.

    Args:
        dataset: A `datasets.Dataset` of the schema.
        drop: Return the data set without them instead of raising.
        progress: Show a progress bar.

    Returns:
        The data set (without the broken images, if any), and the list of messages about those left out.

    Raises:
        DataError: listing all of them, unless `drop`.
    """
    from tqdm.auto import tqdm

    used = [name for name in ("image", "image_id", "crop") if name in dataset.features]
    images = undecoded(dataset).select_columns(used)

    def check(index: int) -> str | None:
        try:
            read_image(images[index], least_size=(1, 1))
        except DataError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(check, range(len(dataset)))
        bar = tqdm(results, total=len(dataset), desc="Checking images", disable=not progress, leave=False)
        messages = dict(enumerate(bar))
    broken = {index: message for index, message in messages.items() if message is not None}
    if not broken:
        return dataset, []
    if not drop:
        lines = "\n  ".join(broken.values())
        raise DataError(f"{len(broken)} of {len(dataset)} images cannot be used:\n  {lines}\n"
                        "Repair or remove them, or pass --drop_bad_images to leave them out")  # fmt: skip
    kept = [index for index in range(len(dataset)) if index not in broken]
    return dataset.select(kept), list(broken.values())


def make_targets(rows: Sequence[Mapping], num_labels: int, ignored_as: str) -> torch.Tensor:
    """`labels` and, where there is one, `ignored` of every row -> (N, C) multi-hot targets.

    Args:
        rows: N mappings with lists of class indices.
        num_labels: C.
        ignored_as: `"negative"` (0) or `"ignore"` (-100).
    """
    targets = torch.zeros(len(rows), num_labels)
    for target, row in zip(targets, rows, strict=True):
        if ignored_as == "ignore":
            target[list(row.get("ignored") or [])] = IGNORED
        target[list(row["labels"])] = 1.0
    return targets


class MultiLabelCollator:
    """Items with label lists -> a batch with multi-hot targets.

    Args:
        num_labels: C.
        ignored_as: What an ignored label becomes: `"negative"` (0; how the reference trains) or `"ignore"` (-100; how
            everyone evaluates).

    Examples:
        >>> item = {"pixel_values": torch.zeros(3, 4, 4), "labels": [1], "ignored": [2]}
        >>> MultiLabelCollator(3, ignored_as="ignore")([item])["labels"]
        tensor([[   0.,    1., -100.]])
    """

    def __init__(self, num_labels: int, ignored_as: str = "negative"):
        if ignored_as not in ("negative", "ignore"):
            raise ValueError(f"ignored_as must be 'negative' or 'ignore', got {ignored_as!r}")
        self.num_labels, self.ignored_as = num_labels, ignored_as

    def __call__(self, items: Sequence[Mapping]) -> dict[str, torch.Tensor | list[str]]:
        """Returns `pixel_values` (B, 3, H, W) float, `labels` (B, C) float and, where items have them, `image_ids`."""
        targets = make_targets(items, self.num_labels, self.ignored_as)
        batch = {"pixel_values": torch.stack([item["pixel_values"] for item in items]), "labels": targets}
        if all(item.get("image_id") is not None for item in items):
            batch["image_ids"] = [item["image_id"] for item in items]
        return batch
