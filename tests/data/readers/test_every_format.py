"""The same photographs and labels in every format; what is peculiar to one has a test file of its own."""

import numpy as np
import pytest
from exports import BOXED, EXPORTS, IMAGES, NAMES

from msl_hf.data import load_images
from msl_hf.data.readers import FORMATS, recognise
from msl_hf.data.schema import DataError, class_names_of, column


@pytest.mark.parametrize("name", EXPORTS)
@pytest.mark.parametrize("given", ["auto", "by name"])
def test_labels_boxes_and_pixels(name, given, tmp_path):
    EXPORTS[name](tmp_path)
    data = load_images(tmp_path, "auto" if given == "auto" else name)
    assert recognise(tmp_path) == name
    assert list(data) == ["train", "validation"] and class_names_of(data["train"]) == NAMES
    for split, images in IMAGES.items():
        rows = {chr(row["image"].getpixel((0, 0))[0]): row for row in data[split]}
        assert sorted(rows) == sorted(file[0] for file in images) and len(rows) == len(data[split])
        for file, boxes in images.items():
            row = rows[file[0]]
            assert [NAMES[label] for label in row["labels"]] == sorted(boxes)
            assert not row.get("ignored")
            if name in BOXED:
                found = dict(zip((NAMES[label] for label in row["objects"]["label"]), row["objects"]["bbox"],
                                 strict=True))  # fmt: skip
                assert found.keys() == boxes.keys()
                for label, box in boxes.items():
                    np.testing.assert_allclose(found[label], box, atol=1e-4)
    assert ("objects" in data["train"].features) == (name in BOXED)


def test_every_format_is_tried_here():
    assert set(FORMATS) - set(EXPORTS) == {"auto", "hub", "wider"}  # which have test files of their own


def test_two_formats_at_once_are_refused(tmp_path):
    EXPORTS["yolo"](tmp_path)
    EXPORTS["columns"](tmp_path)
    with pytest.raises(DataError, match="may be columns or yolo; say which with --format"):
        load_images(tmp_path)
    assert column(load_images(tmp_path, "yolo")["train"], "labels") == [[0, 1], []]


def test_what_is_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no labels in a known way"):
        load_images(tmp_path)
    with pytest.raises(DataError, match="format must be one of auto, metadata"):
        load_images(tmp_path, "yaml")
    EXPORTS["yolo"](tmp_path / "unpacked")
    with pytest.raises(DataError, match="known way.*unpacked looks like yolo: name that folder"):
        load_images(tmp_path)
    EXPORTS["yolo"](tmp_path)
    with pytest.raises(DataError, match="streaming is for Hub data sets"):
        load_images(tmp_path, streaming=True)
    with pytest.raises(DataError, match="yolo has class names of its own"):
        load_images(tmp_path, class_names=["dog", "cat"])
