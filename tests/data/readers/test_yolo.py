"""YOLO as Ultralytics, Roboflow and CVAT write it. Every image is 40 pixels wide and 20 high."""

from pathlib import Path

import pytest
from PIL import Image

from msl_hf.data import load_images
from msl_hf.data.schema import DataError, undecoded

NAMES_AS_LIST = "nc: 3\nnames: ['dog', 'cat', 'hot dog']\n"
NAMES_AS_MAP = "names:\n  0: dog\n  1: cat\n  2: hot dog\n"
# text of the label file -> labels, boxes
BOXES = {
    "a": ("1 0.5 0.5 0.5 0.5\n0 0.25 0.25 0.25 0.5\n", ["dog", "cat"], [[10, 5, 20, 10], [5, 0, 10, 10]]),
    "b": ("2 0.25 0.1 0.75 0.1 0.5 0.9\n", ["hot dog"], [[10, 2, 20, 16]]),  # an outline
    "c": ("", [], []),
    "d": (None, [], []),  # no text file
}


def save(path, text=None, labels=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 20)).save(path)
    if text is not None:
        labels.mkdir(parents=True, exist_ok=True)
        (labels / f"{path.stem}.txt").write_bytes(text.encode())


def write(root, text):
    root.mkdir(parents=True, exist_ok=True)
    (root / "data.yaml").write_bytes(text.encode())
    return root


def make(root, images, labels, names="abcd", end="\n"):
    for name in names:
        text = BOXES[name][0]
        save(root / images / f"{name}.jpg", text and text.replace("\n", end), root / labels)


def found(dataset):
    """Image -> (labels, [x, y, w, h] of its boxes, as they are written)."""
    names = dataset.features["labels"].feature.names
    rows = {Path(row["image"]["path"]).stem: row for row in undecoded(dataset)}
    return {
        key: ([names[index] for index in row["labels"]], [[round(side, 4) for side in box] for box in boxes])
        for key, row in rows.items()
        for boxes in [row["objects"]["bbox"] if "objects" in row else []]
    }


def expected(names="abcd"):
    return {name: BOXES[name][1:] for name in names}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("classes", [NAMES_AS_LIST, NAMES_AS_MAP])
@pytest.mark.parametrize("format", ["auto", "yolo"])
def test_ultralytics(format, classes, end, tmp_path, caplog):
    text = "path: .  # root\ntrain: images/train  # 4 images\nval: images/val\ntest:  # optional\n\n" + classes
    write(tmp_path, text.replace("\n", end))
    make(tmp_path, "images/train", "labels/train", end=end)
    make(tmp_path, "images/val", "labels/val", "ac", end=end)
    (tmp_path / "labels/train.cache").write_bytes(b"\x93NUMPY")
    data = load_images(tmp_path, format)
    assert sorted(data) == ["train", "validation"]
    assert data["train"].features["labels"].feature.names == ["dog", "cat", "hot dog"]
    assert found(data["train"]) == expected() and found(data["validation"]) == expected("ac")
    first = data["train"][0]["objects"]
    assert first["label"] == [1, 0] and first["area"] == [200, 100]
    assert "1 images have no text file" in caplog.text
    assert load_images(tmp_path / "data.yaml", format)["train"][:]["labels"] == data["train"][:]["labels"]


@pytest.mark.parametrize("format", ["auto", "yolo"])
def test_roboflow(format, tmp_path):
    write(tmp_path, "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\n" + NAMES_AS_LIST
          + "\nroboflow:\n  workspace: mine\n  project: pets\n  version: 1\n  license: CC BY 4.0\n")  # fmt: skip
    for split, names in (("train", "abcd"), ("valid", "a"), ("test", "b")):
        make(tmp_path, f"{split}/images", f"{split}/labels", names)
    (tmp_path / "README.roboflow.txt").write_text("pets - v1")
    data = load_images(tmp_path, format)
    assert sorted(data) == ["test", "train", "validation"]
    assert found(data["train"]) == expected()
    assert found(data["validation"]) == expected("a") and found(data["test"]) == expected("b")


@pytest.mark.parametrize("prefix", ["", "./"])
def test_lists_of_files(prefix, tmp_path):
    write(tmp_path, "path: .\ntrain: train.txt\nval: val.txt\n" + NAMES_AS_MAP)
    make(tmp_path, "images/train", "labels/train")
    make(tmp_path, "images/val", "labels/val", "ab")
    for split, names in (("train", "abd"), ("val", "ab")):  # c is in no list
        lines = (f"{prefix}images/{split}/{name}.jpg\r\n" for name in names)
        (tmp_path / f"{split}.txt").write_bytes("".join(lines).encode())
    data = load_images(tmp_path)
    assert found(data["train"]) == expected("abd") and found(data["validation"]) == expected("ab")


@pytest.mark.parametrize(
    "path", ["/home/anna/datasets/pets", "/content/datasets", "C:\\\\Users\\\\anna\\\\pets", "../datasets/pets"]
)
def test_path_of_another_machine(path, tmp_path):
    write(tmp_path / "pets", f'path: "{path}"\ntrain: images/train\nval: images/val\n' + NAMES_AS_MAP)
    make(tmp_path / "pets", "images/train", "labels/train")
    make(tmp_path / "pets", "images/val", "labels/val", "b")
    data = load_images(tmp_path / "pets")
    assert found(data["train"]) == expected() and found(data["validation"]) == expected("b")


