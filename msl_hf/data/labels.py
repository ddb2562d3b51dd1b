"""Labels as people write them (names, indices) -> class indices; class lists as people store them."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from .schema import DataError

CLASS_FILES = ("classes.json", "classes.txt")


def read_class_names(file: str | os.PathLike) -> list[str]:
    """A class list: a JSON list of names, or a text file with a name a line."""
    file = Path(file)
    try:
        text = file.read_text(encoding="utf-8-sig")
        names = json.loads(text) if file.suffix == ".json" else [line.strip() for line in text.splitlines()]
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{file}: cannot be read ({error})") from error
    if isinstance(names, list):
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
    """The labels of one image, which have to be a list."""
    if not isinstance(labels, list | tuple):
        raise DataError(f"{where}: labels must be a list, got {labels!r}")
    return list(labels)


def sorted_names(rows: Iterable[tuple[str, list]]) -> list[str]:
    """The class list of (where, names) rows without one of their own: all names, sorted.

    Raises:
        DataError: for a label that is an index, which needs a class list.
    """
    names: set[str] = set()
    for where, labels in rows:
        for label in label_list(labels, where):
            if not isinstance(label, str) or label.isdigit():
                raise DataError(f"{where}: label {label!r} is an index, which needs class names: write them into "
                                "classes.json in the root of the data, or pass --classes FILE")  # fmt: skip
            names.add(label)
    return sorted(names)


def to_indices(labels, positions: Mapping[str, int], where: str) -> list[int]:
    """Names or indices -> sorted indices without repetition.

    Args:
        labels: The labels of one image.
        positions: Class name -> index.
        where: How to call the image in a message.
    """
    indices = set()
    for label in label_list(labels, where):
        if isinstance(label, str) and label in positions:
            indices.add(positions[label])
        elif isinstance(label, int | str) and not isinstance(label, bool) and str(label).isdigit():
            if int(label) >= len(positions):
                raise DataError(f"{where}: label {label} is outside the {len(positions)} classes")
            indices.add(int(label))
        else:
            raise DataError(f"{where}: label {label!r} is not among the classes {', '.join(list(positions)[:10])}"
                            f"{', ...' if len(positions) > 10 else ''}")  # fmt: skip
    return sorted(indices)
