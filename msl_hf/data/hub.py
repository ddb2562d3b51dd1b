"""Data sets of the Hub, and parquet files, whatever way they write labels down -> the schema."""

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path

from transformers.utils import logging

from .labels import class_file, label_list, read_class_names, sorted_names, to_indices
from .schema import DataError, column, make_features

logger = logging.get_logger(__name__)

LABEL_COLUMNS = ("labels", "label", "classes", "objects.category")  # looked for in this order
PEEK = 1000  # rows of a stream that are looked at to learn how labels are written


def load_hub(
    path: str, label_column: str | None = None, class_names: list[str] | None = None, streaming: bool = False
):
    """Load a data set with an image column and labels of any of these kinds, told apart by features and values:

    - lists of `ClassLabel` or of plain indices, lists of names, or a single one of them;
    - multi-hot vectors, one number or truth value for each class;
    - the categories of boxes, as in `objects.category`.

    Args:
        path: Hub id, or a local folder of parquet files.
        label_column: Column of the labels, with a dot for a field of a column; None looks for `labels`, `label`,
            `classes` and `objects.category`.
        class_names: The class names in order. None takes those of the features, of `classes.json` or `classes.txt` in
            a local folder, the sorted names in the data, or, for indices without names, `class_0`, `class_1`, ...
        streaming: Read rows as they are needed instead of downloading everything first.

    Returns:
        `DatasetDict` of the schema, or `IterableDatasetDict` where `streaming`. `ignored`, `objects` and `crop` are
        kept where they are those of the schema; other columns are dropped.

    Raises:
        DataError: naming the column or row at fault.
    """
    from datasets import ClassLabel, DatasetDict, IterableDatasetDict, load_dataset

    try:
        loaded = load_dataset(path, streaming=streaming)
    except Exception as error:  # datasets, huggingface_hub and fsspec have no common type
        raise DataError(f"{path}: no such folder, and no such data set could be loaded ({error})") from error
    if streaming:
        loaded = {split: dataset._resolve_features() for split, dataset in loaded.items()}
    first = next(iter(loaded.values()))
    image_column, label_column = _columns(path, first.features, label_column)
    leaf = _leaf(first.features, label_column)
    if class_names is None and (file := class_file(Path(path))) is not None:
        class_names = read_class_names(file)
    if isinstance(leaf, ClassLabel):
        multi_hot, class_names = False, class_names or leaf.names
    else:
        rows = list(_label_rows(path, loaded, label_column, PEEK if streaming else None))
        multi_hot = _is_multi_hot(rows, leaf)
        class_names = class_names or _class_names(path, rows, multi_hot, streaming)
    reader = _LabelReader(label_column, multi_hot, class_names)
    convert = _convert_stream if streaming else _convert
    result = {split: convert(path, split, dataset, image_column, reader) for split, dataset in loaded.items()}
    return IterableDatasetDict(result) if streaming else DatasetDict(result)


def _columns(path: str, features: Mapping, label_column: str | None) -> tuple[str, str]:
    from datasets import Image

    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    candidates = LABEL_COLUMNS if label_column is None else (label_column,)
    found = [name for name in candidates if _leaf(features, name) is not None]
    if not images or not found:
        raise DataError(f"{path}: needs an image column and one of {', '.join(candidates)}, "
                        f"has {', '.join(features)}; name the column of the labels with --label_column")  # fmt: skip
    return images[0], found[0]


def _leaf(features, dotted: str):
    """The feature of a (dotted) column, without the lists around it; None where there is no such column."""
    for name in dotted.split("."):
        features = getattr(features, "feature", features)
        if not isinstance(features, Mapping) or name not in features:
            return None
        features = features[name]
    return getattr(features, "feature", features)


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
    for name in label_column.split(".")[1:]:
        value = value[name] if isinstance(value, Mapping) else [item[name] for item in value]
    return [value] if isinstance(value, str | int) else value


