"""One's own photographs: folders with a metadata file, or a data set of the Hub -> the schema."""

import csv
import json
import os
from collections.abc import Iterable
from pathlib import Path

from .hub import load_hub
from .labels import CLASS_FILES, class_file, read_class_names, sorted_names, to_indices
from .schema import DataError, make_features, path_inside

METADATA_FILES = ("metadata.jsonl", "metadata.csv")
LABEL_COLUMN = "labels"


def load_image_folder(
    path: str | os.PathLike,
    label_column: str | None = None,
    class_names: list[str] | None = None,
    streaming: bool = False,
):
    """Load a folder of images with multi-label metadata, or a data set of the Hub (see `data.hub.load_hub`).

    The folder holds one sub-folder for each split (`train`, `validation`, `test`, ...), each with a `metadata.jsonl`
    whose lines are `{"file_name": "a.jpg", "labels": ["cat", "dog"]}`, or a `metadata.csv` with the columns
    `file_name` and `labels` (separated by `;`). A folder with a metadata file of its own is the one split `train`.
    Labels are names, or indices into the class list. An image may have none.

    The class list, in this order: `classes.json` (a list) or `classes.txt` (a name a line) in the root; else the
    features of the Hub data set; else the sorted names over all splits.

    Args:
        path: The folder, or the id of a Hub data set, or a local folder of parquet files or WebDataset tars.
        label_column: Column of the labels of a Hub data set, such as `objects.category`.
        class_names: The class names in order; overrides every other class list.
        streaming: Stream the Hub data set.

    Returns:
        `datasets.DatasetDict` of the schema; an `IterableDatasetDict` where `streaming`.

    Raises:
        DataError: naming the file and line at fault.
    """
    from datasets import Dataset, DatasetDict

    root = Path(path)
    if not root.is_dir():
        return load_hub(str(path), label_column, class_names, streaming)
    splits = {root_split.name: root_split for root_split in sorted(root.iterdir()) if _metadata_file(root_split)}
    if _metadata_file(root):
        splits = {"train": root}
    if not splits:
        if any(root.rglob("*.parquet")) or any(root.rglob("*.tar")):
            return load_hub(str(path), label_column, class_names, streaming)
        raise DataError(f"{root}: neither it nor a folder in it holds {' or '.join(METADATA_FILES)}")
    if streaming:
        raise DataError(f"{root}: a folder of image files is read from disk as it is; streaming is for Hub data sets")
    rows = {split: list(_read_rows(folder, _metadata_file(folder))) for split, folder in splits.items()}
    class_names = class_names or _class_names(root, [row for items in rows.values() for row in items])
    features, positions = make_features(class_names), {name: index for index, name in enumerate(class_names)}
    result = DatasetDict()
    for split, items in rows.items():
        columns = {
            "image": [str(row["path"]) for row in items],
            "image_id": [row["image_id"] for row in items],
            "labels": [to_indices(row["labels"], positions, row["where"]) for row in items],
        }
        result[split] = Dataset.from_dict(columns, features=features)
    return result


def _metadata_file(folder: Path) -> Path | None:
    files = (folder / name for name in METADATA_FILES)
    return next((file for file in files if folder.is_dir() and file.is_file()), None)


def _read_rows(folder: Path, metadata: Path) -> Iterable[dict]:
    seen: dict[Path, str] = {}
    for where, row in _read_metadata(metadata):
        name = row.get("file_name")
        if not isinstance(name, str) or not name:
            raise DataError(f"{where}: has no file_name")
        file = path_inside(folder, name, where)
        if not file.resolve().is_relative_to(folder.resolve()):  # through a link
            raise DataError(f"{where}: file_name {name!r} leads out of the folder")
        if file in seen:
            raise DataError(f"{where}: {name} has been listed already, at {seen[file]}")
        seen[file] = where
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


def _class_names(root: Path, rows: list[dict]) -> list[str]:
    file = class_file(root)
    if file is not None:
        return read_class_names(file)
    names = sorted_names((row["where"], row["labels"]) for row in rows)
    if not names:
        raise DataError(f"{root}: no image has a label, so there are no class names; add {root / CLASS_FILES[0]}")
    return names
