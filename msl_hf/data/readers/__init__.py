"""Readers, a file for each way to write labels down, and the one function that finds out which of them a path is."""

import os
from collections.abc import Sequence
from pathlib import Path

from transformers.utils import logging

from ..files import subfolders
from ..schema import DataError, column
from .class_folders import lines_for_class_folders
from .coco import read_coco
from .coco_files import find_coco_files
from .columns import read_columns
from .hub import load_hub
from .label_studio import find_exports, read_label_studio
from .labelme import annotation_files, read_labelme
from .metadata import read_metadata
from .openimages import find_tables as find_openimages
from .openimages import read_openimages
from .tables import METADATA_FILES, find_tables, read_tables
from .voc_exports import is_voc, read_voc
from .wider import load_wider, wider_files
from .yolo import read_yolo, settings_file

logger = logging.get_logger(__name__)

FORMATS = (
    "auto", "metadata", "columns", "voc", "coco", "wider", "yolo", "label_studio", "labelme", "openimages", "hub",
)  # fmt: skip


TABLES = ("metadata", "columns", "hub")
USED_BY = {  # which formats a flag means something to
    "label_column": ("metadata", "hub"), "label_columns": ("columns", "hub"), "label_separator": ("metadata", "hub"),
    "year": ("voc", "coco"), "train_json": ("coco",), "val_json": ("coco",), "image_dir": ("coco",),
}  # fmt: skip


def load_images(
    path: str | os.PathLike,
    format: str = "auto",
    label_columns: Sequence[str] | None = None,
    label_separator: str | None = None,
    class_names: Sequence[str] | None = None,
    *,
    label_column: str | None = None,
    year: int | None = None,
    keep_unlabelled: bool | None = None,
    train_json: str | None = None,
    val_json: str | None = None,
    image_dir: str | None = None,
    streaming: bool = False,
):
    """Load images and their labels, in whichever way these are written down.

    Args:
        path: A folder, the file of labels itself, or the id of a Hub data set.
        format: One of FORMATS; `"auto"` recognises it (`recognise`).
        label_columns: Of a table with a column for each class: which columns. None takes all that hold nothing else.
        label_separator: What separates labels written as text in one cell; None finds out, `"none"` is nothing.
        class_names: The class names in order, for metadata and Hub data sets; overrides every other class list.
        label_column: Of a table with one column of labels: which column, such as `objects.category`.
        year: Of a VOC or COCO tree that holds several years.
        keep_unlabelled: False leaves out all images without any label. None keeps those that were annotated with
            nothing, but for the official COCO, which the literature reads without them, and leaves out those that were
            never annotated; True keeps those, too, where the format is one file for each image. What is left out is
            counted and logged.
        train_json: COCO annotations of the training images, wherever they lie.
        val_json: COCO annotations of the validation images.
        image_dir: Where the images of COCO annotations lie.
        streaming: Read the rows of a Hub data set or of parquet files as they are needed.

    Returns:
        `datasets.DatasetDict` of the schema, an `IterableDatasetDict` where `streaming`. Splits called `val`, `valid`,
        `dev` or `eval` are `validation`, in whatever case; VOC's own stay as they are.

    Raises:
        DataError: where no format fits, where several do, and for everything that a file holds and cannot be used.
    """
    if format not in FORMATS:
        raise DataError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    if format == "auto":
        format = "coco" if train_json or val_json else recognise(path, label_columns, label_column)
    if streaming and format != "hub":
        raise DataError(f"{path}: image files in the format {format} are read from disk as they are; streaming is for "
                        "Hub data sets and parquet files")  # fmt: skip
    if class_names is not None and format not in TABLES:
        raise DataError(f"{path}: the format {format} has class names of its own; leave out --classes")
    flags = {"label_column": label_column, "label_columns": label_columns, "label_separator": label_separator,
             "year": year, "train_json": train_json, "val_json": val_json, "image_dir": image_dir}  # fmt: skip
    for flag, value in flags.items():
        if value is not None and format not in USED_BY[flag]:
            raise DataError(f"{path}: --{flag} means nothing to the format {format}; leave it out")
    read = {
        "metadata": lambda: read_metadata(path, label_column, label_separator, class_names),
        "columns": lambda: read_columns(path, label_columns, class_names),
        "voc": lambda: read_voc(path, year, keep_unlabelled),
        "coco": lambda: read_coco(path, year, keep_unlabelled, train_json, val_json, image_dir),
        "wider": lambda: load_wider(path),
        "yolo": lambda: read_yolo(path),
        "label_studio": lambda: read_label_studio(path, keep_unlabelled),
        "labelme": lambda: read_labelme(path, keep_unlabelled),
        "openimages": lambda: read_openimages(path),
        "hub": lambda: _read_hub(path, label_column, class_names, streaming, label_columns, label_separator),
    }
    datasets = read[format]()
    return datasets if streaming or keep_unlabelled is not False else _without_unlabelled(datasets)


