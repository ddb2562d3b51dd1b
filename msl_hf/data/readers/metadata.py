"""Tables with a column of labels (`metadata.jsonl`, `metadata.csv`): a row an image, or a row a label."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from transformers.utils import logging

from ..labels import LabelText
from ..schema import DataError
from .samples import Sample, class_names_of_samples, to_datasets
from .tables import (
    LABEL_COLUMNS,
    METADATA_FILES,
    Table,
    column_named,
    image_rows,
    lines_for_class_folders,
    read_tables,
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
        raise DataError(f"{path}: neither it nor a folder in it holds {' or '.join(METADATA_FILES)}"
                        + lines_for_class_folders(path))  # fmt: skip
    return to_datasets(splits, class_names or class_names_of_samples(root, splits))


def _read_table(
    table: Table, root: Path, label_column: str | None, separator: str | None
) -> Iterable[tuple[str, Sample]]:
    column = label_column or column_named(table.columns, LABEL_COLUMNS) or LABEL_COLUMNS[0]
    images = list(image_rows(table, root))
    columns = [column, *(name for name in ("ignored", "annotated") if name in table.columns)]
    text = _learn_text(table, columns, separator)
    samples: dict[Path, tuple[str, Sample]] = {}
    single: set[Path] = set()  # images with a row for each label
    repeated = 0
    for image in images:
        if column not in image.row:
            raise DataError(f"{image.where}: has no {column}; an image without labels needs an empty list")
        known = {}
        for name in ("labels", "ignored", "annotated"):
            value = image.row.get(column if name == "labels" else name)
            known[name] = text(value) if isinstance(value, str) else value
        sample = Sample(str(image.path), f"{image.folder}/{image.name}", image.where, known["labels"],
                        known["ignored"] or [], known["annotated"])  # fmt: skip
        of_one_label = table.file.suffix == ".csv" and len(sample.labels) == 1
        if image.path not in samples:
            samples[image.path] = image.split, sample
            single.update([image.path] if of_one_label else [])
        elif of_one_label and image.path in single:
            samples[image.path][1].labels += sample.labels
            repeated += 1
        else:
            earlier = samples[image.path][1].where
            raise DataError(f"{image.where}: {image.name} has been listed already, at {earlier}")
    if repeated:
        logger.warning(f"{table.file}: has a row for each label; {len(images)} rows are {len(samples)} images")
    return samples.values()


def _learn_text(table: Table, columns: Sequence[str], separator: str | None) -> LabelText:
    cells = (row.get(name) for _, row in table.rows for name in columns)
    texts = [cell for cell in cells if isinstance(cell, str)]
    return LabelText(texts, f"{table.file}, column {columns[0]!r}", separator)
