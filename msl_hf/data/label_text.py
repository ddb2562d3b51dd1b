"""Labels that are written as text, several in one cell -> lists of names."""

import ast
import json
import re
from collections.abc import Iterable

from transformers.utils import logging

from .files import listed
from .schema import DataError

logger = logging.get_logger(__name__)

SEPARATORS = (";", "|", ",")
WORD_SEPARATORS = (" ", "/", "&", "+")


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
