"""Tables with a column for each class: Roboflow's `_classes.csv`, Kaggle, CheXpert, CelebA, a wide `metadata.csv`."""

import os
from collections.abc import Sequence
from pathlib import Path

from transformers.utils import logging

from ..files import listed
from ..label_states import StateColumns
from ..label_text import LabelText
from ..schema import DataError
from .rows import image_rows
from .samples import Sample, to_datasets
from .tables import Table, column_named, read_tables, state_columns

logger = logging.get_logger(__name__)


def read_columns(
    path: str | os.PathLike, label_columns: Sequence[str] | None = None, class_names: Sequence[str] | None = None
):
    """Read tables whose cells say 1 (present), 0 (absent), or nothing: blank, null, NaN and -1 are unknown.

    A column `ignored` lists further unknown ones. Where a table holds 1 and -1 and no 0, -1 is absent (CelebA). An
    image may be written without its folder or ending. Tables are found as for `read_metadata`; CelebA's
    `list_attr_celeba` takes its splits from `list_eval_partition`.

    Args:
        path: The folder, or a single table.
        label_columns: The columns of the classes, in order; None takes all that hold nothing else.
        class_names: Some of the columns, in order; as `label_columns`.

    Returns:
        `datasets.DatasetDict` of the schema.

    Raises:
        DataError: naming the file, row and column at fault.
    """
    path = Path(path)
    root = path if path.is_dir() else path.parent
    tables = [table for table in read_tables(path, label_columns or ()) if table.rows]
    if not tables:
        raise DataError(f"{path}: holds no table of images")
    names = list(label_columns or class_names or _class_columns(tables))
    if class_names and not label_columns:
        others = [name for name, known in state_columns(tables[0]).items() if known and name not in names]
        if others:
            logger.warning(f"{tables[0].file}: {listed(others)} are none of the given classes; left out")
    for table in tables:
        missing = [name for name in names if name not in table.columns]
        if missing:
            raise DataError(f"{table.file}: has no column {missing[0]!r}; it has {listed(table.columns, 20)}")
    values = {str(row.get(name)) for table in tables for _, row in table.rows for name in names}
    states = StateColumns(names, values, str(path))
    splits: dict[str, list[Sample]] = {}
    for table in tables:
        column = column_named(table.columns, ("ignored",))
        cells = [row.get(column) for _, row in table.rows]
        text = LabelText((cell for cell in cells if isinstance(cell, str)), f"{table.file}, column {column!r}")
        for image in image_rows(table, root):
            labels, ignored = states(image.row, image.where)
            unknown = image.row.get(column) or []
            unknown = text(unknown) if isinstance(unknown, str) else unknown
            labels = [name for name in labels if name not in unknown]
            ignored = list(dict.fromkeys([*ignored, *unknown]))
            sample = Sample(str(image.path), f"{image.folder}/{image.name}", image.where, labels, ignored)
            splits.setdefault(image.split, []).append(sample)
    return to_datasets(splits, names)


def _class_columns(tables: Sequence[Table]) -> list[str]:
    """Columns that hold states alone in every table, and known ones in some, in order; the others are named."""
    states: dict[str, list[bool | None]] = {}
    for table in tables:
        for name, state in state_columns(table).items():
            states.setdefault(name, []).append(state)
    names = [name for name, found in states.items() if False not in found and True in found]
    others = [name for name in states if name not in names]
    if not names:
        raise DataError(f"{tables[0].file}: no column holds nothing but 1, 0, -1 and blanks; it has {listed(others)}; "
                        "name the columns of the classes with --label_columns")  # fmt: skip
    rest = f", not {listed(others, 20)}" if others else ""
    logger.warning(f"{tables[0].file}: the columns {listed(names, 20)} are taken for classes{rest} "
                   "(--label_columns says otherwise)")  # fmt: skip
    return names
