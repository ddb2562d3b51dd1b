import json
from collections import Counter

import pytest
from trees import coco_instances, make_coco

from msl_hf.data import load_coco
from msl_hf.data.readers.coco import CLASSES
from msl_hf.data.schema import DataError, column


@pytest.mark.parametrize("year", [2014, 2017])
def test_labels_boxes_and_order(year, tmp_path):
    data = load_coco(make_coco(tmp_path, year), year)
    assert list(data) == ["train", "validation"]
    assert data["train"].features["labels"].feature.names == ["person", "dog", "toothbrush"]  # by id
    # Image 104 shows a crowd only, which counts; image 105 nothing, which is left out.
    assert column(data["train"], "image_id") == ["100", "101", "102", "103", "104"]
    assert column(data["train"], "labels") == [[0, 1], [0], [0, 1], [0], [0, 1]]
    row = data["validation"][1]
    assert row["image"].size == (60, 40)
    assert row["objects"]["bbox"] == [[5.5, 6.25, 11.0, 20.0]] and row["objects"]["area"] == [11 * 15.5]
    assert row["objects"]["truncated"] == [None] and row["objects"]["crowd"] == [False]
    assert data["train"][4]["objects"]["crowd"] == [True, True]
    kept = load_coco(tmp_path, year, keep_unlabelled=True)["train"]
    assert len(kept) == 6 and kept[5]["labels"] == [] and kept[5]["objects"]["label"] == []


def edit(root, change, split="train"):
    file = root / "annotations" / f"instances_{split}2014.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), r"instances_train2014.json: has no list 'images'"),
        (lambda c: c["annotations"][3].pop("category_id"), r"annotations\[3\]: has no 'category_id'"),
        (lambda c: c["annotations"][3].update(bbox=[1, 2, 3]), r"annotations\[3\]: cannot be used \(bbox has 3"),
        (lambda c: c["annotations"][3].update(bbox="1 2"), r"annotations\[3\]: cannot be used"),
        (lambda c: c["annotations"].insert(0, "dog"), r"annotations\[0\]: cannot be used"),
        (
            lambda c: c["annotations"][1].update(image_id=7),
            r"annotations\[1\]: its image_id 7 is not among the images",
        ),
        (lambda c: c["annotations"][1].update(category_id=7), r"annotations\[1\]: its category_id 7"),
        (lambda c: c["images"].append({**c["images"][2], "file_name": "x.jpg"}), r"images\[6\].* id 102 already"),
        (lambda c: c["images"].append({**c["images"][2], "id": 1}), r"102.jpg more than once"),
        (lambda c: c["images"][2].update(file_name="../../secret.jpg"), r"images\[2\].*leads out of the folder"),
        (lambda c: c["categories"].append({"id": 5, "name": "dog"}), "two categories have the name 'dog'"),
        (lambda c: c["categories"].append({"id": 5, "name": "cat"}), "val2014.json: its categories differ"),
    ],
)
def test_errors_name_file_and_record(change, message, tmp_path):
    edit(make_coco(tmp_path), change)
    with pytest.raises(DataError, match=message):
        load_coco(tmp_path)


def test_cut_off_file_and_wrong_folder(tmp_path):
    make_coco(tmp_path)
    file = tmp_path / "annotations" / "instances_val2014.json"
    file.write_text(file.read_text()[:200])
    with pytest.raises(DataError, match=r"instances_val2014.json: is not valid JSON \(.*line 1 column"):
        load_coco(tmp_path)
    with pytest.raises(DataError, match="no instances_train2017.json, .*is the year right"):
        load_coco(tmp_path, 2017)


def test_empty_boxes_are_counted_and_still_label(tmp_path, monkeypatch):
    edit(make_coco(tmp_path), lambda c: [c["annotations"][i]["bbox"].__setitem__(2, 0) for i in (0, 2)])
    warnings = []
    monkeypatch.setattr("msl_hf.data.readers.coco.logger.warning", warnings.append)
    data = load_coco(tmp_path)["train"]
    assert len(warnings) == 2 and "2 instances have an empty box" in warnings[0]
    assert "2 images without any label are left out (--keep_unlabelled true" in warnings[1]
    assert data[0]["labels"] == [0, 1] and data[0]["objects"]["label"] == [1]


def test_real_photographs(shared):
    data = load_coco(shared / "data/coco", 2017)
    assert tuple(data["train"].features["labels"].feature.names) == CLASSES
    assert (len(data["train"]), len(data["validation"])) == (63, 80)  # of 64 train images one shows nothing
    content = json.loads((shared / "data/coco/annotations/instances_val2017.json").read_text())
    order = [category["id"] for category in content["categories"]]
    expected = Counter((str(a["image_id"]), order.index(a["category_id"])) for a in content["annotations"])
    found = Counter(
        (row["image_id"], label)
        for row in data["validation"].remove_columns("image")
        for label in row["objects"]["label"]
    )
    assert found == expected
    assert data["validation"][0]["image"].size[0] > 256


def test_generated_tree_is_what_the_format_says():
    content = coco_instances("val", 2014, 6)
    assert content["images"][0]["file_name"] == "COCO_val2014_000000000200.jpg"


def test_images_lie_where_the_reference_keeps_them(tmp_path):
    make_coco(tmp_path)
    (tmp_path / "images").mkdir()
    for folder in ("train2014", "val2014"):
        (tmp_path / folder).rename(tmp_path / "images" / folder)
    data = load_coco(tmp_path)
    assert [len(split) for split in data.values()] == [5, 5]
    assert data["validation"][1]["image"].size == (60, 40)
