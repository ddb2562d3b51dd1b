"""VOC's XML as LabelImg, CVAT and Roboflow write it. VOC counts pixels from 1 and includes the last one."""

from pathlib import Path

import pytest
from PIL import Image

from msl_hf.data import load_images
from msl_hf.data.schema import DataError, undecoded


def save(*paths, size=(40, 30)):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(path)


def thing(name, box, difficult=0, order=("xmin", "ymin", "xmax", "ymax"), extra=""):
    sides = dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    lines = "".join(f"\t\t\t<{side}>{sides[side]}</{side}>\n" for side in order)
    return (
        f"\t<object>\n\t\t<name>{name}</name>\n\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>\n"
        f"\t\t<difficult>{difficult}</difficult>\n{extra}\t\t<bndbox>\n{lines}\t\t</bndbox>\n\t</object>\n"
    )


def write(file, *objects, filename=None, path=None):
    """LabelImg's file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    filename = f"{file.stem}.png" if filename is None else filename
    file.write_text(
        f"<annotation>\n\t<folder>photos</folder>\n\t<filename>{filename}</filename>\n"
        f"\t<path>{path or f'/home/anna/photos/{filename}'}</path>\n"
        "\t<source>\n\t\t<database>Unknown</database>\n\t</source>\n"
        "\t<size>\n\t\t<width>40</width>\n\t\t<height>30</height>\n\t\t<depth>3</depth>\n\t</size>\n"
        f"\t<segmented>0</segmented>\n{''.join(objects)}</annotation>\n"
    )


def found(dataset, key="labels"):
    """Image -> names of the labels, or of the ignored ones."""
    names = dataset.features["labels"].feature.names
    return {Path(row["image"]["path"]).name: [names[index] for index in row[key]] for row in undecoded(dataset)}


CAT, DOG = thing("cat", (11, 6, 30, 20)), thing("dog", (1, 1, 40, 30))


@pytest.mark.parametrize("format", ["auto", "voc"])
def test_labelimg(format, tmp_path, caplog):
    save(*(tmp_path / f"{name}.png" for name in "abcd"))
    write(tmp_path / "a.xml", CAT, DOG, CAT)
    write(tmp_path / "b.xml", thing("dog", (5, 5, 9, 9), difficult=1), CAT)
    write(tmp_path / "c.xml")
    data = load_images(tmp_path, format)  # d has no XML file
    assert list(data) == ["train"] and data["train"].features["labels"].feature.names == ["cat", "dog"]
    assert found(data["train"]) == {"a.png": ["cat", "dog"], "b.png": ["cat"], "c.png": []}
    assert found(data["train"], "ignored") == {"a.png": [], "b.png": ["dog"], "c.png": []}
    objects = data["train"][:]["objects"]
    assert [row["label"] for row in objects] == [[0, 1, 0], [1, 0], []]
    assert objects[0]["bbox"] == [[10, 5, 20, 15], [0, 0, 40, 30], [10, 5, 20, 15]]
    assert objects[1]["bbox"] == [[4, 4, 5, 5], [10, 5, 20, 15]] and objects[1]["difficult"] == [True, False]
    assert "1 images have no XML file" in caplog.text and "d.png" in caplog.text
    kept = load_images(tmp_path, format, keep_unlabelled=True)["train"]
    assert found(kept) == {"a.png": ["cat", "dog"], "b.png": ["cat"], "c.png": [], "d.png": []}
    assert load_images(tmp_path, format, keep_unlabelled=False)["train"][:]["labels"] == [[0, 1], [0]]


def test_difficult_alone_is_ignored(tmp_path):
    save(tmp_path / "a.png", tmp_path / "b.png")
    write(tmp_path / "a.xml", thing("cat", (1, 1, 5, 5), difficult=1), thing("cat", (2, 2, 5, 5), difficult=1), DOG)
    write(tmp_path / "b.xml", thing("cat", (1, 1, 5, 5), difficult=1), CAT)
    train = load_images(tmp_path)["train"]
    assert train[:]["labels"] == [[1], [0]] and train[:]["ignored"] == [[0], []]


@pytest.mark.parametrize(
    "written", ["C:\\Users\\anna\\Desktop\\a.png", "/home/anna/a.png", "a.png", "a", "IMG_0001.JPG", "b.png", ""]
)
def test_file_names_of_another_machine(written, tmp_path):
    save(tmp_path / "a.png", tmp_path / "b.png")
    write(tmp_path / "a.xml", CAT, filename=written, path="D:\\photos\\a.png")
    write(tmp_path / "b.xml", DOG)
    assert found(load_images(tmp_path)["train"]) == {"a.png": ["cat"], "b.png": ["dog"]}


def test_one_name_with_two_endings(tmp_path):
    save(tmp_path / "a.png", tmp_path / "a.jpg", size=(8, 8))
    write(tmp_path / "a.xml", CAT, filename="a.png")
    assert found(load_images(tmp_path)["train"]) == {"a.png": ["cat"]}


@pytest.mark.parametrize("annotations", ["Annotations", "annotations"])
@pytest.mark.parametrize("images", ["images", "JPEGImages"])
@pytest.mark.parametrize("format", ["auto", "voc"])
def test_annotations_in_a_folder_of_their_own(format, images, annotations, tmp_path):
    save(tmp_path / images / "a.png", tmp_path / images / "b.png")
    write(tmp_path / annotations / "a.xml", CAT)
    train = load_images(tmp_path, format)["train"]
    assert found(train) == {"a.png": ["cat"]} and train[0]["objects"]["bbox"] == [[10, 5, 20, 15]]


def cvat(file, *objects):
    """CVAT's file (Datumaro writes it)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        f"<annotation>\n  <folder></folder>\n  <filename>{file.stem}.jpg</filename>\n  <source>\n"
        "    <database>Unknown</database>\n    <annotation>Unknown</annotation>\n    <image>Unknown</image>\n"
        "  </source>\n  <size>\n    <width>40</width>\n    <height>30</height>\n    <depth></depth>\n  </size>\n"
        f"  <segmented>0</segmented>\n{''.join(objects)}</annotation>\n"
    )


