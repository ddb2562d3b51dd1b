"""Labels as people write them (names, indices, text, a number a class) -> class indices; class lists as stored."""

import ast
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from transformers.utils import logging

from .files import listed, read_json, read_text, text_lines
from .schema import DataError

logger = logging.get_logger(__name__)

CLASS_FILES = ("classes.json", "classes.txt")
SEPARATORS = (";", "|", ",")
WORD_SEPARATORS = (" ", "/", "&", "+")
STATES = {
    **dict.fromkeys(("1", "1.0", "true", "yes", "t", "y"), 1),
    **dict.fromkeys(("0", "0.0", "false", "no", "f", "n"), 0),
    **dict.fromkeys(("-1", "-1.0"), -1),
    **dict.fromkeys(("", "nan", "null", "none", "na", "n/a", "?", "unknown"), None),
}


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


class LabelText:
    """How one column writes the labels of an image as text, learned from all of its cells.

    Lists written as text (JSON, Python), else lines, else separated by `;`, `|` or `,`. Blanks, `/`, `&` and `+`
    separate only where the parts are labels of other cells, too, so that `hot dog` stays one class, and blanks between
    numbers, which are no names. What is guessed is logged.

    Args:
        cells: The texts of the column.
        where: The column, for messages.
        separator: Overrides what the cells suggest; `"none"` where a cell is one label.

    Raises:
        DataError: where the column is written in two ways.

    Examples:
        >>> LabelText(["a;b", "c"], "labels")("a; c")
        ['a', 'c']
    """

    def __init__(self, cells: Iterable[str], where: str, separator: str | None = None):
        self.where, self.names, self.mark = where, None, None
        self.is_whole = separator == "none"
        texts = {line.strip() for cell in cells if _listed(cell, where) is None for line in cell.split("\n")} - {""}
        self.is_float = bool(texts) and all(re.fullmatch(r"\d+(\.0)?", text) for text in texts)  # as pandas writes
        if separator is not None:
            self.separator = None if self.is_whole else separator
            return
        present = [mark for mark in SEPARATORS if any(mark in text for text in texts)]
        self.separator = present[0] if present else None
        if present:
            self._check_rest(texts, present[1:])
        elif any(" " in text for text in texts) and all(re.fullmatch(r"[\d ]+", text) for text in texts):
            self.separator = " "
        else:
            for mark in WORD_SEPARATORS:
                if self.mark is None and any(mark in text for text in texts):
                    self._learn_words(texts, mark)

    def _check_rest(self, texts: Iterable[str], others: list[str]) -> None:
        names = {part.strip() for text in texts for part in text.split(self.separator)}
        if self.separator != SEPARATORS[0]:
            logger.warning(f"{self.where}: {self.separator!r} separates the labels of an image "
                           "(--label_separator says otherwise; none for one label an image)")  # fmt: skip
        for mark in others:
            kept = sorted(name for name in names if mark in name)
            mixed = [name for name in kept if all(part.strip() in names for part in name.split(mark))]
            if mixed:
                raise DataError(f"{self.where}: {self.separator!r} separates labels, but in {mixed[0]!r} {mark!r}; "
                                "write them in one way, or say which with --label_separator")  # fmt: skip
            if kept:
                logger.warning(f"{self.where}: {mark!r} is taken for a part of names, such as {kept[0]!r}")

    def _learn_words(self, names: set[str], mark: str) -> None:
        parts = {text: _words(text, mark) for text in names if len(_words(text, mark)) > 1}
        divided = sorted(text for text, words in parts.items() if names.issuperset(words))
        if not divided:
            return
        self.names, self.mark = names, mark
        whole = sorted(set(parts) - set(divided))
        logger.warning(
            f"{self.where}: {len(divided)} texts such as {divided[0]!r} are taken for several labels, because each of "
            "their words is a label of other images (--label_separator none keeps them whole)"
            + (f"; one label each: {listed(whole)}" if whole else "")
        )

    def __call__(self, cell: str) -> list:
        """The labels in a cell; `nan` and `null`, which programs write for nothing, are none."""
        if self.is_whole:
            return [cell.strip()]
        labels = _listed(cell, self.where)
        return (
            labels
            if labels is not None
            else [label for line in cell.split("\n") for label in self._line(line.strip())]
        )

    def _line(self, text: str) -> list[str]:
        if text.casefold() in ("", "nan", "null"):
            return []
        if self.is_float:
            return [text.removesuffix(".0")]
        if self.separator is not None:
            return [part.strip() for part in text.split(self.separator)]
        words = _words(text, self.mark) if self.names is not None else []
        return words if len(words) > 1 and self.names.issuperset(words) else [text]