def test_own_absolute_path(tmp_path):
    write(tmp_path, f"path: {tmp_path}\ntrain: images/train\n" + NAMES_AS_MAP)
    make(tmp_path, "images/train", "labels/train")
    assert found(load_images(tmp_path)["train"]) == expected()


def test_several_folders_and_labels_beside_the_images(tmp_path):
    write(tmp_path, "train: [one, two]\nvalid: three\n" + NAMES_AS_LIST)
    make(tmp_path, "one", "one", "ab")
    make(tmp_path, "two", "two", "c")
    make(tmp_path, "three", "three", "a")
    data = load_images(tmp_path)
    assert found(data["train"]) == expected("abc") and found(data["validation"]) == expected("a")


def test_split_without_any_labels_is_left_out(tmp_path, caplog):
    write(tmp_path, "train: images/train\ntest: images/test\n" + NAMES_AS_LIST)
    make(tmp_path, "images/train", "labels/train")
    make(tmp_path, "images/test", "labels/test", "d")
    assert list(load_images(tmp_path)) == ["train"]
    assert "test: images/test has no images with text files of labels" in caplog.text


def test_linked_folder_of_images(tmp_path):
    write(tmp_path / "pets", "train: images/train\n" + NAMES_AS_LIST)
    make(tmp_path / "store", ".", "labels", "ab")
    (tmp_path / "pets/images").mkdir()
    (tmp_path / "pets/images/train").symlink_to(tmp_path / "store")
    (tmp_path / "pets/labels").mkdir()
    (tmp_path / "pets/labels/train").symlink_to(tmp_path / "store/labels")
    assert found(load_images(tmp_path / "pets")["train"]) == expected("ab")


def test_boxes_are_those_of_the_upright_image(tmp_path):
    write(tmp_path, "train: images\n" + NAMES_AS_LIST)
    save(tmp_path / "images/a.jpg", "0 0.5 0.25 0.5 0.5\n", tmp_path / "labels")
    exif = Image.Exif()
    exif[274] = 6  # stored on its side: 40 x 20 are shown as 20 x 40
    Image.new("RGB", (40, 20)).save(tmp_path / "images/a.jpg", exif=exif)
    assert found(load_images(tmp_path)["train"]) == {"a": (["dog"], [[5, 0, 10, 20]])}


def test_boxes_that_cannot_be_used_give_labels(tmp_path, caplog):
    write(tmp_path, "train: images\n" + NAMES_AS_LIST)
    text = "0 0.5 0.5 0 0.5\n1 0.9 0.5 0.5 0.5\n2 1.0 0.5 0.01 1\n0 0.5 0.5 0.5 0.5 0.87\n"  # the last with a score
    save(tmp_path / "images/a.jpg", text, tmp_path / "labels")
    train = load_images(tmp_path)["train"]
    names, boxes = found(train)["a"]
    assert names == ["dog", "cat", "hot dog"] and boxes == [[39.8, 0, 0.2, 20], [10, 5, 20, 10]]
    assert train[0]["objects"]["label"] == [2, 0] and "2 boxes are empty" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.5 0.5 0.5 0.5\n3 0.5 0.5 0.5 0.5\n", r"labels/a.txt:2: class 3 is none of the 3"),
        ("0 0.5 0.5 0.5 0.5\r\n\r\n-1 0.5 0.5 0.5 0.5\r\n", r"labels/a.txt:3: class -1 is none of the 3"),
        ("1.5 0.5 0.5 0.5 0.5\n", r"labels/a.txt:1: class 1.5 is none"),
        ("dog 0.5 0.5 0.5 0.5\n", r"labels/a.txt:1: expected 'class x y width height'"),
        ("0 0.5,0.5 0.5 0.5\n", r"labels/a.txt:1: expected 'class x y width height'"),
    ],
)
def test_errors_name_file_and_line(text, message, tmp_path):
    write(tmp_path, "train: images\n" + NAMES_AS_LIST)
    save(tmp_path / "images/a.jpg", text, tmp_path / "labels")
    with pytest.raises(DataError, match=message):
        load_images(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images\nnames: [dog, cat, dog]\n", "data.yaml: names 'dog' more than once"),
        ("train: images\nnames: 3\n", "data.yaml: 'names' must be a list"),
        ("train: images\nnames: []\n", "data.yaml: names no class"),
        ("train: images\nnc: 3\n", "data.yaml: has no 'names'"),
        ("train: elsewhere\nnames: [dog]\n", "data.yaml: train: elsewhere is no folder"),
        ("train: images\nval: images\nvalid: images\nnames: [dog]\n", "names split 'validation' more than once"),
        ("names: [dog]\n", "data.yaml: names no images"),
        ("names: [dog\n", "data.yaml: is not valid YAML"),
    ],
)
def test_broken_yaml(text, message, tmp_path):
    write(tmp_path, text)
    save(tmp_path / "images/a.jpg", "0 0.5 0.5 0.5 0.5\n", tmp_path / "labels")
    with pytest.raises(DataError, match=message):
        load_images(tmp_path / "data.yaml", "yolo")