ATTRIBUTES = ("\t\t<occluded>0</occluded>\n\t\t<attributes>\n\t\t\t<attribute>\n\t\t\t\t<name>rotation</name>\n"
              "\t\t\t\t<value>0.0</value>\n\t\t\t</attribute>\n\t\t</attributes>\n")  # fmt: skip


@pytest.mark.parametrize("ending", ["jpg", "png"])
@pytest.mark.parametrize("format", ["auto", "voc"])
def test_cvat(format, ending, tmp_path):
    save(*(tmp_path / f"JPEGImages/{name}.{ending}" for name in ("a", "b", "more/c")))
    cvat(tmp_path / "Annotations/a.xml", thing("cat", (10.5, 5.25, 30.5, 20.25), extra=ATTRIBUTES))
    cvat(tmp_path / "Annotations/b.xml", thing("dog", (1, 1, 4, 4), difficult=1, extra=ATTRIBUTES))
    cvat(tmp_path / "Annotations/more/c.xml")
    main = tmp_path / "ImageSets/Main"
    main.mkdir(parents=True)
    (main / "default.txt").write_text("a\nb\nmore/c\n")
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\n"
                                           "dog:61,61,245::\n")  # fmt: skip
    data = load_images(tmp_path, format)
    assert list(data) == ["train"] and data["train"].features["labels"].feature.names == ["cat", "dog"]
    train = data["train"]
    assert found(train) == {f"a.{ending}": ["cat"], f"b.{ending}": [], f"c.{ending}": []}
    assert train[:]["ignored"] == [[], [1], []]
    assert [row["bbox"] for row in train[:]["objects"]] == [[[9.5, 4.25, 21, 16]], [[0, 0, 4, 4]], []]
    assert train[0]["image"].size == (40, 30) and train[2]["image"].size == (40, 30)


def test_cvat_with_subsets(tmp_path):
    save(tmp_path / "JPEGImages/a.jpg", tmp_path / "JPEGImages/b.jpg")
    cvat(tmp_path / "Annotations/a.xml", CAT)
    cvat(tmp_path / "Annotations/b.xml", DOG)
    main = tmp_path / "ImageSets/Main"
    main.mkdir(parents=True)
    (main / "Train.txt").write_text("a\n")
    (main / "Validation.txt").write_text("b\n")
    data = load_images(tmp_path)
    assert sorted(data) == ["train", "validation"]
    assert found(data["train"]) == {"a.jpg": ["cat"]} and found(data["validation"]) == {"b.jpg": ["dog"]}


@pytest.mark.parametrize("format", ["auto", "voc"])
def test_roboflow(format, tmp_path):
    order = ("xmin", "xmax", "ymin", "ymax")
    for split, names in (("train", "ab"), ("valid", "c"), ("test", "d")):
        for name in names:
            stem = f"{name}_jpg.rf.0a1b2c3d"
            save(tmp_path / split / f"{stem}.jpg")
            box = thing("cat" if name in "ac" else "dog", (11, 6, 30, 20), order=order)
            write(tmp_path / split / f"{stem}.xml", *([] if name == "b" else [box]), filename=f"{stem}.jpg",
                  path=f"{stem}.jpg")  # fmt: skip
    (tmp_path / "README.roboflow.txt").write_text("pets - v1")
    data = load_images(tmp_path, format)
    assert sorted(data) == ["test", "train", "validation"]
    assert data["train"].features["labels"].feature.names == ["cat", "dog"]
    assert data["train"][:]["labels"] == [[0], []] and data["validation"][:]["labels"] == [[0]]
    assert data["test"][:]["labels"] == [[1]] and data["test"][0]["objects"]["bbox"] == [[10, 5, 20, 15]]
    assert [Path(row["image"]["path"]).parent.name for row in undecoded(data["validation"])] == ["valid"]


@pytest.mark.parametrize("name", ["", "  "])
def test_object_without_a_name(name, tmp_path):
    save(tmp_path / "a.png")
    write(tmp_path / "a.xml", thing(name, (1, 1, 2, 2)))
    with pytest.raises(DataError, match="a.xml: an object has no name"):
        load_images(tmp_path)


def test_broken_xml(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "a.xml").write_text("<annotation><object>")
    with pytest.raises(DataError, match="a.xml: is not valid XML"):
        load_images(tmp_path)
