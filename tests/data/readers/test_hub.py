"""Data sets as others publish them, saved as parquet, which loads as a Hub id does."""

import io
import json
import tarfile

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from msl_hf.data import ImageDataset, build_processor, load_image_folder
from msl_hf.data.schema import DataError, class_names_of, column

NAMES = ["cat", "dog", "fish"]
TRUTH = [[0, 2], [1], [], [0, 1, 2], [2]]
HOT = [[int(label in labels) for label in range(3)] for labels in TRUTH]


def save(folder, image_column="picture", **columns):
    """A data set of five images under the given columns: name -> (values, feature)."""
    images = [PILImage.fromarray(np.full((8, 8, 3), 40 * index, np.uint8)) for index in range(len(TRUTH))]
    features = {image_column: Image(), **{name: feature for name, (_, feature) in columns.items()}}
    values = {image_column: images, **{name: values for name, (values, _) in columns.items()}}
    folder.mkdir(exist_ok=True)
    Dataset.from_dict(values, features=Features(features)).to_parquet(folder / "train.parquet")
    return folder


BOXES = [{"category": labels, "bbox": [[0.0, 0.0, 4.0, 4.0]] * len(labels)} for labels in TRUTH]
BOX_FEATURE = {"category": List(ClassLabel(names=NAMES)), "bbox": List(List(Value("float32")))}
KINDS = {
    "class labels": {"labels": (TRUTH, List(ClassLabel(names=NAMES)))},
    "names": {"labels": ([[NAMES[label] for label in labels] for labels in TRUTH], List(Value("string")))},
    "multi-hot int": {"labels": (HOT, List(Value("int64")))},
    "multi-hot float": {"label": (HOT, List(Value("float32")))},
    "multi-hot fixed length": {"labels": (HOT, List(Value("bool"), length=3))},
    "indices": {"classes": (TRUTH, List(Value("int64")))},
    "boxes": {"objects": (BOXES, BOX_FEATURE)},
    "list of boxes": {"objects": ([[{"category": label} for label in labels] for labels in TRUTH],
                                  List({"category": ClassLabel(names=NAMES)}))},
}  # fmt: skip
NAMELESS = ("multi-hot int", "multi-hot float", "multi-hot fixed length", "indices")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_write_labels(kind, streaming, tmp_path):
    given = NAMES if streaming and kind in ("names", "indices") else None
    data = load_image_folder(save(tmp_path / "set", **KINDS[kind]), class_names=given, streaming=streaming)["train"]
    expected = ["class_0", "class_1", "class_2"] if kind in NAMELESS and given is None else NAMES
    assert class_names_of(data) == expected
    assert set(data.features) == {"image", "labels", "image_id"}
    rows = list(data)
    assert [row["labels"] for row in rows] == TRUTH
    assert [row["image_id"] for row in rows] == [f"train/{index}" for index in range(5)]


@pytest.mark.parametrize("image_column", ["picture", "image"])
def test_pixels_arrive(image_column, tmp_path):
    data = load_image_folder(save(tmp_path / "set", image_column, **KINDS["boxes"]))["train"]
    pixel_values = ImageDataset(data, build_processor(None, 8, [0, 0, 0], [1, 1, 1]))[3]["pixel_values"]
    assert pixel_values.mean().item() == pytest.approx(120 / 255, abs=1e-3)


def test_class_names_from_a_file_and_another_column(tmp_path):
    folder = save(tmp_path / "set", **{**KINDS["indices"], "tags": KINDS["names"]["labels"]})
    (folder / "classes.txt").write_text("cat\ndog\nfish\nbird\n")
    for label_column in (None, "tags"):
        data = load_image_folder(folder, label_column=label_column)["train"]
        assert class_names_of(data) == [*NAMES, "bird"] and column(data, "labels") == TRUTH


def test_errors(tmp_path):
    folder = save(tmp_path / "set", tags=KINDS["names"]["labels"])
    with pytest.raises(DataError, match="needs an image column and one of labels,.*has picture, tags.*--label_column"):
        load_image_folder(folder)
    folder = save(tmp_path / "names", **KINDS["names"])
    with pytest.raises(DataError, match="row 0: label 'cat' is not among the classes dog, fish"):
        load_image_folder(folder, class_names=["dog", "fish"])
    with pytest.raises(DataError, match="stream.*--classes FILE"):
        load_image_folder(folder, streaming=True)
    with pytest.raises(DataError, match="no-such/data-set: no such folder, and no such data set"):
        load_image_folder("no-such/data-set")


@pytest.mark.parametrize("streaming", [False, True])
def test_webdataset_tars(streaming, tmp_path):
    """Images and JSON files side by side in tars, as WebDataset has them."""
    with tarfile.open(tmp_path / "train-00000.tar", "w") as tar:
        for number, labels in enumerate(TRUTH):
            picture = io.BytesIO()
            PILImage.new("RGB", (8, 8), (40 * number, 0, 0)).save(picture, "PNG")
            described = json.dumps({"labels": [NAMES[label] for label in labels]}).encode()
            for ending, content in (("png", picture.getvalue()), ("json", described)):
                info = tarfile.TarInfo(f"{number:04d}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    data = load_image_folder(tmp_path, label_column="json.labels", class_names=NAMES, streaming=streaming)["train"]
    assert [row["labels"] for row in data] == TRUTH
