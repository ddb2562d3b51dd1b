import csv
import json

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from msl_hf.data import load_image_folder, load_images
from msl_hf.data.schema import DataError, column


def write_split(folder, rows, kind="jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        Image.new("RGB", (8, 8)).save(folder / row["file_name"])
    if kind == "jsonl":
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [f"{row['file_name']},{';'.join(map(str, row['labels']))}" for row in rows]
        (folder / "metadata.csv").write_text("\n".join(["file_name,labels", *lines]))


ROWS = [{"file_name": "a.jpg", "labels": ["dog", "cat"]}, {"file_name": "b.png", "labels": []}]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_splits_and_sorted_names(kind, tmp_path):
    write_split(tmp_path / "train", ROWS, kind)
    write_split(tmp_path / "validation", [{"file_name": "c.jpg", "labels": ["ape"]}], kind)
    data = load_image_folder(tmp_path)
    assert set(data) == {"train", "validation"}
    assert data["train"].features["labels"].feature.names == ["ape", "cat", "dog"]
    assert data["train"][:]["labels"] == [[1, 2], []] and data["validation"][0]["labels"] == [0]
    assert data["train"][0]["image"].size == (8, 8) and data["train"][0]["image_id"] == "train/a.jpg"


def test_one_folder_is_the_training_split(tmp_path):
    write_split(tmp_path, ROWS)
    assert list(load_image_folder(str(tmp_path))) == ["train"]


@pytest.mark.parametrize(("file", "text"), [("classes.json", '["dog", "cat"]'), ("classes.txt", "dog\ncat\n")])
def test_class_files_give_the_order_and_allow_indices(file, text, tmp_path):
    write_split(tmp_path / "train", [*ROWS, {"file_name": "d.jpg", "labels": [1]}])
    (tmp_path / file).write_text(text)
    data = load_image_folder(tmp_path)["train"]
    assert data.features["labels"].feature.names == ["dog", "cat"]
    assert data[:]["labels"] == [[0, 1], [], [1]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file_name": "a.jpg", "labels": ["emu"]}', r"metadata.jsonl:1: label 'emu' is not among"),
        ('{"file_name": "a.jpg", "labels": [7]}', "label 7 is outside the 2 classes"),
        ('{"file_name": "a.jpg", "labels": 1.5}', "labels must be a list"),
        ('{"file_name": "a.jpg"}', "has no labels"),
        ('{"labels": []}', "has no file_name"),
        ('{"file_name": "../a.jpg", "labels": []}', "leads out of the folder"),
        ('{"file_name": ', "metadata.jsonl:1: is not valid JSON"),
        ('["a.jpg"]', "must be an object"),
    ],
)
def test_errors_name_file_and_line(line, message, tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "metadata.jsonl").write_text(line + "\n")
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    with pytest.raises(DataError, match=message):
        load_image_folder(tmp_path)


def test_missing_class_names(tmp_path):
    write_split(tmp_path / "train", [{"file_name": "a.jpg", "labels": [0]}])
    with pytest.raises(DataError, match="needs class names.*classes.json"):
        load_image_folder(tmp_path)
    write_split(tmp_path / "train", [{"file_name": "a.jpg", "labels": []}])
    with pytest.raises(DataError, match="no class names"):
        load_image_folder(tmp_path)


@pytest.mark.parametrize("text", ['["a", "a"]', "{}", "[]", "[1]", "nonsense"])
def test_broken_class_files(text, tmp_path):
    write_split(tmp_path / "train", ROWS)
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(DataError, match="classes.json"):
        load_image_folder(tmp_path)


def test_neither_folder_nor_data_set(tmp_path):
    with pytest.raises(DataError, match="neither it nor a folder in it"):
        load_image_folder(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        load_image_folder(tmp_path / "missing")


@pytest.mark.parametrize("kind", ["names", "classlabel"])
def test_parquet_files(kind, tmp_path):
    image = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(image)
    label = Value("string") if kind == "names" else ClassLabel(names=["cat", "dog"])
    features = Features({"picture": ImageFeature(), "labels": List(label)})
    labels = [["dog"], []] if kind == "names" else [[1], []]
    (tmp_path / "data").mkdir()
    dataset = Dataset.from_dict({"picture": [str(image)] * 2, "labels": labels}, features=features)
    dataset.to_parquet(tmp_path / "data" / "train.parquet")
    data = load_image_folder(tmp_path / "data")["train"]
    names = data.features["labels"].feature.names
    assert [[names[index] for index in row] for row in data[:]["labels"]] == [["dog"], []]
    assert data[0]["image"].size == (8, 8)


def test_real_photographs(shared):
    data = load_image_folder(shared / "data/coco80")
    assert {split: len(dataset) for split, dataset in data.items()} == {"train": 1500, "validation": 500}
    names = data["train"].features["labels"].feature.names
    assert len(names) == 80 and names[0] == "person"
    first = json.loads((shared / "data/coco80/train/metadata.jsonl").read_text().splitlines()[0])
    assert {names[index] for index in data["train"][0]["labels"]} == set(first["labels"])


def test_images_without_a_row_are_counted(tmp_path, caplog):
    write_split(tmp_path / "train", ROWS)
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / "z.jpg")
    assert len(load_image_folder(tmp_path)["train"]) == 2
    assert f"train: 1 images have no row, such as {tmp_path / 'train' / 'z.jpg'}; they are left out" in caplog.text


def test_a_column_of_labels_by_its_name(tmp_path):
    """`--label_column` on a folder: the one column that is meant, whatever the file is called and else holds."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    (tmp_path / "photos.csv").write_text("image,kinds,blurred\na.jpg,cat;dog,0\n")
    for load in (load_images, load_image_folder):
        data = load(tmp_path, label_column="kinds")["train"]
        assert data.features["labels"].feature.names == ["cat", "dog"] and data[0]["labels"] == [0, 1]
    with pytest.raises(DataError, match="photos.csv:2: has no kind"):
        load_images(tmp_path / "photos.csv", "metadata", label_column="kind")


def test_line_breaks_within_a_file_name(tmp_path):
    for name in ("a\nb.png", "c.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    with (tmp_path / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file_name", "labels"], ["a\nb.png", "cat"], ["c.png", "dog"]])
    data = load_image_folder(tmp_path)["train"]
    assert column(data, "image_id") == ["train/a\nb.png", "train/c.png"]
    assert data[0]["image"].size == (8, 8) and column(data, "labels") == [[0], [1]]
