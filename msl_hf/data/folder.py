"""One's own photographs: folders with a metadata file, or a data set of the Hub -> the schema."""

import csv
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from .schema import DataError, make_features

METADATA_FILES = ("metadata.jsonl", "metadata.csv")
CLASS_FILES = ("classes.json", "classes.txt")
LABEL_COLUMN = "labels"


def load_image_folder(path: str | os.PathLike):
    """Load a folder of images with multi-label metadata, or a data set of the Hub with such columns.

    The folder holds one sub-folder for each split (`train`, `validation`, `test`, ...), each with a `metadata.jsonl`
    whose lines are `{"file_name": "a.jpg", "labels": ["cat", "dog"]}`, or a `metadata.csv` with the columns
    `file_name` and `labels` (separated by `;`). A folder with a metadata file of its own is the one split `train`.
    Labels are names, or indices into the class list. An image may have none.

    The class list, in this order: `classes.json` (a list) or `classes.txt` (a name a line) in the root; else the
    features of the Hub data set; else the sorted names over all splits.

    Args:
        path: The folder, or the id of a Hub data set, or a local folder of parquet files.

    Returns:
        `datasets.DatasetDict` of the schema.

    Raises:
        DataError: naming the file and line at fault.
    """
    from datasets import Dataset, DatasetDict

    root = Path(path)
    if not root.is_dir():
        return _load_hub(str(path))
    splits = {root_split.name: root_split for root_split in sorted(root.iterdir()) if _metadata_file(root_split)}
    if _metadata_file(root):
        splits = {"train": root}
    if not splits:
        if any(root.rglob("*.parquet")):
            return _load_hub(str(path))
        raise DataError(f"{root}: neither it nor a folder in it holds {' or '.join(METADATA_FILES)}")
    rows = {split: list(_read_rows(folder, _metadata_file(folder))) for split, folder in splits.items()}
    class_names = _class_names(root, rows)
    features = make_features(class_names)
    result = DatasetDict()
    for split, items in rows.items():
        columns = {
            "image": [str(row["path"]) for row in items],
            "image_id": [row["image_id"] for row in items],
            "labels": [_to_indices(row["labels"], class_names, row["where"]) for row in items],
        }
        result[split] = Dataset.from_dict(columns, features=features)
    return result


def _metadata_file(folder: Path) -> Path | None:
    files = (folder / name for name in METADATA_FILES)
    return next((file for file in files if folder.is_dir() and file.is_file()), None)


def _read_rows(folder: Path, metadata: Path) -> Iterable[dict]:
    for where, row in _read_metadata(metadata):
        name = row.get("file_name")
        if not isinstance(name, str) or not name:
            raise DataError(f"{where}: has no file_name")
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()):
            raise DataError(f"{where}: file_name {name!r} leads out of the folder")
        if LABEL_COLUMN not in row:
            raise DataError(f"{where}: has no {LABEL_COLUMN}; an image without labels needs an empty list")
        yield {"path": file, "image_id": f"{folder.name}/{name}", "labels": row[LABEL_COLUMN], "where": where}


def _read_metadata(metadata: Path) -> Iterable[tuple[str, dict]]:
    try:
        text = metadata.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{metadata}: is no UTF-8 text ({error})") from error
    if metadata.suffix == ".csv":
        for number, row in enumerate(csv.DictReader(text.splitlines()), start=2):
            labels = row.get(LABEL_COLUMN)
            if labels is not None:
                row[LABEL_COLUMN] = [label.strip() for label in labels.split(";") if label.strip()]
            yield f"{metadata}:{number}", row
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{metadata}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: is not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise DataError(f'{where}: must be an object like {{"file_name": ..., "labels": [...]}}')
        yield where, row


