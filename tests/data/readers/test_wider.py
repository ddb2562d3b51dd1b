import json

import numpy as np
import pytest
import torch
from PIL import Image
from trees import ATTRIBUTES, make_wider

from msl_hf.data import ImageDataset, MultiLabelCollator, build_processor, check_images, load_images, load_wider
from msl_hf.data.schema import DataError, class_names_of, column


def test_persons_attributes_and_crops(tmp_path):
    data = load_wider(make_wider(tmp_path))
    assert list(data) == ["train", "test"] and class_names_of(data["train"]) == list(ATTRIBUTES)
    assert len(data["train"]) == 18  # 1 + 2 + 3 persons, three times
    content = json.loads((tmp_path / "wider_attribute_trainval.json").read_text())
    states = content["images"][1]["targets"][0]["attribute"]
    row = data["train"][1]
    assert row["image_id"] == "trainval/0--Parade/0_Parade_1.jpg#0"
    assert row["labels"] == [i for i, state in enumerate(states) if state == 1]
    assert row["ignored"] == [i for i, state in enumerate(states) if state == 0]
    # Inside the image the whole box; what of it lies beyond the border (x = -4.5) is black.
    photograph = np.asarray(Image.open(tmp_path / "Image" / content["images"][1]["file_name"]).convert("RGB"))
    assert np.array_equal(np.asarray(row["image"]), photograph[6:37, 10:30])
    person = np.asarray(data["train"][2]["image"])
    assert np.array_equal(person[:, 4:], photograph[3:33, 0:20]) and not person[:, :4].any()


def test_pixel_values_show_the_person_alone(tmp_path):
    data = load_wider(make_wider(tmp_path))["train"]
    processor = build_processor(None, 16)
    item = ImageDataset(data, processor)[2]
    torch.testing.assert_close(item["pixel_values"], processor(data[2]["image"], return_tensors="pt").pixel_values[0])
    targets = [
        MultiLabelCollator(14, ignored_as=how)([item])["labels"][0, item["ignored"]] for how in ("negative", "ignore")
    ]
    assert targets[0].unique().tolist() == [0] and targets[1].unique().tolist() == [-100]


def test_columns_are_read_without_decoding(tmp_path):
    data = load_wider(make_wider(tmp_path))["train"]
    (tmp_path / "Image" / "trainval" / "0--Parade" / "0_Parade_1.jpg").unlink()
    assert len(column(data, "labels")) == 18
    kept, messages = check_images(data, drop=True, progress=False)
    assert len(kept) == 16 and all("0_Parade_1.jpg: no such image file" in message for message in messages)


def edit(root, change):
    file = root / "wider_attribute_trainval.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), "trainval.json: has no list 'images'"),
        (lambda c: c["images"][1].pop("targets"), r"images\[1\]: has no 'targets'"),
        (lambda c: c["images"][2]["targets"][1].pop("attribute"), r"images\[2\].targets\[1\]: has no 'attribute'"),
        (lambda c: c["images"][2]["targets"][1]["attribute"].pop(), r"images\[2\].targets\[1\]: attribute must be 14"),
        (lambda c: c["images"][2]["targets"][1].update(bbox=[1]), r"images\[2\].targets\[1\]: bbox must be"),
        (lambda c: c["images"].append(c["images"][3]), r"images\[9\]: lists the image .*_3.jpg a second time"),
        (lambda c: c["images"][0].update(file_name="/etc/passwd"), r"images\[0\].*leads out of the folder"),
        (lambda c: c["attribute_id_map"].update({"x": "y"}), "attribute_id_map: cannot be used"),
        (lambda c: c["attribute_id_map"].update({"3": "Helmet"}), "test.json: its attributes differ"),
    ],
)
def test_errors_name_file_and_record(change, message, tmp_path):
    edit(make_wider(tmp_path), change)
    with pytest.raises(DataError, match=message):
        load_wider(tmp_path)


def test_unusable_boxes(tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr("msl_hf.data.readers.wider.logger.warning", warnings.append)
    edit(make_wider(tmp_path), lambda c: c["images"][2]["targets"][0].update(bbox=[5, 5, 0, 9]))
    edit(tmp_path, lambda c: c["images"][1]["targets"][0].update(bbox=[500, 5, 9, 9]))
    data = load_wider(tmp_path)["train"]
    assert len(data) == 17 and "1 persons have an empty box" in warnings[0]
    with pytest.raises(DataError, match=r"0_Parade_1.jpg: the box \[500, 5, 9, 9\] has no part inside the 50 x 40 im"):
        check_images(data, progress=False)


def test_wrong_folder(tmp_path):
    with pytest.raises(DataError, match="holds neither wider_attribute_trainval.json nor"):
        load_wider(tmp_path)


def test_annotations_lie_where_the_reference_keeps_them(tmp_path):
    make_wider(tmp_path)
    (tmp_path / "Annotations").mkdir()
    for file in tmp_path.glob("wider_attribute_*.json"):
        file.rename(tmp_path / "Annotations" / file.name)
    assert [len(split) for split in load_wider(tmp_path).values()] == [18, 18]
    assert load_images(tmp_path)["train"][2]["labels"] == load_wider(tmp_path)["train"][2]["labels"]


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e308])
def test_boxes_of_no_numbers_cost_the_person(tmp_path, value):
    edit(make_wider(tmp_path), lambda c: c["images"][1]["targets"][0]["bbox"].__setitem__(2, value))
    assert len(load_wider(tmp_path)["train"]) == 17


@pytest.mark.parametrize("side", [0, 2])
def test_boxes_that_no_photograph_holds_are_named(tmp_path, side):
    edit(make_wider(tmp_path), lambda c: c["images"][1]["targets"][0]["bbox"].__setitem__(side, 1e8))
    with pytest.raises(DataError, match="0_Parade_1.jpg: "):
        check_images(load_wider(tmp_path)["train"], progress=False)
