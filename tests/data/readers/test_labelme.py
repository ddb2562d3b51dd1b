"""labelme: a JSON file beside each image, as version 5 writes it. Every image is 40 pixels wide and 30 high."""

import base64
import io
import json

import pytest
from PIL import Image

from msl_hf.data import load_images
from msl_hf.data.schema import DataError, undecoded


def save(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(path)


def embedded(size=(40, 30)):
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def shape(label, *points, kind="rectangle"):
    return {"label": label, "points": [list(point) for point in points], "group_id": None, "description": "",
            "shape_type": kind, "flags": {}, "mask": None}  # fmt: skip


def write(file, *shapes, image=None, data=None, **flags):
    """An annotation in the words, order and indentation of labelme."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"version": "5.4.1", "flags": flags, "shapes": list(shapes),
               "imagePath": f"{file.stem}.jpg" if image is None else image, "imageData": data, "imageHeight": 30,
               "imageWidth": 40}  # fmt: skip
    file.write_text(json.dumps(content, ensure_ascii=False, indent=2))


def found(dataset):
    """Id -> names of the labels."""
    names = dataset.features["labels"].feature.names
    return {row["image_id"]: [names[index] for index in row["labels"]] for row in undecoded(dataset)}


@pytest.mark.parametrize("format", ["auto", "labelme"])
def test_flags(format, tmp_path):
    save(*(tmp_path / f"{name}.jpg" for name in "abc"))
    write(tmp_path / "a.json", cat=True, dog=True, emu=False)
    write(tmp_path / "b.json", cat=False, dog=True, emu=False)
    write(tmp_path / "c.json", cat=False, dog=False, emu=False)
    data = load_images(tmp_path, format)
    assert list(data) == ["train"] and found(data["train"]) == {"a": ["cat", "dog"], "b": ["dog"], "c": []}
    assert set(data["train"].features) == {"image", "labels", "image_id"}
    assert data["train"][0]["image"].size == (40, 30)


@pytest.mark.parametrize("format", ["auto", "labelme"])
def test_shapes(format, tmp_path, caplog):
    save(tmp_path / "a.jpg", tmp_path / "b.jpg", tmp_path / "c.jpg")
    write(
        tmp_path / "a.json",
        shape("dog", (30, 20), (10, 5)),  # from the lower right to the upper left
        shape("cat", (4, 2), (20.5, 2), (12, 18), kind="polygon"),
        shape("dog", (10, 10), (13, 14), kind="circle"),  # centre, and a point at a distance of 5
        sunny=True,
    )
    write(tmp_path / "b.json", shape("cat", (3, 4), kind="point"), shape("emu", (1, 1), (5, 5), kind="line"))
    write(tmp_path / "c.json")
    train = load_images(tmp_path, format)["train"]
    assert train.features["labels"].feature.names == ["cat", "dog", "emu", "sunny"]
    assert found(train) == {"a": ["cat", "dog", "sunny"], "b": ["cat", "emu"], "c": []}
    assert [row["label"] for row in train[:]["objects"]] == [[1, 0, 1], [], []]
    assert [row["bbox"] for row in train[:]["objects"]] == [
        [[10, 5, 20, 15], [4, 2, 16.5, 16], [5, 5, 10, 10]], [], []
    ]  # fmt: skip
    assert "2 shapes are points or lines" in caplog.text


@pytest.mark.parametrize("written", ["..\\images\\a.jpg", "../images/a.jpg", "C:\\Users\\anna\\a.jpg", "a.jpg"])
@pytest.mark.parametrize("folder", ["images", "annotations", "."])
def test_image_path(folder, written, tmp_path):
    save(tmp_path / "images/a.jpg")
    write(tmp_path / folder / "a.json", shape("cat", (1, 2), (11, 22)), image=written)
    train = load_images(tmp_path)["train"]
    assert [row["image"]["path"] for row in undecoded(train)] == [str(tmp_path / "images/a.jpg")]
    assert found(train) == {"a": ["cat"]} and train[0]["objects"]["bbox"] == [[1, 2, 10, 20]]


def test_image_path_leads_to_another_name(tmp_path):
    save(tmp_path / "images/IMG_1.jpg", tmp_path / "images/IMG_2.jpg")
    write(tmp_path / "labels/1.json", image="..\\images\\IMG_1.jpg", cat=True)
    write(tmp_path / "labels/2.json", image="..\\images\\IMG_2.jpg", dog=True)
    train = load_images(tmp_path)["train"]
    assert found(train) == {"1": ["cat"], "2": ["dog"]}
    assert [row["image"]["path"][-9:] for row in undecoded(train)] == ["IMG_1.jpg", "IMG_2.jpg"]


def test_two_folders_with_images_of_the_same_names(tmp_path):
    for folder in ("one", "two"):
        save(tmp_path / folder / "images/a.jpg")
        write(tmp_path / folder / "labels/a.json", image="..\\images\\a.jpg", **{folder: True})
    train = load_images(tmp_path, "labelme")["train"]
    assert train[:]["labels"] == [[0], [1]]
    paths = [row["image"]["path"] for row in undecoded(train)]
    assert paths == [str(tmp_path / folder / "images/a.jpg") for folder in ("one", "two")]


def test_image_within_the_file(tmp_path):
    write(tmp_path / "a.json", shape("cat", (1, 2), (11, 22)), data=embedded((12, 34)))
    train = load_images(tmp_path)["train"]
    assert train[0]["image"].size == (12, 34) and train[0]["labels"] == [0]
    save(tmp_path / "a.jpg")  # the file beside it comes first
    assert load_images(tmp_path)["train"][0]["image"].size == (40, 30)


def test_splits_and_images_without_a_file(tmp_path, caplog):
    save(tmp_path / "train/a.jpg", tmp_path / "train/b.jpg", tmp_path / "val/a.jpg")
    write(tmp_path / "train/a.json", cat=True)
    write(tmp_path / "val/a.json", dog=True)
    data = load_images(tmp_path)
    assert sorted(data) == ["train", "validation"]
    assert found(data["train"]) == {"a": ["cat"]} and found(data["validation"]) == {"a": ["dog"]}
    assert "1 images have no JSON file" in caplog.text
    kept = load_images(tmp_path, keep_unlabelled=True)["train"]
    assert kept[:]["labels"] == [[0], []] and undecoded(kept)[1]["image"]["path"] == str(tmp_path / "train/b.jpg")


@pytest.mark.parametrize("ending", ["png", "JPG", "bmp"])
def test_endings(ending, tmp_path):
    save(tmp_path / f"a.{ending}")
    write(tmp_path / "a.json", image=f"a.{ending}", cat=True)
    assert found(load_images(tmp_path)["train"]) == {"a": ["cat"]}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([{"label": "cat", "points": [[1]], "shape_type": "rectangle"}], r"a.json: shapes\[0\]"),
        ([shape("cat", (1, 1), (2, 2)), {"points": [[1, 2]]}], r"a.json: shapes\[1\]: has no 'label'"),
        ([shape(" ", (1, 1), (2, 2))], r"a.json: shapes\[0\].*label is empty"),
        ([shape("cat")], r"a.json: shapes\[0\]"),
    ],
)
def test_errors_name_the_shape(shapes, message, tmp_path):
    save(tmp_path / "a.jpg")
    write(tmp_path / "a.json", *shapes)
    with pytest.raises(DataError, match=message):
        load_images(tmp_path)


def test_broken_image_within_the_file(tmp_path):
    write(tmp_path / "a.json", shape("cat", (1, 2), (11, 22)), data="no base64!")
    with pytest.raises(DataError, match="a.json: imageData cannot be decoded"):
        load_images(tmp_path)
