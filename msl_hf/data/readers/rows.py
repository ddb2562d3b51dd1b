"""The rows of a table of images, with the image and the split of each."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers.utils import logging

from ..files import by_folders, read_text, refuse_absolute, split_name, subfolders, text_lines, unlisted_images
from ..image_finder import ImageFinder
from ..schema import DataError
from .tables import CELEBA_FILE, SPLIT_COLUMN, Table, column_named

logger = logging.get_logger(__name__)

OTHER_SPLIT_COLUMNS = ("subset", "set", "partition", "phase", "fold")  # that say so where all they hold are splits


@dataclass
class ImageRow:
    """A row whose image and split are found.

    Args:
        split: Its split.
        path: Its image.
        name: As the row writes it.
        where: The row, for messages.
        row: The row.
        folder: What its image is called by, before the name.
    """

    split: str
    path: Path
    name: str
    where: str
    row: Mapping
    folder: str


def image_rows(table: Table, root: Path) -> Iterator[ImageRow]:
    """The rows of a table with their images and splits.

    Where a table may hold all splits, a column `split` tells them apart, or folders of splits that all images lie in
    (`train/a.jpg`, `images/test/b.jpg`), written or not; else all of it is the training split.

    Raises:
        DataError: for a row without an image, or where some images lie in folders of splits and others do not.
    """
    names = []
    for where, row in table.rows:
        name = row.get(table.file_column)
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{where}: has no {table.file_column}")
        names.append(name if name.strip() == name else name.strip())
    refuse_absolute(names, table.folder, f"{table.file}:1")
    finder = ImageFinder(root, _folders(table, root))
    splits = _column_splits(table, root) or [table.split] * len(names)
    paths = [finder.expect(name, where, split)
             for (where, _), name, split in zip(table.rows, names, splits, strict=True)]  # fmt: skip
    if None in splits:
        splits = [split or "train" for split in by_folders(paths, root, table.file)]
    for (where, row), name, split, path in zip(table.rows, names, splits, paths, strict=True):
        yield ImageRow(split, path, name, where, row, table.split and table.folder.name or split)
    finder.report()
    if table.folder != root or table.split is None:  # else other tables of the folder may list the others
        unlisted_images(table.folder, set(map(str, paths)), "row")


def _folders(table: Table, root: Path) -> list[Path]:
    folders = [table.folder, table.folder / "images"]
    if table.split and table.folder == root:
        folders += [folder for folder in subfolders(root) if split_name(folder.name) == table.split]
    return folders


def _column_splits(table: Table, root: Path) -> list[str] | None:
    """The split of each row by a column of its own, or by CelebA's list; None without any.

    Raises:
        DataError: for a value that is no split, or another than that of the folder.
    """
    partition = _partition(table, root)
    if partition is not None:
        return partition
    column = column_named(table.columns, (SPLIT_COLUMN,))
    for name in () if column else OTHER_SPLIT_COLUMNS:
        other = column_named(table.columns, (name,))
        if other and all(split_name(str(row.get(other)).strip()) for _, row in table.rows):
            column = other
            logger.warning(f"{table.file}: the column {other!r} is taken for the splits")
            break
    if column is None:
        return None
    splits = []
    for where, row in table.rows:
        split = split_name(str(row.get(column)).strip())
        if split is None:
            raise DataError(f"{where}: column {column!r} holds {row.get(column)!r}, which is no split; write train, "
                            "validation or test")  # fmt: skip
        if table.split not in (None, split):
            raise DataError(f"{where}: is of split {split!r} by its column {column!r}, and of {table.split!r} by the "
                            "place of the file")  # fmt: skip
        splits.append(split)
    return splits


def _partition(table: Table, root: Path) -> list[str] | None:
    """The split of each row by CelebA's list, which lies beside its table or in a folder of the root."""
    if table.file.stem != CELEBA_FILE:
        return None
    for place in (table.folder, root, *subfolders(root)):
        for file in sorted(place.glob("list_eval_partition.*")):
            lines = (line.replace(",", " ").split() for line in text_lines(read_text(file)))
            numbers = {line[0]: line[1] for line in lines if len(line) == 2 and line[1] in "012"}
            splits = [numbers.get(row[table.file_column]) for _, row in table.rows]
            if None in splits:
                logger.warning(f"{file}: {splits.count(None)} images of {table.file.name} are not in it; they are "
                               "taken for training images")  # fmt: skip
            return [("train", "validation", "test")[int(number or 0)] for number in splits]
    return None
