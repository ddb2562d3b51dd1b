"""Labels that are written as a number for each class: present, absent or unknown."""

from collections.abc import Iterable, Mapping, Sequence

from transformers.utils import logging

from .schema import DataError

logger = logging.get_logger(__name__)

STATES = {
    **dict.fromkeys(("1", "1.0", "true", "yes", "t", "y"), 1),
    **dict.fromkeys(("0", "0.0", "false", "no", "f", "n"), 0),
    **dict.fromkeys(("-1", "-1.0"), -1),
    **dict.fromkeys(("", "nan", "null", "none", "na", "n/a", "?", "unknown"), None),
}


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
