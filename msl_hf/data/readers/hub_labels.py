"""How the labels of a data set of the Hub are written, told apart by features and values."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from transformers.utils import logging

from ..files import listed
from ..label_states import StateColumns, is_multi_hot, is_state, label_state
from ..label_text import LabelText
from ..labels import label_list, sorted_names
from ..schema import DataError, column
from .samples import known_and_unknown
from .tables import KNOWN_COLUMNS

logger = logging.get_logger(__name__)

# Looked for in this order, in whatever case.
LABEL_COLUMNS = ("labels", "label", "classes", "objects.category", "objects.categories")
SCALARS = {"bool", "string", *(f"{kind}{bits}" for kind in ("int", "uint", "float") for bits in (8, 16, 32, 64))}
PEEK = 1000  # rows of a stream that are looked at to learn how labels are written


def find_label_column(features: Mapping, given: str | None) -> str | None:
    """The column that holds all labels of an image; None where there is none of that name, or of LABEL_COLUMNS."""
    if given is not None:
        return given if _leaf(features, given) is not None else None
    folded = {name.casefold(): name for name in features}
    candidates = (".".join([folded.get(name.split(".")[0], name), *name.split(".")[1:]]) for name in LABEL_COLUMNS)
    return next((name for name in candidates if _leaf(features, name) is not None), None)


def stored_class_names(features: Mapping) -> list[str] | None:
    """The class names that the features of a data set hold; None where they hold none."""
    column_name = find_label_column(features, None)
    return getattr(_leaf(features, column_name), "names", None) if column_name is not None else None


@dataclass
class LabelReader:
    """How the labels of a row are read.

    Args:
        columns: The columns that it looks at.
        class_names: The class names in order.
        read: (row with these columns, where) -> (indices of the labels, of the unknown ones).
        has_unknown: Whether labels can be unknown.

    Raises:
        DataError: when called, for an unknown label where there should be none.
    """

    columns: list[str]
    class_names: list[str]
    read: Callable[[Mapping, str], tuple[list[int], list[int]]]
    has_unknown: bool

    def __call__(self, row: Mapping, where: str) -> tuple[list[int], list[int]]:
        """The indices of the labels of a row, and of those of which nothing is known."""
        labels, unknown = self.read(row, where)
        if unknown and not self.has_unknown:
            raise DataError(f"{where}: has unknown labels, and none of the first {PEEK} rows of the stream has; read "
                            "the data without streaming")  # fmt: skip
        return labels, unknown


def reader_of_lists(
    path: str, loaded: Mapping, label_column: str, class_names, separator: str | None, streaming: bool
) -> LabelReader:
    """Of a column that holds all labels of an image."""
    from datasets import ClassLabel

    features = next(iter(loaded.values())).features
    top, feature, leaf = label_column.split(".")[0], _feature(features, label_column), _leaf(features, label_column)
    known = {name: name for name in KNOWN_COLUMNS if name in features}
    is_own = isinstance(_leaf(features, "ignored"), ClassLabel)
    text, multi_hot, rows, has_null = None, False, [], False
    if isinstance(leaf, ClassLabel):
        class_names = class_names or leaf.names
    else:
        limit = PEEK if streaming else None
        rows = list(_label_rows(path, loaded, label_column, limit))
        has_null = any(labels is None for _, labels in rows)
        rows = [row for row in rows if row[1] is not None]
        if getattr(feature, "dtype", None) == "string":
            texts = (label for _, labels in rows for label in labels)
            text = LabelText(texts, f"{path}, column {label_column!r}", separator)
            rows = [(where, [part for label in labels for part in text(label)]) for where, labels in rows]
        if feature is not leaf:  # a list
            multi_hot = is_multi_hot(rows, None if class_names is None else len(class_names))
        class_names = class_names or _class_names(path, rows, multi_hot, streaming)
    class_names = list(class_names)
    positions = {name: index for index, name in enumerate(class_names)}
    states = StateColumns(class_names, (value for _, row in rows for value in row), path) if multi_hot else None
    has_columns = bool(set(known) - {"ignored"} or (known and not is_own))
    has_unknown = has_null or has_columns or _may_be_unknown(loaded, top, rows)
    if is_own and not has_unknown:  # it is of the schema, and kept as it is
        del known["ignored"]

    def read(row: Mapping, where: str) -> tuple[list[int], list[int]]:
        labels = _inner(row[top], label_column)
        ignored, annotated = (_texts(row[known[name]]) if name in known else None for name in KNOWN_COLUMNS)
        if text is not None and labels is not None:
            labels = [part for label in labels for part in text(label)]
        if labels is None or labels == [-1]:  # nothing is known of the image
            labels, annotated = [], []
        elif multi_hot:
            if len(labels) != len(class_names):
                raise DataError(f"{where}: a vector of {len(labels)} numbers for {len(class_names)} classes")
            labels, unknown = states(dict(zip(class_names, labels, strict=True)), where)
            ignored = [*(ignored or []), *unknown]
        if is_own and ignored:
            ignored = [class_names[label] if isinstance(label, int) else label for label in ignored]
        if isinstance(leaf, ClassLabel):  # numbers are indices, whatever the classes are called
            labels = [class_names[label] if 0 <= label < len(class_names) else label for label in labels]
        return known_and_unknown(labels, ignored or [], annotated, positions, where)

    return LabelReader([top, *known.values()], class_names, read, has_unknown)


def _texts(labels) -> list | None:
    """A list of labels, which may be one text."""
    return [part.strip() for part in labels.split(";")] if isinstance(labels, str) else labels


def _may_be_unknown(loaded: Mapping, top: str, rows: Sequence[tuple[str, list]]) -> bool:
    """Whether some image has labels of which nothing is known: null, -1 or NaN; of a stream, in its first rows."""
    import pyarrow.compute as pc
    from datasets import ClassLabel, IterableDataset

    if any(value is None or value == -1 or value != value for _, row in rows for value in row):
        return True
    for dataset in loaded.values():
        if isinstance(dataset, IterableDataset):
            return False
        values = dataset.data.column(top)
        is_scalar = isinstance(dataset.features[top], ClassLabel)
        if values.null_count or (is_scalar and len(values) and pc.min(values).as_py() == -1):
            return True
    return False


def reader_of_columns(path: str, loaded: Mapping, names: Sequence[str] | None, streaming: bool) -> LabelReader:
    """Of a column for each class."""
    features = next(iter(loaded.values())).features
    missing = [name for name in names or () if name not in features]
    if missing:
        raise DataError(f"{path}: has no column {missing[0]!r}; it has {', '.join(features)}")
    scalars = [name for name, feature in features.items() if getattr(feature, "dtype", "") in SCALARS]
    values = {name: _distinct(loaded, name, streaming) for name in names or scalars}
    if not names:
        names = [name for name in scalars if all(map(is_state, values[name]))
                 and any(label_state(value) is not None for value in values[name])]  # fmt: skip
        if not names:
            raise DataError(f"{path}: needs an image column and one of {', '.join(LABEL_COLUMNS)}, or a column of "
                            f"ones and zeros for each class, has {', '.join(features)}; name the column of the labels "
                            "with --label_column, or those of the classes with --label_columns")  # fmt: skip
        logger.warning(f"{path}: the columns {listed(names, 20)} are taken for classes "
                       "(--label_columns says otherwise)")  # fmt: skip
    states = StateColumns(names, (value for name in names for value in values[name]), path)
    positions = {name: index for index, name in enumerate(names)}

    def read(row: Mapping, where: str) -> tuple[list[int], list[int]]:
        labels, unknown = states(row, where)
        return [positions[name] for name in labels], [positions[name] for name in unknown]

    return LabelReader(list(names), list(names), read, has_unknown=True)


def _distinct(loaded: Mapping, name: str, streaming: bool) -> list:
    """The distinct values of a column; of the first rows where these are no states anyhow, and of a stream."""
    first = {str(row[name]) for dataset in loaded.values()
             for row in itertools.islice(dataset.select_columns([name]), PEEK)}  # fmt: skip
    if streaming or not all(is_state(value) for value in first):
        return sorted(first)
    return [value for dataset in loaded.values() for value in dataset.unique(name)]


def _feature(features, dotted: str):
    """The feature of a (dotted) column; None where there is no such column."""
    for name in dotted.split("."):
        features = getattr(features, "feature", features)
        if not isinstance(features, Mapping) or name not in features:
            return None
        features = features[name]
    return features


def _leaf(features, dotted: str):
    """The feature of a (dotted) column, without the lists around it; None where there is no such column."""
    feature = _feature(features, dotted)
    return getattr(feature, "feature", feature)


def _label_rows(path: str, loaded: Mapping, label_column: str, limit: int | None) -> Iterable[tuple[str, list]]:
    """(where, labels as stored) of all rows, or of the first ones of the first split."""
    top = label_column.split(".")[0]
    for split, dataset in loaded.items():
        if limit is None:
            values = column(dataset, top)
        else:
            values = [row[top] for row in itertools.islice(dataset.select_columns([top]), limit)]
        for number, value in enumerate(values):
            yield f"{path}, split {split}, row {number}", _inner(value, label_column)
        if limit is not None:
            return


def _inner(value, label_column: str):
    """The labels within the value of a column: of `objects`, a dictionary of lists or a list of dictionaries."""
    if value is None:
        return None
    for name in label_column.split(".")[1:]:
        value = value[name] if isinstance(value, Mapping) else [item[name] for item in value]
    return [value] if isinstance(value, str | int) else value


def _class_names(path: str, rows: list[tuple[str, list]], multi_hot: bool, streaming: bool) -> list[str]:
    labels = [label for where, value in rows for label in label_list(value, where)]
    is_index = [not isinstance(label, str) for label in labels]
    if not multi_hot and any(isinstance(label, float) for label in labels):
        where = next(where for where, value in rows if any(isinstance(label, float) for label in value))
        raise DataError(
            f"{where}: labels are numbers such as {labels[0]}, neither indices nor 1, 0 and -1 for each class"
        )
    if streaming and not multi_hot:
        raise DataError(f"{path}: a stream cannot be searched for its class names; "
                        "write them, one a line, into a file and pass --classes FILE")  # fmt: skip
    if multi_hot or (labels and all(is_index)):
        count = len(rows[0][1]) if multi_hot else 1 + max(labels)
        logger.warning(f"{path}: its {count} classes have no names; they are called class_0, class_1, ... "
                       "(--classes FILE gives them names)")  # fmt: skip
        return [f"class_{index}" for index in range(count)]
    names = sorted_names(rows)
    if not names:
        raise DataError(f"{path}: no image has a label, so there are no class names; pass --classes FILE")
    return names
