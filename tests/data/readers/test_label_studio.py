"""Label Studio's JSON and JSON-MIN exports, as version 1 writes them."""

import json
from pathlib import Path

import pytest
from PIL import Image

from msl_hf.data import load_images
from msl_hf.data.schema import DataError, undecoded

WIDTH, HEIGHT = 40, 20


def save(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(path)


def choices(*names):
    return {
        "value": {"choices": list(names)},
        "id": "x1",
        "from_name": "choice",
        "to_name": "image",
        "type": "choices",
        "origin": "manual",
    }


def region(kind, **value):
    return {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0, "value": value, "id": "b1",
            "from_name": "label", "to_name": "image", "type": kind, "origin": "manual"}  # fmt: skip


def rectangle(x, y, width, height, *names, rotation=0):
    return region("rectanglelabels", x=x, y=y, width=width, height=height, rotation=rotation,
                  rectanglelabels=list(names))  # fmt: skip


def task(number, image, *annotations, **data):
    """A task with one list of results for each annotation."""
    return {
        "id": number,
        "annotations": [
            {"id": 100 * number + at, "completed_by": 1, "result": result, "was_cancelled": False,
             "ground_truth": False, "created_at": "2024-05-01T10:00:00.000000Z", "lead_time": 3.2,
             "prediction": {}, "result_count": 0, "task": number, "project": 1}
            for at, result in enumerate(annotations)
        ],
        "file_upload": "0a1b2c3d-a.jpg", "drafts": [], "predictions": [], "data": {"image": image, **data}, "meta": {},
        "created_at": "2024-05-01T09:00:00.000000Z", "updated_at": "2024-05-01T10:00:00.000000Z", "inner_id": number,
        "total_annotations": len(annotations), "cancelled_annotations": 0, "total_predictions": 0, "project": 1,
    }  # fmt: skip


def write(root, tasks, name="project-1-at-2024-05-01-10-00-0a1b2c3d.json", indent=None):
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(tasks, indent=indent))
    return root


def found(dataset):
    """Image -> names of its labels."""
    names = dataset.features["labels"].feature.names
    return {Path(row["image"]["path"]).name: [names[index] for index in row["labels"]] for row in undecoded(dataset)}


@pytest.mark.parametrize("folder", ["", "images", "media/upload/1"])
@pytest.mark.parametrize("format", ["auto", "label_studio"])
def test_choices(format, folder, tmp_path, caplog):
    save(*(tmp_path / folder / f"{name}.jpg" for name in "abcd"))
    write(tmp_path, [
        task(1, "/data/upload/1/0a1b2c3d-a.jpg", [choices("dog", "cat")]),
        task(2, "/data/upload/1/1b2c3d4e-b.jpg", [choices("dog")]),
        task(3, "/data/upload/1/2c3d4e5f-c.jpg"),  # nobody has annotated it
        task(4, "/data/upload/1/3d4e5f60-d.jpg", []),  # submitted without a choice
    ])  # fmt: skip
    data = load_images(tmp_path, format)
    assert list(data) == ["train"] and data["train"].features["labels"].feature.names == ["cat", "dog"]
    assert found(data["train"]) == {"a.jpg": ["cat", "dog"], "b.jpg": ["dog"], "d.jpg": []}
    assert set(data["train"].features) == {"image", "labels", "image_id"}
    assert data["train"][0]["image"].size == (WIDTH, HEIGHT)
    assert "1 tasks nobody has annotated are left out" in caplog.text
    kept = load_images(tmp_path, format, keep_unlabelled=True)["train"]
    assert found(kept) == {"a.jpg": ["cat", "dog"], "b.jpg": ["dog"], "c.jpg": [], "d.jpg": []}
    assert "d.jpg" not in found(load_images(tmp_path, format, keep_unlabelled=False)["train"])


