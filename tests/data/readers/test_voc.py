import shutil

import numpy as np
import pytest
from PIL import Image

from msl_hf.data import load_voc
from msl_hf.data.readers.voc import download_voc
from msl_hf.data.schema import DataError


def make_tree(root, year=2007):
    """A VOCdevkit tree written out by hand: two classes, one of them called train, one difficult instance."""
    folder = root / f"VOC{year}"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for image_id in ("000001", "000002", "000003"):
        Image.new("RGB", (50, 40)).save(folder / "JPEGImages" / f"{image_id}.jpg")
    main = folder / "ImageSets" / "Main"
    (main / "train.txt").write_text("000001\n000002\n")
    (main / "val.txt").write_text("000003\n")
    (main / "trainval.txt").write_text("000001\n000002\n000003\n")
    for name, states in (("train", " 1 -1  0"), ("cat", "-1  1  1")):
        lines = [f"00000{index + 1} {state:>2}\n" for index, state in enumerate(states.split())]
        (main / f"{name}_train.txt").write_text("".join(lines[:2]))
        (main / f"{name}_val.txt").write_text(lines[2])
        (main / f"{name}_trainval.txt").write_text("".join(lines))
    (folder / "Annotations" / "000001.xml").write_text(
        "<annotation><object><name>train</name><truncated>1</truncated><difficult>0</difficult>"
        "<bndbox><xmin>11</xmin><ymin>1</ymin><xmax>50</xmax><ymax>20</ymax></bndbox></object></annotation>"
    )
    return root


def test_labels_ignored_and_boxes(tmp_path):
    data = load_voc(make_tree(tmp_path))
    assert list(data) == ["trainval", "train", "val"]
    assert data["train"].features["labels"].feature.names == ["cat", "train"]
    assert data["trainval"][:]["labels"] == [[1], [0], [0]]
    assert data["trainval"][:]["ignored"] == [[], [], [1]]
    assert data["val"][0]["image_id"] == "000003" and data["val"][0]["image"].size == (50, 40)
    objects = data["train"][0]["objects"]
    assert objects["bbox"] == [[10.0, 0.0, 40.0, 20.0]] and objects["area"] == [800.0]
    assert objects["label"] == [1] and objects["truncated"] == [True] and objects["visible"] == [None]
    assert data["train"][1]["objects"]["label"] == []


def test_other_years(tmp_path):
    assert len(load_voc(make_tree(tmp_path, 2012), year=2012)["trainval"]) == 3
    with pytest.raises(DataError, match=r"VOC2007.*no such folder"):
        load_voc(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("ImageSets/Main/cat_val.txt", "000003 2\n", "cat_val.txt:1: expected"),
        ("ImageSets/Main/cat_val.txt", "", "cat_val.txt: has no line for image 000003"),
        ("ImageSets/Main/cat_val.txt", None, "cat_val.txt: no such file"),
        ("ImageSets/Main/val.txt", "../../secret\n", "no image id|has no line"),
        ("Annotations/000001.xml", "<annotation><object>", "000001.xml: is not valid XML"),
        ("Annotations/000001.xml", "<annotation><object><name>unicorn</name></object></annotation>", "unicorn"),
        ("Annotations/000001.xml", "<annotation><object/></annotation>", "an object has no name"),
    ],
)
def test_errors_name_the_file(file, content, message, tmp_path):
    path = make_tree(tmp_path) / "VOC2007" / file
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(DataError, match=message):
        load_voc(tmp_path)


def test_tree_without_class_files(tmp_path):
    make_tree(tmp_path)
    for file in (tmp_path / "VOC2007/ImageSets/Main").glob("*_*.txt"):
        file.unlink()
    data = load_voc(tmp_path)
    assert data["trainval"].features["labels"].feature.names == ["train"]  # of the one image that has an XML file
    assert data["trainval"][:]["labels"] == [[0], [], []] and data["val"][:]["labels"] == [[]]


@pytest.mark.parametrize(
    "box",
    ["", "<bndbox><xmin>9</xmin><ymin>1</ymin><xmax>3</xmax><ymax>2</ymax></bndbox>",
     "<bndbox><xmin>nan</xmin><ymin>1</ymin><xmax>3</xmax><ymax>2</ymax></bndbox>",
     "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>inf</xmax><ymax>2</ymax></bndbox>"],
)  # fmt: skip
def test_a_bad_box_costs_the_box_alone(box, tmp_path, caplog):
    file = make_tree(tmp_path) / "VOC2007/Annotations/000001.xml"
    good = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>5</xmax><ymax>9</ymax></bndbox>"
    file.write_text("<annotation>" + "".join(f"<object><name>cat</name>{b}</object>" for b in (box, good))
                    + "</annotation>")  # fmt: skip
    data = load_voc(tmp_path)["train"]
    assert data[0]["objects"]["bbox"] == [[1, 2, 4, 7]] and data[0]["labels"] == [1]
    assert "1 objects have an empty or incomplete box" in caplog.text


def test_download_uses_the_official_archives_once(tmp_path, monkeypatch):
    calls = []

    def fetch(root, year, image_set, download):
        calls.append((year, image_set, download))
        if image_set == "trainval":
            make_tree(root / "VOCdevkit", int(year))
        else:
            shutil.copy(root / "VOCdevkit/VOC2007/ImageSets/Main/val.txt",
                        root / "VOCdevkit/VOC2007/ImageSets/Main/test.txt")  # fmt: skip

    monkeypatch.setattr("torchvision.datasets.VOCDetection", fetch)
    for _ in range(2):
        download_voc(tmp_path / "VOCdevkit")
    assert calls == [("2007", "trainval", True), ("2007", "test", True)]
    with pytest.raises(DataError, match="VOCdevkit"):
        download_voc(tmp_path / "voc")


def test_real_photographs(shared):
    data = load_voc(shared / "data/voc20/VOCdevkit")
    assert {split: len(dataset) for split, dataset in data.items()} == {
        "trainval": 4142, "train": 3301, "val": 841, "test": 780
    }  # fmt: skip
    names = data["test"].features["labels"].feature.names
    assert len(names) == 20 and names == sorted(names) and "train" in names
    assert data["train"][5]["image"].size == (256, 256)
    main = shared / "data/voc20/VOCdevkit/VOC2007/ImageSets/Main"
    counts = np.bincount(sum(data["test"][:]["labels"], []), minlength=20)
    for name, count in zip(names, counts, strict=True):
        assert count == (main / f"{name}_test.txt").read_text().split().count("1")
