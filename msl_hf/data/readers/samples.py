"""What every reader makes of its files: samples, which become a `DatasetDict` of the schema."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers.utils import logging

from ..files import is_utf8, printable
from ..labels import class_file, read_class_names, sorted_names, to_indices
from ..schema import DataError, make_features

logger = logging.get_logger(__name__)

LARGEST_SIDE = 1e9  # pixels; NaN is no number below it, either
PROPERTIES = ("area", "truncated", "difficult", "crowd", "visible")  # of an object, None where they are not known


@dataclass
class Sample:
    """One image.

    Args:
        image: Its path, or `{"bytes": ..., "path": name}`.
        image_id: Within its split.
        where: Where it is annotated, for messages.
        labels: Names or indices of the classes that it shows.
        ignored: Of those of which nothing is known.
        annotated: Instead of `ignored`: all classes of which something is known; None for every class.
        objects: `{"label": name or index, "bbox": [x, y, w, h] in pixels}` and what of PROPERTIES is known.
    """

    image: str | dict
    image_id: str
    where: str
    labels: list = field(default_factory=list)
    ignored: list = field(default_factory=list)
    annotated: list | None = None
    objects: list[dict] = field(default_factory=list)


def class_names_of_samples(root: Path, splits: Mapping[str, Sequence[Sample]], are_names: bool = False) -> list[str]:
    """The class list in the root of the data, else the sorted names of all splits.

    Args:
        root: May hold `classes.json` or `classes.txt`.
        splits: The samples.
        are_names: Whether digits are names, too, as in formats that write nothing else.
    """
    file = class_file(root)
    if file is not None:
        return read_class_names(file)
    rows = ((sample.where, labels) for samples in splits.values() for sample in samples
            for labels in (sample.labels, sample.ignored, sample.annotated or []))  # fmt: skip
    names = sorted_names(rows, are_names)
    if not names:
        raise DataError(f"{root}: no image has a label, so there are no class names; add {root / 'classes.json'}")
    return names


def to_datasets(splits: Mapping[str, Sequence[Sample]], class_names: Sequence[str]):
    """Samples of each split -> `DatasetDict`, with the columns `ignored` and `objects` where any sample has such.

    Boxes that cover nothing are left out, and their number is logged.

    Raises:
        DataError: for a label that is none of the classes, or both present and unknown, and an image listed twice.
    """
    from datasets import Dataset, DatasetDict

    positions = {name: index for index, name in enumerate(class_names)}
    samples = [sample for split in splits.values() for sample in split]
    has_ignored = any(sample.ignored or sample.annotated is not None for sample in samples)
    has_objects = any(sample.objects for sample in samples)
    features = make_features(class_names, ignored=has_ignored, objects=has_objects)
    result, num_empty = DatasetDict(), 0
    for split, members in splits.items():
        _refuse_repetition(members)
        columns: dict[str, list] = {name: [] for name in features}
        for sample in members:
            labels, ignored = known_and_unknown(
                sample.labels, sample.ignored, sample.annotated, positions, sample.where
            )
            columns["image"].append(sample.image)
            columns["image_id"].append(sample.image_id)
            columns["labels"].append(labels)
            if has_ignored:
                columns["ignored"].append(ignored)
            if has_objects:
                boxes = [item for item in sample.objects if is_box(item["bbox"])]
                num_empty += len(sample.objects) - len(boxes)
                columns["objects"].append(_object_columns(boxes, positions, sample.where))
        result[split] = Dataset.from_dict(columns, features=features)
    if num_empty:
        logger.warning(f"{num_empty} boxes are empty, or no boxes at all; they give labels but no objects")
    return result


def is_box(bbox: Sequence[float]) -> bool:
    """Whether [x, y, w, h] are numbers of pixels, which cover an area."""
    return len(bbox) == 4 and all(abs(side) < LARGEST_SIDE for side in bbox) and bbox[2] > 0 and bbox[3] > 0


def known_and_unknown(
    labels: list, ignored: list, annotated: list | None, positions: Mapping[str, int], where: str
) -> tuple[list[int], list[int]]:
    """Indices of the classes that an image shows, and of those of which nothing is known.

    Args:
        labels: What it shows.
        ignored: What is not known.
        annotated: Where not None, what was looked for: all else is not known, either.
        positions: Class name -> index.
        where: For messages.
    """
    shown, unknown = to_indices(labels, positions, where), set(to_indices(ignored, positions, where))
    both = sorted(unknown & set(shown))
    if both:
        name = list(positions)[both[0]]
        raise DataError(f"{where}: {name!r} is listed among the labels and among the unknown ones")
    if annotated is not None:
        unknown |= set(positions.values()) - set(to_indices(annotated, positions, where)) - set(shown)
    return shown, sorted(unknown)


def _refuse_repetition(samples: Sequence[Sample]) -> None:
    seen: dict[str, str] = {}
    for sample in samples:
        if isinstance(sample.image, str):
            if not is_utf8(sample.image):
                raise DataError(f"{printable(sample.image)}: its name is not UTF-8, as data sets need; rename it")
            if sample.image in seen:
                raise DataError(f"{sample.where}: {sample.image} has been listed already, at {seen[sample.image]}")
            seen[sample.image] = sample.where


def _object_columns(objects: Sequence[dict], positions: Mapping[str, int], where: str) -> dict[str, list]:
    columns: dict[str, list] = {name: [] for name in ("label", "bbox", *PROPERTIES)}
    for item in objects:
        columns["label"].extend(to_indices([item["label"]], positions, where))
        columns["bbox"].append(item["bbox"])
        area = item.get("area")
        columns["area"].append(item["bbox"][2] * item["bbox"][3] if area is None else area)
        for name in PROPERTIES[1:]:
            columns[name].append(item.get(name))
    return columns
