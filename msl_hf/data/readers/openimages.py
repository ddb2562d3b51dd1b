"""OpenImages: CSV files of labels that people have verified, present or absent -> the schema."""

import csv
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from transformers.utils import logging

from ..files import images_below, split_in_name, split_name, subfolders, with_ending
from ..schema import DataError
from .samples import Sample, to_datasets
from .tables import column_named, csv_columns, is_openimages

logger = logging.get_logger(__name__)


def read_openimages(path: str | os.PathLike):
    """Read OpenImages' image-level labels, and others written as they are.

    A table has the columns ImageID, LabelName and Confidence: 1 is verified present, 0 verified absent, and every
    class that has no row for an image is unknown (`ignored`), as is one with a confidence in between, one that a
    machine gave, and one that was verified both ways.
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
    verified: dict[tuple[str, str], dict[str, set[float]]] = {}  # (split, image) -> class -> what was said of it
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
            samples.setdefault(image_id, Sample(str(image), image_id, where, annotated=[]))
            if confidence in (0, 1):
                said = verified.setdefault((split, image_id), {})
                said.setdefault(names.get(label, label), set()).add(confidence)
            else:
                num_unsure += 1
    num_contradicted = 0
    for (split, image_id), said in verified.items():
        sample = splits[split][image_id]
        sample.labels = [name for name, found in said.items() if found == {1}]
        sample.annotated = [name for name, found in said.items() if len(found) == 1]
        num_contradicted += sum(len(found) > 1 for found in said.values())
    if num_contradicted:
        logger.warning(f"{root}: {num_contradicted} labels are verified both present and absent; they are unknown")
    _check(root, tables, splits, num_absent, num_unsure)
    for split, samples in splits.items():
        rest = [str(image) for image_id, image in by_split[split].items() if image_id not in samples]
        if rest:
            logger.warning(f"{root}: {len(rest)} images of split {split!r} have no row, such as {rest[0]}; "
                           "they are left out")  # fmt: skip
    found = {name for said in verified.values() for name in said}
    return to_datasets({split: list(samples.values()) for split, samples in splits.items()}, sorted(found))


def find_tables(root: Path) -> list[Path]:
    """The tables of labels in a folder and in those within it."""
    places = [root, *subfolders(root)]
    return [file for place in places for file in with_ending(place, ".csv") if is_openimages(csv_columns(file))]


def _split_of(table: Path) -> str:
    return split_in_name(table.stem) or split_name(table.parent.name) or "train"


def _images(root: Path, split: str) -> dict[str, Path]:
    """Image id -> file, of the folder of the split where there is one, else of all folders."""
    folders = [folder for folder in subfolders(root) if split_name(folder.name) == split]
    images: dict[str, Path] = {}
    for folder in folders or [root]:
        for file in images_below(folder)[0]:
            if file.stem in images:
                raise DataError(f"{root}: {images[file.stem]} and {file} are both called after the image {file.stem}")
            images[file.stem] = file
    return images


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
    source = columns.index(column_named(columns, ("source",))) if column_named(columns, ("source",)) else None
    for number, cells in _cells(table):
        if number == 1 or not cells:
            continue
        where = f"{table}:{number}"
        try:
            image_id, label, confidence = (cells[position].strip() for position in positions)
            is_machine = source is not None and cells[source].strip().casefold() == "machine"
            yield where, image_id, label, 0.5 if is_machine else float(confidence)
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
        logger.warning(f"{root}: {num_unsure} rows are a machine's, or have a confidence between 0 and 1; they say "
                       "nothing")  # fmt: skip
    for split in [split for split, samples in splits.items() if not samples]:
        logger.warning(f"{root}: none of the images of split {split!r} is there")
        del splits[split]
