"""Tables of images: CSV and JSON-lines files, in the root of the data or in a folder for each split."""

import csv
import io
import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..files import add_split, is_image, read_text, split_in_name, subfolders, text_lines, with_ending
from ..image_finder import ImageFinder
from ..label_states import label_state
from ..schema import DataError

FILE_COLUMNS = (
    "file_name", "filename", "file", "image", "image_path", "path", "image_id", "image_name", "image index", "img",
    "filepath", "file_path", "name", "id",
)  # fmt: skip
ANY_NAMES = ("name", "id")  # which also other tables than those of images have
LABEL_COLUMNS = ("labels", "label", "classes", "class", "tags")
KNOWN_COLUMNS = ("ignored", "annotated")  # of which nothing is known in an image, and which were looked for
SPLIT_COLUMN = "split"
METADATA_FILES = ("metadata.jsonl", "metadata.csv")
ROBOFLOW_FILE = "_classes.csv"
CELEBA_FILE = "list_attr_celeba"  # .csv, or .txt: two header lines, and columns of blanks
PEEK = 1000  # rows that tell what a CSV file holds


@dataclass
class Table:
    """A file with a row for each image, or for each label of one.

    Args:
        file: The file.
        rows: (where, row) of each.
        folder: Relative to which the images are written.
        split: What its place or name says it holds; None where it may hold all.
    """

    file: Path
    rows: list[tuple[str, dict]]
    folder: Path
    split: str | None

    @cached_property
    def columns(self) -> list[str]:
        """The columns of all rows; those of JSON lines may differ."""
        return list(dict.fromkeys(name for _, row in self.rows for name in row))

    @cached_property
    def file_column(self) -> str:
        """The column of the images: one of FILE_COLUMNS, else the first that holds names of images."""
        named = column_named(self.columns, FILE_COLUMNS)
        first = self.rows[0][1] if self.rows else {}
        texts = {name: value.strip() for name, value in first.items() if isinstance(value, str)}
        holds = (name for name, value in texts.items() if is_image(value) and "://" not in value)
        return named or next(holds, FILE_COLUMNS[0])

    @property
    def label_column(self) -> str | None:
        """The column of labels, `objects` for those of boxes; None where there is none."""
        found = None if self.file.name == ROBOFLOW_FILE else column_named(self.columns, LABEL_COLUMNS)
        has_objects = found is None and any(isinstance(row.get("objects"), dict) for _, row in self.rows)
        return "objects" if has_objects else found

    @property
    def kind(self) -> str | None:
        """`metadata` with a column of labels, `columns` with one for each class; None for a table of other things."""
        if self.label_column is not None:
            return "metadata"
        if two_valued_columns(self)[0]:
            return "columns"
        return "metadata" if self.file.name in METADATA_FILES else None


def column_named(columns: Iterable[str], names: Sequence[str]) -> str | None:
    """The first of the names that is a column, in whatever case."""
    folded = {column.casefold(): column for column in columns}
    return next((folded[name] for name in names if name in folded), None)


def find_tables(path: Path, named: Collection[str] = ()) -> dict[str, Path]:
    """Split -> table of a folder, `""` for a table of all; or a single file.

    A folder for each split with a `metadata.jsonl`, `metadata.csv`, `_classes.csv` or one other CSV file that names
    images; or such files in the root, which are told apart by their names (`train.csv`, `valid.csv`).

    Args:
        path: The folder or file.
        named: Columns of labels that somebody has named; a CSV file that has them is a table, whatever they hold.

    Raises:
        DataError: where several files may be meant.
    """
    if path.is_file():
        return {"": path}
    found: dict[str, Path] = {}
    own = _tables_in(path, named)
    splits = {file: None if _is_of_all(file) else split_in_name(file.stem) for file in own}
    if len(own) == 1 and None in splits.values():
        found[""] = own[0]
    elif own and None in splits.values():
        raise DataError(f"{path}: {' and '.join(file.name for file in own)} both list images; name the file to read")
    else:
        for file, split in splits.items():
            add_split(found, split, file, file)
    for folder in subfolders(path):
        tables = _tables_in(folder, named)
        if len(tables) > 1:
            raise DataError(f"{folder}: {' and '.join(file.name for file in tables)} both list images; remove one")
        if tables:
            if "" in found:
                raise DataError(f"{path}: both {found['']} and {tables[0]} list images; remove one, or name the file "
                                "to read")  # fmt: skip
            add_split(found, "" if tables[0].stem == CELEBA_FILE else folder.name, tables[0], tables[0])
    return found


def _is_of_all(file: Path) -> bool:
    return file.name.casefold() in METADATA_FILES or file.stem == CELEBA_FILE


def _tables_in(folder: Path, named: Collection[str]) -> list[Path]:
    """Metadata files of a folder, or CelebA's; without any, the CSV files in it that name images."""
    files = with_ending(folder, ".csv", ".jsonl", ".txt")
    metadata = [file for file in files if file.name.casefold() in METADATA_FILES or file.stem == CELEBA_FILE]
    return metadata or [file for file in files if _lists_images(file, named)]


