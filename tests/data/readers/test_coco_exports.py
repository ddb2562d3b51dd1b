"""COCO's JSON as Roboflow, CVAT and Label Studio export it, and the official trees beside them."""

import json
import math
from pathlib import Path

import pytest
from PIL import Image
from trees import make_coco

from msl_hf.data import check_images, load_images
from msl_hf.data.readers import recognise
from msl_hf.data.schema import DataError, undecoded


def save(*paths, size=(40, 30)):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(path)


def write(file, images, annotations, categories, indent=None, order=("images", "annotations", "categories"), **more):
    """`images`: (id, file name), `annotations`: (image id, category id, box or None)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lists = {
        "images": [{"id": key, "license": 1, "file_name": name, "height": 30, "width": 40} for key, name in images],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "iscrowd": 0, "segmentation": [],
             **({} if box is None else {"bbox": box, "area": math.prod(box[2:])})}
            for number, (image, category, box) in enumerate(annotations)
        ],
        "categories": categories,
    }  # fmt: skip
    file.write_text(json.dumps({**more, **{key: lists[key] for key in order}}, indent=indent))


def found(dataset):
    """Image -> names of its labels."""
    names = dataset.features["labels"].feature.names
    return {Path(row["image"]["path"]).name: [names[index] for index in row["labels"]] for row in undecoded(dataset)}


PETS = [{"id": 1, "name": "cat", "supercategory": ""}, {"id": 2, "name": "dog", "supercategory": ""}]
BOX = [10, 5.5, 20, 10]
ROBOFLOW = [{"id": 0, "name": "pets-x1y2", "supercategory": "none"},
            {"id": 1, "name": "cat", "supercategory": "pets-x1y2"},
            {"id": 2, "name": "dog", "supercategory": "pets-x1y2"}]  # fmt: skip


def make_roboflow(root, categories=ROBOFLOW, extra=()):
    """Image ids begin at 0 in every split."""
    order = ("categories", "images", "annotations")
    for split, names in (("train", "abc"), ("valid", "d"), ("test", "e")):
        files = [f"{name}_jpg.rf.0a1b.jpg" for name in names]
        save(*(root / split / file for file in files))
        boxes = [(0, 2, BOX), (0, 1, [0, 0, 4, 4]), (1, 1, BOX)] if split == "train" else [(0, 2, BOX)]
        write(
            root / split / "_annotations.coco.json",
            list(enumerate(files)),
            [*boxes, *extra],
            categories,
            order=order,
            info={"year": "2024", "version": "1"},
            licenses=[{"id": 1, "name": "CC BY 4.0"}],
        )
    (root / "README.roboflow.txt").write_text("pets - v1")
    return root


@pytest.mark.parametrize("format", ["auto", "coco"])
def test_roboflow(format, tmp_path, caplog):
    data = load_images(make_roboflow(tmp_path), format)
    assert sorted(data) == ["test", "train", "validation"]
    for dataset in data.values():
        assert dataset.features["labels"].feature.names == ["cat", "dog"]
        assert dataset.features["objects"]["label"].feature.names == ["cat", "dog"]
    assert data["train"][:]["labels"] == [[0, 1], [0], []]  # c shows nothing, and is kept
    assert data["train"][0]["objects"]["label"] == [1, 0]
    assert data["train"][0]["objects"]["bbox"] == [BOX, [0, 0, 4, 4]] and data["train"][0]["objects"]["area"] == [
        200,
        16,
    ]
    assert data["validation"][:]["labels"] == [[1]] and data["test"][:]["labels"] == [[1]]
    assert found(data["validation"]) == {"d_jpg.rf.0a1b.jpg": ["dog"]} and data["test"][0]["image"].size == (40, 30)
    assert "pets-x1y2" in caplog.text and "left out of the classes" in caplog.text
    left_out = load_images(tmp_path, format, keep_unlabelled=False)["train"]
    assert left_out[:]["labels"] == [[0, 1], [0]]


def test_root_category_with_objects_of_its_own_stays(tmp_path):
    data = load_images(make_roboflow(tmp_path, extra=[(0, 0, BOX)]))
    assert data["train"].features["labels"].feature.names == ["pets-x1y2", "cat", "dog"]
    assert data["train"][:]["labels"] == [[0, 1, 2], [1], []] and data["validation"][:]["labels"] == [[0, 2]]


def test_class_without_objects_stays_and_a_supercategory_of_its_own_name(tmp_path):
    categories = [{"id": 1, "name": "person", "supercategory": "person"}, {"id": 2, "name": "cat", "supercategory":
                  "animal"}, {"id": 3, "name": "rider", "supercategory": "person"}]  # fmt: skip
    save(tmp_path / "images/a.jpg")
    write(tmp_path / "annotations/instances_default.json", [(1, "a.jpg")], [(1, 3, BOX)], categories)
    train = load_images(tmp_path)["train"]
    assert train.features["labels"].feature.names == ["person", "cat", "rider"] and train[0]["labels"] == [2]


@pytest.mark.parametrize("format", ["auto", "coco"])
def test_cvat(format, tmp_path):
    save(*(tmp_path / f"images/{name}.png" for name in "ab"))
    write(
        tmp_path / "annotations/instances_default.json",
        [(1, "a.png"), (2, "b.png")],
        [(1, 2, BOX)],
        PETS,
        order=("categories", "images", "annotations"),
        licenses=[{"name": "", "id": 0, "url": ""}],
        info={"contributor": "", "date_created": "", "description": "", "url": "", "version": "", "year": ""},
    )
    data = load_images(tmp_path, format)
    assert list(data) == ["train"] and found(data["train"]) == {"a.png": ["dog"], "b.png": []}
    assert data["train"].features["labels"].feature.names == ["cat", "dog"]
    assert data["train"][0]["objects"]["bbox"] == [BOX] and data["train"][1]["objects"]["bbox"] == []
    assert found(load_images(tmp_path, format, keep_unlabelled=False)["train"]) == {"a.png": ["dog"]}


def test_cvat_with_subsets(tmp_path):
    for split in ("Train", "Validation"):
        save(tmp_path / f"images/{split}/a.jpg", size=(40, 30) if split == "Train" else (20, 10))
        write(tmp_path / f"annotations/instances_{split}.json", [(1, "a.jpg")], [(1, 1, BOX)], PETS)
    data = load_images(tmp_path)
    assert sorted(data) == ["train", "validation"]
    assert data["train"][0]["image"].size == (40, 30) and data["validation"][0]["image"].size == (20, 10)


LABEL_STUDIO = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
INFO = {"year": 2024, "version": "1.0", "description": "", "contributor": "Label Studio", "url": "",
        "date_created": "2024-05-01 10:00:00.000000"}  # fmt: skip


@pytest.mark.parametrize("name", ["images/0a1b2c3d-a.jpg", "images\\0a1b2c3d-a.jpg", "0a1b2c3d-a.jpg"])
@pytest.mark.parametrize("format", ["auto", "coco"])
def test_label_studio(format, name, tmp_path):
    save(tmp_path / "images/0a1b2c3d-a.jpg", tmp_path / "images/1b2c3d4e-b.jpg")
    write(tmp_path / "result.json", [(0, name), (1, "images/1b2c3d4e-b.jpg")], [(0, 1, BOX), (0, 0, BOX)],
          LABEL_STUDIO, indent=2, order=("images", "categories", "annotations"))  # fmt: skip
    content = json.loads((tmp_path / "result.json").read_text())
    (tmp_path / "result.json").write_text(json.dumps({**content, "info": INFO}, indent=2))
    for path in (tmp_path, tmp_path / "result.json"):
        train = load_images(path, format)["train"]
        assert found(train) == {"0a1b2c3d-a.jpg": ["cat", "dog"], "1b2c3d4e-b.jpg": []}
        assert train[0]["image"].size == (40, 30) and train[0]["objects"]["label"] == [1, 0]


def test_label_studio_of_thousands_of_images_is_recognised(tmp_path):
    images = [(number, f"images/{number:08x}-photo.jpg") for number in range(2000)]
    write(tmp_path / "result.json", images, [(number, 0, BOX) for number, _ in images], LABEL_STUDIO, indent=2,
          order=("images", "categories", "annotations"))  # fmt: skip
    assert recognise(tmp_path) == "coco" and recognise(tmp_path / "result.json") == "coco"


@pytest.mark.parametrize("format", ["auto", "coco"])
def test_files_by_name(format, tmp_path):
    save(*(tmp_path / f"photos/{name}.jpg" for name in "abc"))
    train, val = tmp_path / "labels/first.json", tmp_path / "labels/second.json"
    write(train, [(0, "a.jpg"), (1, "b.jpg")], [(0, 1, BOX)], PETS)
    write(val, [(0, "c.jpg")], [(0, 2, BOX)], PETS)
    names = {"train_json": str(train), "val_json": str(val)}
    for data in (load_images(tmp_path, format, image_dir=str(tmp_path / "photos"), **names),
                 load_images(tmp_path, format, **names)):  # fmt: skip
        assert sorted(data) == ["train", "validation"]
        assert found(data["train"]) == {"a.jpg": ["cat"], "b.jpg": []} and found(data["validation"]) == {
            "c.jpg": ["dog"]
        }
        assert data["validation"][0]["image"].size == (40, 30)
    alone = load_images(tmp_path, format, val_json=str(val), image_dir=str(tmp_path / "photos"))
    assert list(alone) == ["validation"]
    without = load_images(tmp_path, format, keep_unlabelled=False, **names)["train"]
    assert found(without) == {"a.jpg": ["cat"]}


@pytest.mark.parametrize(("images", "files"), [("images/{}", "annotations/{}.json"), ("{}/images", "{}/labels.json"),
                                               ("{}", "{}.json"), ("images", "annotations/{}_v2.json")])  # fmt: skip
def test_other_places(images, files, tmp_path):
    for split, name in (("train", "a"), ("val", "b"), ("test", "c")):
        save(tmp_path / images.format(split) / f"{name}.jpg")
        write(tmp_path / files.format(split), [(0, f"{name}.jpg")], [(0, 2, BOX)], PETS)
    data = load_images(tmp_path)
    assert sorted(data) == ["test", "train", "validation"]
    assert found(data["train"]) == {"a.jpg": ["dog"]} and found(data["validation"]) == {"b.jpg": ["dog"]}
    assert all(dataset[0]["image"].size == (40, 30) for dataset in data.values())


@pytest.mark.parametrize("box", [None, []])
def test_labels_without_boxes(box, tmp_path):
    save(tmp_path / "images/a.jpg", tmp_path / "images/b.jpg")
    write(tmp_path / "labels.json", [(1, "a.jpg"), (2, "b.jpg")], [(1, 2, box), (1, 1, box), (2, 1, box)], PETS)
    train = load_images(tmp_path)["train"]
    assert train[:]["labels"] == [[0, 1], [0]] and all(row["objects"]["label"] == [] for row in train)


def test_ids_that_are_texts(tmp_path):
    save(tmp_path / "images/a.jpg", tmp_path / "images/b.jpg", tmp_path / "images/c.jpg")
    write(tmp_path / "labels.json", [("cam_0000", "a.jpg"), ("cam_0001", "b.jpg"), ("17", "c.jpg")],
          [("cam_0001", "2", BOX), ("cam_0000", 1, BOX), (17, 2, BOX)], PETS)  # fmt: skip
    train = load_images(tmp_path)["train"]
    assert found(train) == {"a.jpg": ["cat"], "b.jpg": ["dog"], "c.jpg": ["dog"]}
    assert train[:]["image_id"] == ["cam_0000", "cam_0001", "17"]


@pytest.mark.parametrize("name", ["train\\day 1\\a.jpg", "train/day 1/a.jpg", ".\\train\\day 1\\a.jpg"])
def test_folders_in_file_names(name, tmp_path):
    save(tmp_path / "images/train/day 1/a.jpg", tmp_path / "images/train/day 2/a.jpg", size=(8, 8))
    save(tmp_path / "images/train/day 1/a.jpg", size=(40, 30))
    write(tmp_path / "labels.json", [(1, name)], [(1, 1, BOX)], PETS)
    assert load_images(tmp_path)["train"][0]["image"].size == (40, 30)


@pytest.mark.parametrize("second", ["cat", "cat "])
def test_two_categories_of_one_name(second, tmp_path):
    save(tmp_path / "images/a.jpg")
    write(tmp_path / "labels.json", [(1, "a.jpg")], [], [*PETS, {"id": 3, "name": second}])
    with pytest.raises(DataError, match="labels.json: two categories have the name 'cat'"):
        load_images(tmp_path)


@pytest.mark.parametrize("year", [2014, 2017])
@pytest.mark.parametrize("format", ["auto", "coco"])
def test_official_tree(format, year, tmp_path, caplog):
    data = load_images(make_coco(tmp_path, year), format)
    assert sorted(data) == ["train", "validation"]
    assert data["train"].features["labels"].feature.names == ["person", "dog", "toothbrush"]
    assert data["train"][:]["labels"] == [[0, 1], [0], [0, 1], [0], [0, 1]]
    assert data["train"][:]["image_id"] == ["100", "101", "102", "103", "104"]
    assert "2 images without any label are left out (--keep_unlabelled true keeps them)" in caplog.text
    kept = load_images(tmp_path, format, keep_unlabelled=True)
    assert kept["train"][:]["labels"] == [[0, 1], [0], [0, 1], [0], [0, 1], []] and len(kept["validation"]) == 6


def test_two_years(tmp_path):
    make_coco(tmp_path / "one", 2014)
    make_coco(tmp_path / "two", 2017)
    for folder in (tmp_path / "two").iterdir():
        for file in folder.iterdir():
            target = tmp_path / "one" / folder.name / file.name
            target.parent.mkdir(exist_ok=True)
            file.rename(target)
    with pytest.raises(DataError, match="holds COCO of 2014 and 2017; say which with --year"):
        load_images(tmp_path / "one", "coco")
    assert len(load_images(tmp_path / "one", "coco", year=2017)["train"]) == 5


@pytest.mark.parametrize(
    ("images", "annotations", "message"),
    [
        ([(1, "a.jpg"), (1, "b.jpg")], [], r"images\[1\]: there is an image with the id 1 already"),
        ([(1, "a.jpg"), (2, "a.jpg")], [], r"a.jpg more than once"),
        ([(1, "a.jpg")], [(2, 1, BOX)], r"annotations\[0\]: its image_id 2"),
        ([(1, "a.jpg")], [(1, 9, BOX)], r"annotations\[0\]: its category_id 9"),
        ([(1, "a.jpg")], [(1, 1, [1, 2, 3])], r"annotations\[0\].*bbox has 3 numbers"),
        ([(1, "../a.jpg")], [], r"images\[0\].*leads out of the folder"),
    ],
)
def test_errors_name_file_and_record(images, annotations, message, tmp_path):
    save(tmp_path / "images/a.jpg", tmp_path / "images/b.jpg")
    write(tmp_path / "labels.json", images, annotations, PETS)
    with pytest.raises(DataError, match="labels.json.*" + message):
        load_images(tmp_path)


def test_a_missing_image_is_not_taken_from_another_split(tmp_path):
    for split, names in (("train", "ab"), ("valid", "a")):
        write(tmp_path / split / "_annotations.coco.json", list(enumerate(f"{name}.jpg" for name in names)), [], PETS)
    save(tmp_path / "train/b.jpg", tmp_path / "valid/a.jpg")
    with pytest.raises(DataError, match=r"(?s)1 of 2 images cannot be used.*train/a\.jpg: no such image file"):
        check_images(load_images(tmp_path)["train"], progress=False)
