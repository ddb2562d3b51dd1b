"""Data sets of the Hub, and parquet files, whatever way they write labels down -> the schema."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..labels import class_file, read_class_names
from ..schema import DataError, make_features
from .hub_labels import LabelReader, find_label_column, reader_of_columns, reader_of_lists


def load_hub(
    path: str,
    label_column: str | None = None,
    class_names: list[str] | None = None,
    streaming: bool = False,
    label_columns: Sequence[str] | None = None,
    label_separator: str | None = None,
):
    """Load a data set with an image column and labels of any of these kinds, told apart by features and values:

    - lists of `ClassLabel` or of plain indices, lists of names, or a single one of them;
    - texts that hold several names (see `LabelText`);
    - multi-hot vectors, one number or truth value for each class, -1 and NaN where it is unknown;
    - the categories of boxes, as in `objects.category`;
    - a column of numbers or truth values for each class (see `StateColumns`).

    A column `ignored` lists the classes of which nothing is known.

    Args:
        path: Hub id, or a local folder of parquet files.
        label_column: Column of the labels, with a dot for a field of a column; None looks for `labels`, `label`,
            `classes` and `objects.category`.
        class_names: The class names in order. None takes those of the features, of `classes.json` or `classes.txt` in
            a local folder, the sorted names in the data, or, for indices without names, `class_0`, `class_1`, ...
        streaming: Read rows as they are needed instead of downloading everything first.
        label_columns: A column for each class; None takes all that hold nothing but 1, 0, -1 and blanks, where there
            is no column of labels.
        label_separator: What separates labels written as text; None finds out.

    Returns:
        `DatasetDict` of the schema, or `IterableDatasetDict` where `streaming`. `ignored`, `objects` and `crop` are
        kept where they are those of the schema; other columns are dropped.

    Raises:
        DataError: naming the column or row at fault.
    """
    from datasets import load_dataset

    try:
        loaded = load_dataset(path, streaming=streaming)
    except Exception as error:  # datasets, huggingface_hub and fsspec have no common type
        raise DataError(f"{path}: no such folder, and no such data set could be loaded ({error})") from error
    if class_names is None and (file := class_file(Path(path))) is not None:
        class_names = read_class_names(file)
    return as_schema(path, loaded, label_column, class_names, label_columns, label_separator)


def as_schema(
    path: str,
    loaded: Mapping,
    label_column: str | None = None,
    class_names: Sequence[str] | None = None,
    label_columns: Sequence[str] | None = None,
    label_separator: str | None = None,
):
    """What `datasets` has loaded, with an image column and labels of any kind, in the schema.

    Args:
        path: What messages call the data.
        loaded: Split -> data set or stream.
        label_column: As for `load_hub`, as are the others.

    Returns:
        `DatasetDict`, or `IterableDatasetDict` of streams.

    Raises:
        DataError: naming the column or row at fault.
    """
    from datasets import DatasetDict, IterableDataset, IterableDatasetDict

    streaming = isinstance(next(iter(loaded.values())), IterableDataset)
    if streaming:
        loaded = {split: dataset._resolve_features() for split, dataset in loaded.items()}
    features = next(iter(loaded.values())).features
    image_column = _image_column(path, features)
    column_name = None if label_columns else find_label_column(features, label_column)
    if column_name is not None:
        reader = reader_of_lists(path, loaded, column_name, class_names, label_separator, streaming)
    elif label_column is not None:
        raise DataError(f"{path}: has no column {label_column!r}; it has {', '.join(features)}")
    else:
        reader = reader_of_columns(path, loaded, label_columns, streaming)
    convert = _convert_stream if streaming else _convert
    result = {split: convert(path, split, dataset, image_column, reader) for split, dataset in loaded.items()}
    return IterableDatasetDict(result) if streaming else DatasetDict(result)


def _image_column(path: str, features: Mapping) -> str:
    from datasets import Image

    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    if not images:
        raise DataError(f"{path}: needs an image column, has {', '.join(features)}")
    return images[0]


def _own_columns(features: Mapping, reader: LabelReader) -> dict:
    """Columns beside image and labels that are as the schema has them: of data that this package prepared."""
    schema = make_features(reader.class_names, ignored=True, objects=True, crop=True)
    names = ("objects", "crop") if reader.has_unknown else ("ignored", "objects", "crop")
    return {name: schema[name] for name in names if name in features and features[name] == schema[name]}


def _convert(path: str, split: str, dataset, image_column: str, reader: LabelReader):
    """Labels and ids go into an Arrow file of their own, a thousand rows at a time: memory does not grow with rows."""
    from datasets import concatenate_datasets

    has_ids = "image_id" in dataset.features

    def convert(rows: dict, numbers: list[int]) -> dict:
        read = []
        for at, number in enumerate(numbers):
            row = {name: rows[name][at] for name in reader.columns}
            read.append(reader(row, f"{path}, split {split}, row {number}"))
        image_ids = rows["image_id"] if has_ids else numbers
        return {
            "labels": [labels for labels, _ in read],
            "image_id": [f"{split}/{image_id}" for image_id in image_ids],
            **({"ignored": [ignored for _, ignored in read]} if reader.has_unknown else {}),
        }

    features = make_features(reader.class_names, ignored=reader.has_unknown)
    images = dataset.select_columns([image_column, *_own_columns(dataset.features, reader)])
    if image_column != "image":
        images = images.rename_column(image_column, "image")
    rows = dataset.select_columns([*reader.columns, *(["image_id"] if has_ids else [])])
    del features["image"]
    rows = rows.map(convert, batched=True, with_indices=True, remove_columns=rows.column_names, features=features,
                    desc="Reading labels")  # fmt: skip
    return concatenate_datasets([images, rows], axis=1)


def _convert_stream(path: str, split: str, dataset, image_column: str, reader: LabelReader):
    from datasets import Image

    def convert(row: dict, number: int) -> dict:
        labels, ignored = reader(row, f"{path}, split {split}, row {number}")
        return {
            "image": row[image_column],
            "labels": labels,
            "image_id": f"{split}/{row.get('image_id', number)}",
            **({"ignored": ignored} if reader.has_unknown else {}),
            **{name: row[name] for name in own},
        }

    own = _own_columns(dataset.features, reader)
    features = make_features(reader.class_names, ignored=reader.has_unknown)
    features.update(own)
    features["image"] = Image(decode=False)
    dataset = dataset.cast_column(image_column, Image(decode=False))
    return dataset.map(convert, with_indices=True, remove_columns=list(dataset.features), features=features)