def _is_multi_hot(rows: list[tuple[str, list]], leaf) -> bool:
    """Vectors of equal length of zeros and ones, which no lists of different indices are."""
    vectors = [value for _, value in rows]
    if not vectors or not all(isinstance(vector, list | tuple) for vector in vectors):
        return False
    if len({len(vector) for vector in vectors}) != 1 or not len(vectors[0]):
        return False
    values = {value for vector in vectors for value in vector}
    if not all(isinstance(value, int | float) and value in (0, 1) for value in values):
        return False
    typed = getattr(leaf, "dtype", "").startswith(("bool", "float"))
    return typed or any(len(set(vector)) < len(vector) for vector in vectors)


def _class_names(path: str, rows: list[tuple[str, list]], multi_hot: bool, streaming: bool) -> list[str]:
    labels = [label for where, value in rows for label in label_list(value, where)]
    is_index = [not isinstance(label, str) for label in labels]
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


class _LabelReader:
    """Row -> class indices."""

    def __init__(self, label_column: str, multi_hot: bool, class_names: list[str]):
        self.label_column, self.multi_hot, self.class_names = label_column, multi_hot, class_names
        self.positions = {name: index for index, name in enumerate(class_names)}

    def __call__(self, value, where: str) -> list[int]:
        labels = _inner(value, self.label_column)
        if not self.multi_hot:
            return to_indices(labels, self.positions, where)
        if len(labels) != len(self.class_names):
            raise DataError(f"{where}: a vector of {len(labels)} numbers for {len(self.class_names)} classes")
        return [index for index, value in enumerate(labels) if value]


def _own_columns(features: Mapping, class_names: list[str]) -> dict:
    """Columns beside image and labels that are as the schema has them: of data that this package prepared."""
    schema = make_features(class_names, ignored=True, objects=True, crop=True)
    names = ("ignored", "objects", "crop")
    return {name: schema[name] for name in names if name in features and features[name] == schema[name]}


def _convert(path: str, split: str, dataset, image_column: str, reader: _LabelReader):
    """Labels and ids go into an Arrow file of their own, a thousand rows at a time: memory does not grow with rows."""
    from datasets import concatenate_datasets

    top = reader.label_column.split(".")[0]
    has_ids = "image_id" in dataset.features

    def convert(rows: dict, numbers: list[int]) -> dict:
        where = (f"{path}, split {split}, row {number}" for number in numbers)
        image_ids = rows["image_id"] if has_ids else numbers
        return {
            "labels": [reader(*row) for row in zip(rows[top], where, strict=True)],
            "image_id": [f"{split}/{image_id}" for image_id in image_ids],
        }

    features = make_features(reader.class_names)
    images = dataset.select_columns([image_column, *_own_columns(dataset.features, reader.class_names)])
    if image_column != "image":
        images = images.rename_column(image_column, "image")
    rows = dataset.select_columns([top, "image_id"] if has_ids else [top])
    del features["image"]
    rows = rows.map(convert, batched=True, with_indices=True, remove_columns=rows.column_names, features=features,
                    desc="Reading labels")  # fmt: skip
    return concatenate_datasets([images, rows], axis=1)


def _convert_stream(path: str, split: str, dataset, image_column: str, reader: _LabelReader):
    from datasets import Image

    def convert(row: dict, number: int) -> dict:
        labels = reader(row[reader.label_column.split(".")[0]], f"{path}, split {split}, row {number}")
        image_id = f"{split}/{row.get('image_id', number)}"
        return {
            "image": row[image_column],
            "labels": labels,
            "image_id": image_id,
            **{name: row[name] for name in own},
        }

    own = _own_columns(dataset.features, reader.class_names)
    features = make_features(reader.class_names)
    features.update(own)
    features["image"] = Image(decode=False)
    dataset = dataset.cast_column(image_column, Image(decode=False))
    return dataset.map(convert, with_indices=True, remove_columns=list(dataset.features), features=features)