def _read_hub(path: str | os.PathLike, label_column, class_names, streaming, label_columns, label_separator):
    """`load_hub`, unless the path is a folder without files that it reads."""
    root = Path(path)
    if root.is_dir() and not _holds_shards(root):
        raise DataError(f"{root}: neither it nor a folder in it holds {' or '.join(METADATA_FILES)}, or parquet files"
                        + lines_for_class_folders(root))  # fmt: skip
    class_names = None if class_names is None else list(class_names)
    return load_hub(str(path), label_column, class_names, streaming, label_columns, label_separator)


def _without_unlabelled(datasets):
    """The data without images that show nothing; their number is logged."""
    for split, dataset in datasets.items():
        kept = [index for index, labels in enumerate(column(dataset, "labels")) if labels]
        if len(kept) < len(dataset):
            logger.warning(f"{len(dataset) - len(kept)} images of split {split!r} without any label are left out "
                           "(--keep_unlabelled false)")  # fmt: skip
            datasets[split] = dataset.select(kept)
    return datasets


def load_image_folder(
    path: str | os.PathLike,
    label_column: str | None = None,
    class_names: list[str] | None = None,
    streaming: bool = False,
):
    """Load a folder of images with tables of labels (`read_metadata`, `read_columns`), or a data set of the Hub.

    Args:
        path: The folder, or the id of a Hub data set, or a local folder of parquet files or WebDataset tars.
        label_column: Column of the labels, such as `objects.category`.
        class_names: The class names in order; overrides every other class list.
        streaming: Stream the Hub data set.

    Returns:
        `datasets.DatasetDict` of the schema; an `IterableDatasetDict` where `streaming`.

    Raises:
        DataError: naming the file and line at fault.
    """
    format = table_format(path, label_column=label_column) or "hub"
    return load_images(path, format, class_names=class_names, label_column=label_column, streaming=streaming)


def recognise(
    path: str | os.PathLike, label_columns: Sequence[str] | None = None, label_column: str | None = None
) -> str:
    """The format that a folder, a file or an id is written in.

    Args:
        path: What is to be read.
        label_columns: Given where a table has a column for each class.
        label_column: Given where a table has a column of labels of some name.

    Raises:
        DataError: where none fits, with what was looked for, or several do.
    """
    root = Path(path)
    if not root.exists():
        return "hub"
    table = table_format(root, label_columns, label_column)
    if table and (label_columns or label_column):
        return table
    found = [name for name in (table, *_other_formats(root)) if name]
    if len(found) > 1:
        raise DataError(f"{root}: may be {' or '.join(found)}; say which with --format (--dataset), or name the file")
    if found:
        return found[0]
    if root.is_dir() and _holds_shards(root):
        return "hub"
    raise DataError(
        f"{root}: holds no labels in a known way: metadata.jsonl or .csv, a CSV file with a column of labels or one "
        "for each class, VOC's or labelme's files beside the images, COCO's or Label Studio's JSON, YOLO's data.yaml, "
        f"OpenImages' CSV, parquet files{_below(root)}{lines_for_class_folders(root)}"
    )


def table_format(
    path: str | os.PathLike, label_columns: Sequence[str] | None = None, label_column: str | None = None
) -> str | None:
    """`metadata` or `columns`, as the named columns or the first table with rows say; None without tables."""
    root = Path(path)
    if root.is_file() and root.suffix not in (".csv", ".jsonl", ".txt"):
        return None
    named = label_columns or ([label_column] if label_column else [])
    if not root.exists() or (root.is_dir() and not find_tables(root, named)):
        return None
    if named:
        return "columns" if label_columns else "metadata"
    return next((table.kind for table in read_tables(root) if table.rows and table.kind), "metadata")


def _below(root: Path) -> str:
    """A hint at a folder within that would do, as archives unpack into one."""
    for folder in subfolders(root)[:10] if root.is_dir() else ():
        found = [name for name in (table_format(folder), *_other_formats(folder)) if name]
        if found:
            return f". {folder} looks like {found[0]}: name that folder"
    return ""


def _other_formats(root: Path) -> list[str]:
    if root.is_file():
        fits = {
            "coco": root.suffix == ".json" and bool(find_coco_files(root)),
            "label_studio": root.suffix == ".json" and bool(find_exports(root)),
            "yolo": root.suffix in (".yaml", ".yml", ".data"),
        }
    else:
        fits = {
            "voc": is_voc(root),
            "coco": bool(find_coco_files(root)),
            "wider": bool(wider_files(root)),
            "yolo": settings_file(root) is not None,
            "label_studio": bool(find_exports(root)),
            "labelme": bool(annotation_files(root)),
            "openimages": bool(find_openimages(root)),
        }
    return [name for name, does in fits.items() if does]


def _holds_shards(root: Path) -> bool:
    patterns = (f"{depth}*.{ending}" for ending in ("parquet", "tar") for depth in ("", "*/", "*/*/"))
    return any(next(root.glob(pattern), None) is not None for pattern in patterns)