def _class_names(root: Path, rows: Mapping[str, list[dict]]) -> list[str]:
    file = next((root / name for name in CLASS_FILES if (root / name).is_file()), None)
    if file is not None:
        return _read_class_names(file)
    names: set[str] = set()
    for row in (row for items in rows.values() for row in items):
        for label in _label_list(row["labels"], row["where"]):
            if not isinstance(label, str) or label.isdigit():
                raise DataError(f"{row['where']}: label {label!r} is an index, which needs class names: "
                                f"write them into {root / CLASS_FILES[0]}")  # fmt: skip
            names.add(label)
    if not names:
        raise DataError(f"{root}: no image has a label, so there are no class names; add {root / CLASS_FILES[0]}")
    return sorted(names)


def _read_class_names(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        names = json.loads(text) if file.suffix == ".json" else [line.strip() for line in text.splitlines()]
    except ValueError as error:
        raise DataError(f"{file}: cannot be read ({error})") from error
    if isinstance(names, list):
        names = [name for name in names if name != ""]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{file}: must list the class names")
    if len(set(names)) != len(names):
        raise DataError(f"{file}: lists {next(name for name in names if names.count(name) > 1)!r} more than once")
    return names


def _label_list(labels, where: str) -> list:
    if not isinstance(labels, list | tuple):
        raise DataError(f"{where}: {LABEL_COLUMN} must be a list, got {labels!r}")
    return list(labels)


def _to_indices(labels, class_names: list[str], where: str) -> list[int]:
    """Names or indices -> sorted indices without repetition."""
    indices = set()
    for label in _label_list(labels, where):
        if isinstance(label, str) and label in class_names:
            indices.add(class_names.index(label))
        elif isinstance(label, int | str) and not isinstance(label, bool) and str(label).isdigit():
            if int(label) >= len(class_names):
                raise DataError(f"{where}: label {label} is outside the {len(class_names)} classes")
            indices.add(int(label))
        else:
            raise DataError(f"{where}: label {label!r} is not among the classes {', '.join(class_names[:10])}"
                            f"{', ...' if len(class_names) > 10 else ''}")  # fmt: skip
    return sorted(indices)


def _load_hub(path: str):
    """A data set of the Hub, or parquet files: an image column, and `labels` as names or ClassLabel indices."""
    from datasets import ClassLabel, DatasetDict, Image, List, load_dataset

    try:
        loaded = load_dataset(path)
    except Exception as error:  # datasets, huggingface_hub and fsspec have no common type
        raise DataError(f"{path}: no such folder, and no such data set could be loaded ({error})") from error
    first = next(iter(loaded.values()))
    images = [name for name, feature in first.features.items() if isinstance(feature, Image)]
    if not images or LABEL_COLUMN not in first.features:
        raise DataError(f"{path}: needs an image column and {LABEL_COLUMN!r}, has {', '.join(first.features)}")
    label = getattr(first.features[LABEL_COLUMN], "feature", None)
    if isinstance(label, ClassLabel):
        class_names = label.names
    else:
        rows = {split: [{"labels": labels, "where": f"{path}, split {split}, row {number}"}
                        for number, labels in enumerate(dataset[:][LABEL_COLUMN])]
                for split, dataset in loaded.items()}  # fmt: skip
        class_names = _class_names(Path(path), rows)
    result = {}
    for split, dataset in loaded.items():
        if not isinstance(label, ClassLabel):
            indices = [_to_indices(labels, class_names, f"{path}, split {split}, row {number}")
                       for number, labels in enumerate(dataset[:][LABEL_COLUMN])]  # fmt: skip
            dataset = dataset.remove_columns(LABEL_COLUMN).add_column(LABEL_COLUMN, indices)
            dataset = dataset.cast_column(LABEL_COLUMN, List(ClassLabel(names=class_names)))
        if images[0] != "image":
            dataset = dataset.rename_column(images[0], "image")
        if "image_id" not in dataset.features:
            dataset = dataset.add_column("image_id", [f"{split}/{number}" for number in range(len(dataset))])
        result[split] = dataset
    return DatasetDict(result)
