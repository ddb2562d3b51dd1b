"""Reading data for a run: the flags that say how they are stored, and what was recognised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..data import load_images, load_voc, make_scenes
from ..data.files import listed
from ..data.labels import read_class_names
from ..data.readers import recognise, table_format
from ..data.schema import class_names_of

if TYPE_CHECKING:
    from datasets import Dataset

SHOWN_CLASSES = 20


@dataclass(kw_only=True)
class ReadingArguments:
    """How the labels are written down."""

    label_column: str | None = field(
        default=None, metadata={"help": "Column of the labels in a table or Hub data set, such as objects.category."}
    )
    label_columns: list[str] | None = field(
        default=None, metadata={"help": "Columns of a table that has one for each class; default: all with 1 and 0."}
    )
    label_separator: str | None = field(
        default=None, metadata={"help": "What separates labels in one cell; default: found out. none: nothing does."}
    )
    classes: str | None = field(
        default=None, metadata={"help": "File with the class names: a JSON list, or a name a line."}
    )
    year: int | None = field(default=None, metadata={"help": "Year of VOC or COCO where there are several."})
    train_json: str | None = field(default=None, metadata={"help": "COCO annotations of the training images."})
    val_json: str | None = field(default=None, metadata={"help": "COCO annotations of the validation images."})
    image_dir: str | None = field(default=None, metadata={"help": "Where the images of COCO annotations lie."})
    keep_unlabelled: bool | None = field(
        default=None,
        metadata={"help": "Keep images without labels; default: false for the official COCO, true for exports."},
    )


def data_source(data_dir: str | None, reading: ReadingArguments) -> str | None:
    """Where the data lie: `--data_dir`, else beside the annotations that are named; None without any."""
    file = reading.train_json or reading.val_json
    return data_dir if data_dir is not None or file is None else str(Path(file).parent)


def generated_scenes(output_dir: str, doing: str) -> Mapping[str, Dataset]:
    """The scenes that stand for photographs where no data are named, in `scenes` beside the output folder.

    Args:
        output_dir: Of the run.
        doing: What the run does with them, for the printed line.
    """
    scenes = Path(output_dir).parent / "scenes"
    print(f"No --data_dir: {doing} generated scenes instead of photographs, in {scenes}")
    return load_voc(make_scenes(scenes))


def format_of(path: str, format: str, reading: ReadingArguments) -> str:
    """The format; for `auto` what the path is recognised as, for `folder` that of its tables, else `hub`."""
    if reading.train_json or reading.val_json:
        return "coco"
    if format == "folder":
        return table_format(path, reading.label_columns, reading.label_column) or "hub"
    return recognise(path, reading.label_columns, reading.label_column) if format == "auto" else format


def read_data(path: str, format: str, reading: ReadingArguments, streaming: bool = False) -> Mapping[str, Dataset]:
    """The `DatasetDict` of the schema, and a few printed lines about what was recognised.

    Args:
        path: Folder, file or Hub id.
        format: As `format_of` takes it.
        reading: How the labels are written down.
        streaming: Stream a Hub data set.
    """
    format = format_of(path, format, reading)
    datasets = load_images(
        path,
        format,
        reading.label_columns,
        reading.label_separator,
        None if reading.classes is None else read_class_names(reading.classes),
        label_column=reading.label_column,
        year=reading.year,
        keep_unlabelled=reading.keep_unlabelled,
        train_json=reading.train_json,
        val_json=reading.val_json,
        image_dir=reading.image_dir,
        streaming=streaming,
    )
    describe(path, format, datasets)
    return datasets


def describe(path: str, format: str, datasets: Mapping[str, Dataset]) -> None:
    """Print the format, the splits with their numbers of images, unlabelled images and unknown labels, the classes."""
    from datasets import IterableDataset

    print(f"{path}: read as {format}")
    for split, dataset in datasets.items():
        if isinstance(dataset, IterableDataset):
            print(f"  {split}: a stream")
            continue
        unlabelled = int((_lengths(dataset, "labels") == 0).sum())
        unknown = int(_lengths(dataset, "ignored").sum()) if "ignored" in dataset.features else 0
        print(f"  {split}: {len(dataset)} images, {unlabelled} of them without any label, {unknown} unknown labels")
    names = class_names_of(next(iter(datasets.values())))
    print(f"  {len(names)} classes: {listed(names, SHOWN_CLASSES)}")


def _lengths(dataset: Dataset, name: str) -> np.ndarray:
    """The length of each list of a column, which may have millions of rows."""
    import pyarrow.compute as pc

    batches = dataset.with_format("arrow").select_columns([name]).iter(batch_size=100_000)
    return np.concatenate(
        [np.zeros(0, int), *(pc.fill_null(pc.list_value_length(batch[name]), 0).to_numpy() for batch in batches)]
    )
