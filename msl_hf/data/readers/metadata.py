"""Tables with a column of labels (`metadata.jsonl`, `metadata.csv`): a row an image, or a row a label."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from transformers.utils import logging

from ..files import listed, read_record
from ..label_states import StateColumns, is_multi_hot
from ..label_text import LabelText
from ..schema import DataError
from .class_folders import lines_for_class_folders
from .rows import image_rows
from .samples import Sample, class_names_of_samples, to_datasets
from .tables import (
    KNOWN_COLUMNS,
    LABEL_COLUMNS,
    METADATA_FILES,
    Table,
    column_named,
    find_tables,
    read_tables,
    two_valued_columns,
)

logger = logging.get_logger(__name__)


def read_metadata(
    path: str | os.PathLike,
    label_column: str | None = None,
    label_separator: str | None = None,
    class_names: Sequence[str] | None = None,
):
    """Read images with lists of labels.

    One folder for each split (`train`, `validation`, `test`, ...), each with a `metadata.jsonl` of lines
    `{"file_name": "a.jpg", "labels": ["cat", "dog"]}` or a `metadata.csv` with the columns `file_name` and `labels`;
    or one such file in the root, whose images lie in folders of splits, or are all of split `train`. `ignored` lists
    classes of which nothing is known in an image, `annotated` those that were looked for, where others were not.

    Class names are those of `class_names`, else of `classes.json` or `classes.txt` in the root (which also allows
    labels to be indices), else the sorted names over all splits.

    Args:
        path: The folder, or a single table.
        label_column: Column of the labels; None looks for `labels`, `label`, `classes`, `class` and `tags`.
        label_separator: What separates labels written as text; None finds out (see `LabelText`).
        class_names: The class names in order; overrides every other class list.

    Returns:
        `datasets.DatasetDict` of the schema.

    Raises:
        DataError: naming the file and line at fault.
    """
    path = Path(path)
    root = path if path.is_dir() else path.parent
    splits: dict[str, list[Sample]] = {}
    for table in read_tables(path, [label_column] if label_column else ()):
        for split, sample in _read_table(table, root, label_column, label_separator):
            splits.setdefault(split, []).append(sample)
    if not splits:
        if find_tables(path):
            raise DataError(f"{path}: its table lists no images")
        raise DataError(f"{path}: neither it nor a folder in it holds {' or '.join(METADATA_FILES)}"
                        + lines_for_class_folders(path))  # fmt: skip
    class_names = class_names or class_names_of_samples(root, splits)
    _read_multi_hot(splits, class_names)
    return to_datasets(splits, class_names)


def _read_multi_hot(splits: Mapping[str, list[Sample]], class_names: Sequence[str]) -> None:
    """Turn labels that are a number for each class into names, where all of them are."""
    members = [sample for members in splits.values() for sample in members]
    samples = [sample for sample in members if sample.labels or sample.annotated != []]  # but those with null
    if not is_multi_hot([(sample.where, sample.labels) for sample in samples], len(class_names)):
        return
    states = StateColumns(class_names, (value for sample in samples for value in sample.labels), samples[0].where)
    for sample in samples:
        row = dict(zip(class_names, sample.labels, strict=True))
        sample.labels, unknown = states(row, sample.where)
        sample.ignored = [*sample.ignored, *unknown]


def _read_table(
    table: Table, root: Path, label_column: str | None, separator: str | None
) -> Iterable[tuple[str, Sample]]:
    column = label_column or table.label_column or LABEL_COLUMNS[0]
    images = list(image_rows(table, root))
    known = {name: column_named(table.columns, (name,)) for name in KNOWN_COLUMNS}
    text = _learn_text(table, [column, *filter(None, known.values())], separator)
    _name_other_columns(table, column)
    samples: dict[Path, tuple[str, Sample]] = {}
    single: set[Path] = set()  # images with a row for each label
    for image in images:
        sample = Sample(str(image.path), f"{image.folder}/{image.name}", image.where)
        if column == "objects":
            sample.objects = read_record(image.row, image.where, _objects)
            sample.labels = [item["label"] for item in sample.objects]
            sample.objects = [item for item in sample.objects if item["bbox"] is not None]
        elif column.split(".")[0] not in image.row:
            raise DataError(f"{image.where}: has no {column}; an image without labels needs an empty list")
        else:
            sample.labels = _labels(_inner(image.row, column, image.where), text)
        sample.ignored = _labels(image.row.get(known["ignored"]), text) or []
        sample.annotated = _labels(image.row.get(known["annotated"]), text) if known["annotated"] else None
        if sample.labels is None:  # null: nothing is known of the image
            sample.labels, sample.annotated = [], []
        of_one_label = table.file.suffix == ".csv" and len(sample.labels) == 1
        if image.path not in samples:
            samples[image.path] = image.split, sample
            single.update([image.path] if of_one_label else [])
        elif of_one_label and image.path in single:
            samples[image.path][1].labels += sample.labels
            samples[image.path][1].ignored += sample.ignored
        else:
            earlier = samples[image.path][1].where
            raise DataError(f"{image.where}: {image.name} has been listed already, at {earlier}")
    if len(samples) < len(images):
        logger.warning(f"{table.file}: has a row for each label; {len(images)} rows are {len(samples)} images")
    return samples.values()


def _labels(value, text: LabelText):
    """Labels as they are written: text, one index, or a list."""
    if isinstance(value, str):
        return text(value)
    return [value] if type(value) is int else value


def _inner(row: Mapping, column: str, where: str):
    """The value of a column, with dots for what lies within."""
    for name in column.split("."):
        row = read_record(row, where, lambda value, name=name: value[name])
    return row


def _objects(row: Mapping) -> list[dict]:
    """Boxes as data sets of the Hub write them: `{"bbox": [[x, y, w, h], ...], "categories": [...]}`."""
    objects = row.get("objects") or {}
    labels = next((objects[name] for name in ("categories", "category", "labels", "label") if name in objects), [])
    boxes = objects.get("bbox") or [None] * len(labels)
    if len(boxes) != len(labels):
        raise ValueError(f"{len(boxes)} boxes for {len(labels)} categories")
    boxes = [None if box is None else [float(side) for side in box] for box in boxes]
    return [{"label": label, "bbox": box} for label, box in zip(labels, boxes, strict=True)]


def _learn_text(table: Table, columns: Sequence[str], separator: str | None) -> LabelText:
    cells = (row.get(name) for _, row in table.rows for name in columns)
    texts = [cell for cell in cells if isinstance(cell, str)]
    return LabelText(texts, f"{table.file}, column {columns[0]!r}", separator)


def _name_other_columns(table: Table, column: str) -> None:
    """Say which columns look like labels, too, and are not read."""
    found = [name for name in table.columns if name != column and name.casefold() in LABEL_COLUMNS]
    found += [name for name in two_valued_columns(table)[0] if name not in (*found, column)]
    if found:
        logger.warning(f"{table.file}: labels are those of the column {column!r}; not read: {listed(found)} "
                       "(--label_column and --label_columns say otherwise)")  # fmt: skip