def _lists_images(file: Path, named: Collection[str]) -> bool:
    """Whether a table names images and their labels."""
    if file.suffix.lower() != ".csv" or "submission" in file.name.casefold():  # Kaggle's
        return False
    columns = csv_columns(file)
    if len(columns) < 2 or is_openimages(columns) or {"image_id", "partition"} == set(columns):  # CelebA's list
        return False
    if named and set(named) <= set(columns):
        return True
    try:
        table = Table(file, list(itertools.islice(read_csv(file), PEEK)), file.parent, None)
    except DataError:  # a table of something else
        return False
    if table.kind is None or table.file_column not in table.columns:
        return False
    return table.file_column.casefold() not in ANY_NAMES or _names_images(table)


def _names_images(table: Table) -> bool:
    """Whether the first names are those of images that are there."""
    finder = ImageFinder(table.folder)
    try:
        return any(finder.find(str(row[table.file_column]).strip(), where) for where, row in table.rows[:5])
    except DataError:  # of several images
        return True


def is_openimages(columns: Iterable[str]) -> bool:
    """Whether a table has a row for each verified label of an image."""
    return {"imageid", "labelname", "confidence"} <= {column.casefold() for column in columns}


def read_tables(path: Path, named: Collection[str] = ()) -> list[Table]:
    """The tables of `find_tables`, each row at most once, with what its place says of its split."""
    tables = []
    for split, file in find_tables(path, named).items():
        read = {".jsonl": _read_jsonl, ".txt": _read_celeba}.get(file.suffix.lower(), read_csv)
        rows = list(read(file))
        tables.append(Table(file, rows, file.parent, split or None))
    return tables


def read_csv(file: Path) -> Iterator[tuple[str, dict]]:
    """(where, row) of a CSV file whose cells commas, semicolons or tabulators separate; blanks around names are cut.

    Raises:
        DataError: naming the line of a row that has more or fewer cells than the header.
    """
    text = read_text(file)
    if text.startswith("sep="):  # Excel's
        text = text.split("\n", 1)[-1]
    delimiter = _delimiter(text)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        header = [name.strip() for name in next(reader, [])]
        repeated = [name for name in header if name and header.count(name) > 1]
        if repeated:
            raise DataError(f"{file}: has two columns {repeated[0]!r}")
        for cells in reader:
            where = f"{file}:{reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise DataError(f"{where}: has {len(cells)} cells for {len(header)} columns; labels that hold "
                                f"{delimiter!r} need quotes")  # fmt: skip
            yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{file}: is not valid CSV ({error})") from error


def csv_columns(file: Path) -> list[str]:
    """The columns of a CSV file, from its first line; empty where it cannot be read."""
    try:
        with file.open("rb") as stream:
            text = stream.readline(2**16).decode("utf-8-sig")
            if text.startswith("sep="):
                text = stream.readline(2**16).decode("utf-8")
        return [name.strip() for name in next(csv.reader([text], delimiter=_delimiter(text)), [])]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def _delimiter(text: str) -> str:
    line = text.split("\n", 1)[0]
    return max(",;\t", key=line.count)


def _read_jsonl(file: Path) -> Iterator[tuple[str, dict]]:
    for number, line in enumerate(text_lines(read_text(file)), start=1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: is not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise DataError(f'{where}: must be an object like {{"file_name": ..., "labels": [...]}}')
        yield where, row


def _read_celeba(file: Path) -> Iterator[tuple[str, dict]]:
    lines = text_lines(read_text(file))
    if len(lines) < 3:
        raise DataError(f"{file}: is no list of CelebA: a number, the names, and a line an image")
    _, header, *lines = lines
    names = [FILE_COLUMNS[0], *header.split()]
    for number, line in enumerate(lines, start=3):
        cells = line.split()
        if cells and len(cells) != len(names):
            raise DataError(f"{file}:{number}: has {len(cells)} cells for {len(names)} columns")
        if cells:
            yield f"{file}:{number}", dict(zip(names, cells, strict=True))


def two_valued_columns(table: Table) -> tuple[list[str], list[str]]:
    """(columns that hold nothing but 1, 0, -1, truth values and blanks, the others), of those that may be classes."""
    states = state_columns(table)
    return [name for name, is_known in states.items() if is_known], [name for name in states if not states[name]]


def state_columns(table: Table) -> dict[str, bool | None]:
    """Column -> True where it holds states, some of them known; None where all are unknown; False for other values.

    Of those that may be classes: not the images, their splits and the numbers that pandas writes.
    """
    others = (table.file_column, *(column_named(table.columns, (name,)) for name in (SPLIT_COLUMN, *KNOWN_COLUMNS)))
    return {name: _known_states(table, name) for name in table.columns
            if name and name not in others and not name.casefold().startswith("unnamed")}  # fmt: skip


def _known_states(table: Table, name: str) -> bool | None:
    values = {row.get(name) if isinstance(row.get(name), str | bool | float | None) else repr(row.get(name))
              for _, row in table.rows}  # fmt: skip
    try:
        return bool({label_state(value) for value in values} - {None}) or None
    except ValueError:
        return False