def _words(text: str, mark: str) -> list[str]:
    return text.split() if mark == " " else [part.strip() for part in text.split(mark)]


def _listed(cell: str, where: str) -> list | None:
    """A list that is written as text, as JSON or Python write it, or `[a, b]`; None for other text."""
    text = cell.strip()
    if not text or (text[0], text[-1]) not in (("[", "]"), ("(", ")"), ("{", "}")):
        return None
    if re.search(r"""(['"])\s+\1""", text):
        raise DataError(f"{where}: {text!r} is a list as NumPy prints it; write it as JSON does, with commas")
    for read in (json.loads, ast.literal_eval):
        try:
            labels = read(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if isinstance(labels, list | tuple | set):
            return sorted(labels, key=str) if isinstance(labels, set) else list(labels)
    inner = text[1:-1].strip()
    if text[0] != "[" or (inner and "," not in inner):
        return None
    return [part.strip() for part in inner.split(",")]


def is_multi_hot(rows: Sequence[tuple[str, object]], count: int | None) -> bool:
    """Whether labels are written as a number for each class, and not as indices.

    Args:
        rows: (where, labels as stored) of the images.
        count: Number of classes, None where it is not known.

    Raises:
        DataError: where they may be either.
    """
    vectors = [value for _, value in rows]
    if not vectors or not all(isinstance(vector, list | tuple) for vector in vectors):
        return False
    lengths = {len(vector) for vector in vectors}
    if len(lengths) != 1 or lengths == {0} or (count is not None and lengths != {count}):
        return False
    values = {value for vector in vectors for value in vector}
    if not all(value is None or isinstance(value, int | float) and is_state(value) for value in values):
        return False
    if values == {-1} or (values == {0, -1}):  # no class is ever present
        return False
    is_typed = any(isinstance(value, bool | float) for value in values)
    if is_typed or None in values or -1 in values or any(len(set(vector)) < len(vector) for vector in vectors):
        return True
    if lengths == {1}:
        return count == 1 and 1 in values
    if any(list(vector) != sorted(vector) for vector in vectors):
        where, vector = rows[0]
        raise DataError(f"{where}: {list(vector)} may be the indices of classes, or a number for each; write names")
    return False


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


def label_state(value) -> int | None:
    """What a cell of a class's own column says: 1 present, 0 absent, None unknown, and -1, which is either.

    Raises:
        ValueError: for a value that is none of these.
    """
    if value is None or value is True or value is False:
        return None if value is None else int(value)
    if isinstance(value, float) and value != value:
        return None
    text = str(value).strip().lower()
    if text not in STATES:
        raise ValueError(f"{value!r} is neither 1 nor 0, -1 or blank")
    return STATES[text]


def is_state(value) -> bool:
    """Whether a cell may be that of a class's own column."""
    try:
        label_state(value)
    except ValueError:
        return False
    return True


class StateColumns:
    """Columns of one class each -> labels and unknown labels.

    A blank, null or NaN is unknown. So is -1, unless the columns know no 0: then -1 is their way to say absent.

    Args:
        names: The columns, which are the classes.
        values: All values that occur in them.
        where: The table, for messages.
    """

    def __init__(self, names: Sequence[str], values: Iterable, where: str):
        self.names = list(names)
        found = {label_state(value) for value in values if is_state(value)}
        self.absent = -1 if -1 in found and 0 not in found else 0
        if self.absent == -1:
            logger.warning(f"{where}: its columns hold 1 and -1, and no 0; -1 is taken for absent, not for unknown")

    def __call__(self, row: Mapping, where: str) -> tuple[list[str], list[str]]:
        """(labels, unknown labels) of a row."""
        labels, unknown = [], []
        for name in self.names:
            try:
                state = label_state(row.get(name))
            except ValueError as error:
                raise DataError(f"{where}: column {name!r}: {error}") from error
            if state == 1:
                labels.append(name)
            elif state != self.absent:
                unknown.append(name)
        return labels, unknown
