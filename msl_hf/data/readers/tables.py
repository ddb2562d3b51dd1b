"""Tables of images: CSV and JSON-lines files, in the root of the data or in a folder for each split."""

import csv
import io
import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.utils import logging

from ..files import (
    ImageFinder,
    add_split,
    is_image,
    read_text,
    split_name,
    subfolders,
    text_lines,
    unlisted_images,
)
from ..labels import label_state
from ..schema import DataError

logger = logging.get_logger(__name__)

FILE_COLUMNS = ("file_name", "filename", "file", "image", "image_path", "path", "image_id", "img", "name", "id")
ANY_NAMES = ("name", "id")  # which also other tables than those of images have
LABEL_COLUMNS = ("labels", "label", "classes", "class", "tags")
SPLIT_COLUMN = "split"
METADATA_FILES = ("metadata.jsonl", "metadata.csv")
ROBOFLOW_FILE = "_classes.csv"
CELEBA_FILE = "list_attr_celeba.txt"  # the same table as the .csv file, in two header lines and columns of blanks
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

    @property
    def columns(self) -> list[str]:
        """The columns of the first row."""
        return list(self.rows[0][1]) if self.rows else []

    @property
    def file_column(self) -> str:
        """The column of the images."""
        return column_named(self.columns, FILE_COLUMNS) or FILE_COLUMNS[0]

    @property
    def kind(self) -> str | None:
        """`metadata` with a column of labels, `columns` with one for each class; None for a table of other things."""
        if self.file.name != ROBOFLOW_FILE and column_named(self.columns, LABEL_COLUMNS):
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
    named = {file: _split_in_name(file) for file in own}
    if len(own) == 1 and None in named.values():
        found[""] = own[0]
    elif own and None in named.values():
        raise DataError(f"{path}: {' and '.join(file.name for file in own)} both list images; name the file to read")
    else:
        for file, split in named.items():
            add_split(found, split, file, file)
    for folder in subfolders(path):
        tables = _tables_in(folder, named)
        if len(tables) > 1:
            raise DataError(f"{folder}: {' and '.join(file.name for file in tables)} both list images; remove one")
        if tables:
            if "" in found:
                raise DataError(f"{path}: both {found['']} and {tables[0]} list images; remove one, or name the file "
                                "to read")  # fmt: skip
            add_split(found, folder.name, tables[0], tables[0])
    return found


def _tables_in(folder: Path, named: Collection[str]) -> list[Path]:
    """Metadata files of a folder; without any, the CSV files in it that name images."""
    metadata = [folder / name for name in METADATA_FILES if (folder / name).is_file()]
    if metadata:
        return metadata
    files = sorted((*folder.glob("*.csv"), *folder.glob(CELEBA_FILE)))
    return [file for file in files if _lists_images(file, named)]


def _lists_images(file: Path, named: Collection[str]) -> bool:
    """Whether a table names images and their labels."""
    if file.name == CELEBA_FILE:
        return True
    columns = csv_columns(file)
    if not column_named(columns, FILE_COLUMNS) or len(columns) < 2 or is_openimages(columns):
        return False
    if named and set(named) <= set(columns):
        return True
    if "submission" in file.name.casefold() or "partition" in map(str.casefold, columns):  # Kaggle's, CelebA's
        return False
    table = Table(file, list(itertools.islice(read_csv(file), PEEK)), file.parent, None)
    return table.kind is not None and (table.file_column.casefold() not in ANY_NAMES or _names_images(table))


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


def _split_in_name(file: Path) -> str | None:
    if file.name in METADATA_FILES:
        return None
    names = (split_name(part) for part in re.split(r"[_\-. ]", file.stem))
    return next((name for name in names if name), None)


def read_tables(path: Path, named: Collection[str] = ()) -> list[Table]:
    """The tables of `find_tables`, each row at most once, with what its place says of its split."""
    tables = []
    for split, file in find_tables(path, named).items():
        read = {".jsonl": _read_jsonl, ".txt": _read_celeba}.get(file.suffix, read_csv)
        rows = list(read(file))
        tables.append(Table(file, rows, file.parent, split or None))
    return tables


