"""OpenImages: CSV files of labels that people have verified, present or absent -> the schema."""

import csv
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from transformers.utils import logging

from ..files import images_below, split_name, subfolders
from ..schema import DataError
from .samples import Sample, to_datasets
from .tables import column_named, csv_columns, is_openimages

logger = logging.get_logger(__name__)


def read_openimages(path: str | os.PathLike):
    """Read OpenImages' image-level labels, and others written as they are.

    A table has the columns ImageID, LabelName and Confidence: 1 is verified present, 0 verified absent, and every
    class that has no row for an image is unknown (`ignored`), as is one with a confidence in between, which a machine
    gave.
    `class-descriptions*.csv` gives classes their names. Only images that are there are read, which may be a part of
    those of the tables; they bear their id for a name.

    Args:
        path: The folder that holds tables and images; a table whose name, or folder, is that of a split belongs to it.

    Returns:
        `datasets.DatasetDict` of the schema, with `ignored`.

    Raises:
        DataError: naming the file and line at fault.
    """
    root = Path(path)
    tables = find_tables(root)
    if not tables:
        raise DataError(f"{root}: holds no CSV file with the columns ImageID, LabelName and Confidence")
    names = _descriptions(root)
    by_split: dict[str, dict[str, Path]] = {}
    splits: dict[str, dict[str, Sample]] = {}
    num_absent = num_unsure = 0
    for table in tables:
        split = _split_of(table)
        if split not in by_split:
            by_split[split] = _images(root, split)
        samples = splits.setdefault(split, {})
        for where, image_id, label, confidence in _rows(table):
            image = by_split[split].get(image_id)
            if image is None:
                num_absent += 1
                continue
            sample = samples.setdefault(image_id, Sample(str(image), image_id, where, annotated=[]))
            name = names.get(label, label)
            if confidence == 1 and name not in sample.labels:
                sample.labels.append(name)
            if confidence in (0, 1):
                sample.annotated.append(name)
            else:
                num_unsure += 1
    _check(root, tables, splits, num_absent, num_unsure)
    for split, samples in splits.items():
        rest = [str(image) for image_id, image in by_split[split].items() if image_id not in samples]
        if rest:
            logger.warning(f"{root}: {len(rest)} images of split {split!r} have no row, such as {rest[0]}; "
                           "they are left out")  # fmt: skip
    found = {label for samples in splits.values() for sample in samples.values() for label in sample.annotated}
    return to_datasets({split: list(samples.values()) for split, samples in splits.items()}, sorted(found))


def find_tables(root: Path) -> list[Path]:
    """The tables of labels in a folder and in those within it."""
    places = [root, *subfolders(root)]
    return [file for place in places for file in sorted(place.glob("*.csv")) if is_openimages(csv_columns(file))]


def _split_of(table: Path) -> str:
    first = table.stem.replace("_", "-").split("-")[0]
    return split_name(first) or split_name(table.parent.name) or "train"


def _images(root: Path, split: str) -> dict[str, Path]:
    """Image id -> file, of the folder of the split where there is one, else of all folders."""
    folders = [folder for folder in subfolders(root) if split_name(folder.name) == split]
    return {file.stem: file for folder in folders or [root] for file in images_below(folder)[0]}


def _descriptions(root: Path) -> dict[str, str]:
    """LabelName -> name of the class."""
    names: dict[str, str] = {}
    for place in (root, *subfolders(root)):
        for file in sorted((*place.glob("*class-descriptions*.csv"), *place.glob("classes.csv"))):
            for _, cells in _cells(file):
                if len(cells) == 2 and cells[0] != "LabelName":
                    names[cells[0]] = cells[1].strip()
    counts = Counter(names.values())
    return {label: name if counts[name] == 1 else f"{name} ({label})" for label, name in names.items()}


def _rows(table: Path) -> Iterator[tuple[str, str, str, float]]:
    """(where, image id, label, confidence) of each row."""
    columns = csv_columns(table)
    positions = [columns.index(column_named(columns, (name,))) for name in ("imageid", "labelname", "confidence")]
    for number, cells in _cells(table):
        if number == 1 or not cells:
            continue
        where = f"{table}:{number}"
        try:
            image_id, label, confidence = (cells[position].strip() for position in positions)
            yield where, image_id, label, float(confidence)
        except (IndexError, ValueError) as error:
            got = ",".join(cells)[:80]
            raise DataError(f"{where}: expected an image id, a label and a confidence, got {got!r}") from error


def _cells(file: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells); a table of nine million rows is never in memory."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            for cells in reader:
                yield reader.line_num, cells
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{file}: is not valid CSV ({error})") from error


def _check(root: Path, tables: list[Path], splits: dict, num_absent: int, num_unsure: int) -> None:
    if not any(splits.values()):
        raise DataError(f"{root}: none of the images of {tables[0].name} is there; they are called <ImageID>.jpg")
    if num_absent:
        logger.warning(f"{root}: {num_absent} rows are about images that are not there")
    if num_unsure:
        logger.warning(f"{root}: {num_unsure} rows have a confidence between 0 and 1; they say nothing")
    for split in [split for split, samples in splits.items() if not samples]:
        logger.warning(f"{root}: none of the images of split {split!r} is there")
        del splits[split]
