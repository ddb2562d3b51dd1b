"""Class lists as people store them; names or indices -> class indices."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from .files import read_json, read_text, text_lines
from .schema import DataError

CLASS_FILES = ("classes.json", "classes.txt")


def read_class_names(file: str | os.PathLike) -> list[str]:
    """A class list: a JSON list of names, or a text file with a name a line."""
    file = Path(file)
    names = read_json(file) if file.suffix == ".json" else text_lines(read_text(file))
    if isinstance(names, list):
        names = [name.strip() if isinstance(name, str) else name for name in names]
        names = [name for name in names if name != ""]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{file}: must list the class names")
    if len(set(names)) != len(names):
        raise DataError(f"{file}: lists {next(name for name in names if names.count(name) > 1)!r} more than once")
    return names


def class_file(folder: Path) -> Path | None:
    """The class list in a folder, where there is one."""
    return next((folder / name for name in CLASS_FILES if (folder / name).is_file()), None)


def label_list(labels, where: str) -> list:
    """The labels of one image, which have to be a list: without blanks around names, and without empty ones."""
    if not isinstance(labels, list | tuple):
        raise DataError(f"{where}: labels must be a list, got {labels!r}")
    stripped = (label.strip() if isinstance(label, str) else label for label in labels)
    return [label for label in stripped if label != ""]


def sorted_names(rows: Iterable[tuple[str, list]], are_names: bool = False) -> list[str]:
    """The class list of (where, labels) rows without one of their own: all names, sorted.

    Args:
        rows: Where each image is annotated, and its labels.
        are_names: Whether digits are names, too, as in formats that write nothing else.

    Raises:
        DataError: for a label that is an index, which needs a class list.
    """
    names: set[str] = set()
    for where, labels in rows:
        for label in label_list(labels, where):
            if isinstance(label, str) and re.fullmatch(r"-\d+", label):
                raise DataError(f"{where}: label {label!r} is no class; leave it blank where an image shows none")
            if not isinstance(label, str) or (not are_names and _is_number(label)):
                raise DataError(f"{where}: label {label!r} is an index, which needs class names: write them into "
                                "classes.json in the root of the data, or pass --classes FILE")  # fmt: skip
            names.add(label)
    return sorted(names)


def to_indices(labels, positions: Mapping[str, int], where: str, are_indices: bool = False) -> list[int]:
    """Names or indices -> sorted indices without repetition.

    Args:
        labels: The labels of one image.
        positions: Class name -> index.
        where: How to call the image in a message.
        are_indices: Whether numbers are indices even where classes are called by numbers.
    """
    indices = set()
    named_by_numbers = not are_indices and any(map(_is_number, positions))
    for label in label_list(labels, where):
        if isinstance(label, str) and label in positions:
            indices.add(positions[label])
        elif named_by_numbers and type(label) is int and str(label) in positions:
            indices.add(positions[str(label)])
        elif not named_by_numbers and isinstance(label, int | str) and _is_number(str(label)):
            if int(label) >= len(positions):
                raise DataError(f"{where}: label {label} is outside the {len(positions)} classes")
            indices.add(int(label))
        else:
            raise DataError(f"{where}: label {label!r} is not among the classes {', '.join(list(positions)[:10])}"
                            f"{', ...' if len(positions) > 10 else ''}")  # fmt: skip
    return sorted(indices)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10