def read_csv(file: Path) -> Iterator[tuple[str, dict]]:
    """(where, row) of a CSV file whose cells commas, semicolons or tabulators separate; blanks around names are cut.

    Raises:
        DataError: naming the line of a row that has more or fewer cells than the header.
    """
    text = read_text(file)
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
    _, header, *lines = text_lines(read_text(file))
    names = [FILE_COLUMNS[0], *header.split()]
    for number, line in enumerate(lines, start=3):
        cells = line.split()
        if cells and len(cells) != len(names):
            raise DataError(f"{file}:{number}: has {len(cells)} cells for {len(names)} columns")
        if cells:
            yield f"{file}:{number}", dict(zip(names, cells, strict=True))


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

    Where a table may hold all splits, a column `split` tells them apart, or folders of splits in which all images lie
    (`train/a.jpg`); else all of it is the training split.

    Raises:
        DataError: for a row without an image, or where some images lie in folders of splits and others do not.
    """
    finder = ImageFinder(root, _folders(table, root))
    names, paths = [], set()
    for where, row in table.rows:
        name = row.get(table.file_column)
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{where}: has no {table.file_column}")
        names.append(name if name.strip() == name else name.strip())
    splits = [table.split] * len(names) if table.split else _row_splits(table, names)
    has_splits = table.split is not None or len(set(splits)) > 1
    for (where, row), name, split in zip(table.rows, names, splits, strict=True):
        path = finder.expect(name, where, split if has_splits else None)
        paths.add(str(path))
        yield ImageRow(split, path, name, where, row, table.split and table.folder.name or split)
    finder.report()
    if table.folder != root or table.split is None:  # else other tables of the folder may list the others
        unlisted_images(table.folder, paths, "row")


def _folders(table: Table, root: Path) -> list[Path]:
    folders = [table.folder, table.folder / "images"]
    if table.split and table.folder == root:
        folders += [folder for folder in subfolders(root) if split_name(folder.name) == table.split]
    return folders


def _row_splits(table: Table, names: list[str]) -> list[str]:
    column = column_named(table.columns, (SPLIT_COLUMN,))
    if column is not None:
        written = [str(row[column]).strip() for _, row in table.rows]
        unknown = [name for name in written if split_name(name) is None]
        if unknown:
            raise DataError(f"{table.file}: column {column!r} holds {unknown[0]!r}, which is no split; "
                            "write train, validation or test")  # fmt: skip
        return [split_name(name) for name in written]
    partition = _partition(table)
    if partition is not None:
        return [partition.get(name, "train") for name in names]
    folders = [name.replace("\\", "/").removeprefix("./").split("/", 1) for name in names]
    splits = [split_name(parts[0]) if len(parts) > 1 else None for parts in folders]
    if not any(splits):
        return ["train"] * len(names)
    if not all(splits):
        raise DataError(f"{table.file}: {names[splits.index(None)]!r} lies in no folder of a split, but others do; "
                        "move it into train/, validation/ or test/, or add a column 'split'")  # fmt: skip
    return splits


def _partition(table: Table) -> dict[str, str] | None:
    """CelebA's list of splits, beside its table: image -> split."""
    if not table.file.name.startswith("list_attr_celeba"):
        return None
    for file in sorted(table.folder.glob("list_eval_partition.*")):
        rows = (line.replace(",", " ").split() for line in text_lines(read_text(file)))
        return {row[0]: ("train", "validation", "test")[int(row[1])] for row in rows if row and row[-1] in "012"}
    return None


def two_valued_columns(table: Table) -> tuple[list[str], list[str]]:
    """(columns that hold nothing but 1, 0, -1, truth values and blanks, the others), of those that may be classes."""
    states = state_columns(table)
    return [name for name, is_known in states.items() if is_known], [name for name in states if not states[name]]


def state_columns(table: Table) -> dict[str, bool | None]:
    """Column -> True where it holds states, some of them known; None where all are unknown; False for other values.

    Of those that may be classes: not the images, their splits and the numbers that pandas writes.
    """
    others = (table.file_column, column_named(table.columns, (SPLIT_COLUMN,)))
    return {name: _known_states(table, name) for name in table.columns
            if name and name not in others and not name.casefold().startswith("unnamed")}  # fmt: skip


def _known_states(table: Table, name: str) -> bool | None:
    values = {row.get(name) if isinstance(row.get(name), str | bool | float | None) else repr(row.get(name))
              for _, row in table.rows}  # fmt: skip
    try:
        return bool({label_state(value) for value in values} - {None}) or None
    except ValueError:
        return False


def lines_for_class_folders(root: Path) -> str:
    """For a folder of images for each class: the lines of Python that write their labels down; empty for others."""
    if not root.is_dir():
        return ""
    splits = [folder for folder in subfolders(root) if split_name(folder.name)]
    places = [place for place in splits or [root] if any(_holds_images(folder) for folder in subfolders(place))]
    if not places:
        return ""
    return (
        f". {places[0]} holds a folder for each class; these two lines of Python write the labels of its images down, "
        "an image in two folders (of one name and size) as one with two labels:\n"
        f"  import collections, json, pathlib; root = pathlib.Path({str(places[0])!r}); "
        "found = collections.defaultdict(list); "
        "[found[f.name, f.stat().st_size].append(f) for f in sorted(root.glob('*/*'))]\n"
        "  (root / 'metadata.jsonl').write_text(''.join(json.dumps({'file_name': f[0].relative_to(root).as_posix(), "
        "'labels': [x.parent.name for x in f]}) + '\\n' for f in found.values()))"
        + (f"\nThe same for {', '.join(place.name for place in places[1:])}" if places[1:] else "")
    )


def _holds_images(folder: Path) -> bool:
    return any(is_image(file) for file in folder.iterdir())