@pytest.mark.parametrize(
    "written",
    [
        "/data/local-files/?d=photos/a.jpg",
        "/data/local-files/?d=home%2Fanna%2Fphotos%2Fa.jpg",
        "/data/upload/1/0a1b2c3d-a.jpg",
        "http://localhost:8080/data/upload/1/0a1b2c3d-a.jpg",
        "/data/local-files/?d=C%3A%5Cphotos%5Ca.jpg",
        "s3://bucket/photos/a.jpg",
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_ways_to_write_an_image(indent, written, tmp_path):
    save(tmp_path / "photos/a.jpg")
    train = load_images(write(tmp_path, [task(1, written, [choices("cat")])], indent=indent))["train"]
    assert found(train) == {"a.jpg": ["cat"]} and train[0]["image"].size == (WIDTH, HEIGHT)


def test_images_under_the_name_of_the_upload(tmp_path):
    save(tmp_path / "upload/1/0a1b2c3d-a.jpg", tmp_path / "upload/1/1b2c3d4e-a.jpg")  # two that were called a.jpg
    write(tmp_path, [task(1, "/data/upload/1/0a1b2c3d-a.jpg", [choices("cat")]),
                     task(2, "/data/upload/1/1b2c3d4e-a.jpg", [choices("dog")])])  # fmt: skip
    assert found(load_images(tmp_path)["train"]) == {"0a1b2c3d-a.jpg": ["cat"], "1b2c3d4e-a.jpg": ["dog"]}


def test_local_files_of_one_name_in_two_folders(tmp_path):
    save(tmp_path / "photos/one/a.jpg", tmp_path / "photos/two/a.jpg")
    write(tmp_path, [task(1, "/data/local-files/?d=photos/one/a.jpg", [choices("cat")]),
                     task(2, "/data/local-files/?d=photos/two/a.jpg", [choices("dog")])])  # fmt: skip
    train = load_images(tmp_path)["train"]
    paths = [Path(row["image"]["path"]).parent.name for row in undecoded(train)]
    assert paths == ["one", "two"] and train[:]["labels"] == [[0], [1]]


@pytest.mark.parametrize("format", ["auto", "label_studio"])
def test_regions(format, tmp_path):
    save(*(tmp_path / f"images/{name}.jpg" for name in "abcd"))
    polygon = region("polygonlabels", points=[[25, 10], [75, 10], [50, 90]], polygonlabels=["dog"], closed=True)
    brush = region("brushlabels", format="rle", rle=[0, 0, 1, 64], brushlabels=["sky"])
    write(tmp_path, [
        task(1, "/data/upload/1/0a1b2c3d-a.jpg", [rectangle(25, 10, 50, 40, "cat"), rectangle(0, 0, 10, 20, "dog")]),
        task(2, "/data/upload/1/1b2c3d4e-b.jpg", [polygon, brush]),
        task(3, "/data/upload/1/2c3d4e5f-c.jpg", []),
        task(4, "/data/upload/1/3d4e5f60-d.jpg", [rectangle(25, 10, 50, 40, "cat", rotation=30)]),
    ])  # fmt: skip
    train = load_images(tmp_path, format)["train"]
    assert train.features["labels"].feature.names == ["cat", "dog", "sky"]
    assert found(train) == {"a.jpg": ["cat", "dog"], "b.jpg": ["dog", "sky"], "c.jpg": [], "d.jpg": ["cat"]}
    assert [row["label"] for row in train[:]["objects"]] == [[0, 1], [1], [], []]
    assert [row["bbox"] for row in train[:]["objects"]] == [[[10, 2, 20, 8], [0, 0, 4, 4]], [[10, 2, 20, 16]], [], []]


def test_two_people_and_a_skipped_task(tmp_path):
    save(tmp_path / "a.jpg", tmp_path / "b.jpg")
    both = task(1, "/data/upload/1/0a1b2c3d-a.jpg", [choices("cat")], [choices("dog")])
    skipped = task(2, "/data/upload/1/1b2c3d4e-b.jpg", [choices("dog")])
    skipped["annotations"][0]["was_cancelled"] = True
    assert found(load_images(write(tmp_path, [both, skipped]))["train"]) == {"a.jpg": ["cat", "dog"]}


def test_splits(tmp_path):
    for split in ("train", "valid"):
        save(tmp_path / split / "a.jpg")
        write(tmp_path / split, [task(1, "/data/upload/1/0a1b2c3d-a.jpg", [choices(split)])])
    data = load_images(tmp_path)
    assert sorted(data) == ["train", "validation"]
    assert data["train"][0]["labels"] == [0] and data["validation"][0]["labels"] == [1]


def minimal(number, image, **values):
    return {"image": image, "id": number, **values, "annotator": 1, "annotation_id": 10 + number,
            "created_at": "2024-05-01T10:00:00.000000Z", "updated_at": "2024-05-01T10:00:00.000000Z",
            "lead_time": 3.2}  # fmt: skip


@pytest.mark.parametrize("format", ["auto", "label_studio"])
def test_json_min(format, tmp_path):
    save(*(tmp_path / f"images/{name}.jpg" for name in "abc"))
    write(tmp_path, [
        minimal(1, "/data/upload/1/0a1b2c3d-a.jpg", choice={"choices": ["dog", "cat"]}),
        minimal(2, "/data/upload/1/1b2c3d4e-b.jpg", choice="dog"),
        minimal(3, "/data/local-files/?d=photos/c.jpg"),
    ])  # fmt: skip
    train = load_images(tmp_path, format)["train"]
    assert found(train) == {"a.jpg": ["cat", "dog"], "b.jpg": ["dog"], "c.jpg": []}
    assert set(train.features) == {"image", "labels", "image_id"}


def test_json_min_with_boxes(tmp_path):
    save(tmp_path / "a.jpg")
    boxes = [
        {"x": 25, "y": 10, "width": 50, "height": 40, "rotation": 0, "rectanglelabels": ["cat"],
         "original_width": WIDTH, "original_height": HEIGHT},
        {"x": 0, "y": 0, "width": 10, "height": 20, "rotation": 0, "rectanglelabels": ["dog"],
         "original_width": WIDTH, "original_height": HEIGHT},
    ]  # fmt: skip
    train = load_images(write(tmp_path, [minimal(1, "/data/upload/1/0a1b2c3d-a.jpg", label=boxes)]))["train"]
    assert found(train) == {"a.jpg": ["cat", "dog"]}
    assert train[0]["objects"]["label"] == [0, 1]
    assert train[0]["objects"]["bbox"] == [[10, 2, 20, 8], [0, 0, 4, 4]]


@pytest.mark.parametrize("kind", ["json", "json-min"])
def test_other_data_of_a_task_is_no_class(kind, tmp_path):
    save(tmp_path / "a.jpg", tmp_path / "b.jpg")
    images = {"/data/upload/1/0a1b2c3d-a.jpg": "cat", "/data/upload/1/1b2c3d4e-b.jpg": "dog"}
    if kind == "json":
        write(
            tmp_path,
            [task(at, image, [choices(name)], city="Bonn") for at, (image, name) in enumerate(images.items())],
        )
    else:  # the data of a task come before its id, the labels after it
        write(tmp_path, [{"city": "Bonn", **minimal(at, image, choice=name)} for at, (image, name) in
                         enumerate(images.items())])  # fmt: skip
    assert found(load_images(tmp_path)["train"]) == {"a.jpg": ["cat"], "b.jpg": ["dog"]}


def test_rating_and_text_are_no_classes(tmp_path, caplog):
    save(tmp_path / "a.jpg")
    rating = {"value": {"rating": 4}, "id": "r", "from_name": "rating", "to_name": "image", "type": "rating"}
    text = {"value": {"text": ["good"]}, "id": "t", "from_name": "note", "to_name": "image", "type": "textarea"}
    write(tmp_path, [task(1, "/data/upload/1/0a1b2c3d-a.jpg", [choices("cat"), rating, text])])
    assert found(load_images(tmp_path)["train"]) == {"a.jpg": ["cat"]}
    assert "1 results of the kind 'rating' are left out" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{**task(1, "/data/a.jpg", [choices("cat")]), "data": {}}], "task 0"),
        ([task(1, "/data/a.jpg", [choices("cat")]), {"id": 2, "data": {"image": "/b.jpg"}}], "task 1: has no 'annot"),
        ([task(1, "/data/a.jpg", [{"type": "choices"}])], "task 0: has no 'value'"),
    ],
)
def test_errors_name_the_task(content, message, tmp_path):
    save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=message):
        load_images(write(tmp_path, content))
