"""Which format a folder, a file or an id is written in."""

import itertools
import json

import pytest
from datasets import Dataset
from trees import make_coco, make_wider

from msl_hf.data import load_images
from msl_hf.data.readers import recognise
from msl_hf.data.schema import DataError

COCO = json.dumps({"info": {}, "licenses": [], "categories": [{"id": 1, "name": "cat", "supercategory": ""}],
                   "images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []})  # fmt: skip
TASKS = json.dumps([{"id": 1, "annotations": [{"id": 2, "result": [{"type": "choices", "value": {"choices": ["a"]}}]}],
                     "data": {"image": "/data/upload/1/0a1b2c3d-a.jpg"}}])  # fmt: skip
JSON_MIN = json.dumps([{"image": "/data/upload/1/0a1b2c3d-a.jpg", "id": 1, "choice": "cat", "annotator": 1,
                        "annotation_id": 2, "created_at": "", "updated_at": "", "lead_time": 1.0}])  # fmt: skip
LABELME = json.dumps(
    {
        "version": "5.4.1",
        "flags": {"cat": True},
        "shapes": [],
        "imagePath": "a.jpg",
        "imageData": None,
        "imageHeight": 8,
        "imageWidth": 8,
    },
    indent=2,
)
XML = "<annotation>\n\t<filename>a.jpg</filename>\n\t<object><name>cat</name></object>\n</annotation>\n"
HUMAN = "ImageID,Source,LabelName,Confidence\n000026e7ee790996,verification,/m/01yrx,1\n"
CHEXPERT = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema\nCheXpert-v1.0-small/train/a.jpg,Male,68,Frontal,AP,1.0,\n"
)
YAML = "train: images/train\nval: images/val\nnames: [cat, dog]\n"
# What each export writes beside its images: format -> examples
EXPORTS = {
    "metadata": [
        {"metadata.csv": "file_name,labels\na.jpg,cat\n"},
        {"train/metadata.jsonl": '{"file_name": "a.jpg", "labels": ["cat"]}\n'},
        {"valid/metadata.csv": "file_name;labels\na.jpg;cat\n"},
        {"train.csv": "image_id,labels\na,cat dog\nb,cat\n", "sample_submission.csv": "image_id,labels\nb,cat\n"},
    ],
    "columns": [
        {"train/_classes.csv": "filename, Cat, Dog\na.jpg, 1, 0\n", "valid/_classes.csv": "filename, Cat, Dog\n"},
        {"train.csv": "image_id,healthy,rust\na,1,0\n", "test.csv": "image_id\nb\n",
         "sample_submission.csv": "image_id,healthy,rust\nb,0.5,0.5\n"},
        {"train.csv": CHEXPERT, "valid.csv": CHEXPERT},
        {"list_attr_celeba.csv": "image_id,Male,Young\n000001.jpg,-1,1\n",
         "list_eval_partition.csv": "image_id,partition\n000001.jpg,0\n",
         "list_bbox_celeba.csv": "image_id,x_1,y_1,width,height\n000001.jpg,95,71,226,313\n",
         "list_landmarks_align_celeba.csv": "image_id,lefteye_x,lefteye_y\n000001.jpg,69,109\n"},
        {"list_attr_celeba.txt": "1\nMale Young \n000001.jpg -1  1\n", "list_eval_partition.txt": "000001.jpg 0\n",
         "list_bbox_celeba.txt": "1\nimage_id x_1 y_1 width height\n000001.jpg    95  71 226 313\n"},
        {"metadata.csv": "file_name,cat,dog\na.jpg,1,0\n"},
    ],
    "voc": [
        {"a.xml": XML, "classes.txt": "cat\n"},
        {"Annotations/a.xml": XML, "ImageSets/Main/default.txt": "a\n", "labelmap.txt": "cat:1,2,3::\n"},
        {"train/a.xml": XML, "valid/a.xml": XML, "README.roboflow.txt": "pets\n"},
        {"VOC2007/ImageSets/Main/cat_train.txt": "a 1\n", "VOC2007/ImageSets/Main/train.txt": "a\n"},
    ],
    "coco": [
        {"train/_annotations.coco.json": COCO, "valid/_annotations.coco.json": COCO, "README.roboflow.txt": "pets\n"},
        {"annotations/instances_default.json": COCO},
        {"result.json": COCO},
        {"annotations/train.json": COCO, "annotations/val.json": COCO},
        {"annotations/instances_train2017.json": COCO, "annotations/captions_train2017.json": '{"images": []}'},
    ],
    "yolo": [
        {"data.yaml": YAML, "labels/train/a.txt": "0 0.5 0.5 1 1\n"},
        {"data.yaml": "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['cat']\n"},
        {"dataset.yaml": "path: .\ntrain: train.txt\nnames:\n  0: cat\n", "train.txt": "images/train/a.jpg\n"},
        {"pets.yml": YAML, "classes.txt": "cat\ndog\n"},
    ],
    "label_studio": [{"project-1-at-2024-05-01-10-00-0a1b2c3d.json": TASKS}, {"export.json": JSON_MIN},
                     {"train/tasks.json": TASKS, "val/tasks.json": TASKS}],
    "labelme": [{"a.json": LABELME}, {"train/a.json": LABELME, "val/b.json": LABELME}, {"labels/a.json": LABELME}],
    "openimages": [
        {"train-annotations-human-imagelabels.csv": HUMAN, "class-descriptions.csv": "/m/01yrx,Cat\n/m/0bt9lr,Dog\n"},
        {"oidv7-class-descriptions.csv": "LabelName,DisplayName\n/m/01yrx,Cat\n",
         "oidv7-val-annotations-human-imagelabels.csv": HUMAN,
         "validation-annotations-bbox.csv": "ImageID,Source,LabelName,Confidence,XMin\na,xclick,/m/01yrx,1,0.1\n"},
    ],
}  # fmt: skip
EXAMPLES = [(name, number) for name, examples in EXPORTS.items() for number in range(len(examples))]


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(("name", "number"), EXAMPLES)
def test_folders(name, number, tmp_path):
    assert recognise(write(tmp_path, EXPORTS[name][number])) == name
    assert recognise(str(tmp_path)) == name


def test_official_trees(tmp_path):
    assert recognise(make_coco(tmp_path / "coco", 2017, 3)) == "coco"
    assert recognise(make_wider(tmp_path / "wider", 3)) == "wider"
    (tmp_path / "nested").mkdir()
    (tmp_path / "wider/Image").rename(tmp_path / "nested/Image")
    (tmp_path / "wider").rename(tmp_path / "nested/wider_attribute_annotation")
    assert recognise(tmp_path / "nested") == "wider"


@pytest.mark.parametrize("folder", ["", "data", "default/train"])
def test_parquet_and_ids(folder, tmp_path):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    Dataset.from_dict({"cat": [1]}).to_parquet(tmp_path / folder / "train-00000-of-00001.parquet")
    assert recognise(tmp_path) == "hub" and recognise("someone/pets") == "hub"


@pytest.mark.parametrize(
    ("file", "text", "name"),
    [
        ("labels.csv", "file_name,labels\na.jpg,cat\n", "metadata"),
        ("labels.jsonl", '{"file_name": "a.jpg", "labels": ["cat"]}\n', "metadata"),
        ("pets.csv", "image,cat,dog\na.jpg,1,0\n", "columns"),
        ("list_attr_celeba.txt", "1\nMale Young \n000001.jpg -1  1\n", "columns"),
        ("labels.json", COCO, "coco"),
        ("export.json", TASKS, "label_studio"),
        ("export.json", JSON_MIN, "label_studio"),
        ("data.yaml", YAML, "yolo"),
    ],
)
def test_files(file, text, name, tmp_path):
    write(tmp_path, {file: text, "a.xml": XML, "other.json": LABELME})  # what lies beside it does not matter
    assert recognise(tmp_path / file) == name


@pytest.mark.parametrize(("one", "two"), list(itertools.combinations(EXPORTS, 2)))
def test_two_formats_at_once(one, two, tmp_path):
    write(tmp_path, EXPORTS[one][0])
    write(tmp_path, {name: text for name, text in EXPORTS[two][0].items() if name != "classes.txt"})
    both = {one, two} <= {"metadata", "columns"}  # two tables are a fault of their own, with a message of its own
    with pytest.raises(DataError, match="both .* list images; .*name the file" if both else "--format") as error:
        recognise(tmp_path)
    assert both or (one in str(error.value) and two in str(error.value))
    with pytest.raises(DataError):
        load_images(tmp_path)


def test_columns_that_are_given_decide(tmp_path):
    write(tmp_path, {"metadata.csv": "file_name,label,cat,dog\na.jpg,pets,1,0\n"})
    assert recognise(tmp_path) == "metadata" and recognise(tmp_path, ["cat", "dog"]) == "columns"


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"notes.txt": "hello\n"},
        {"config.json": '{"a": 1}', "list.json": "[1, 2]"},
        {"hyp.yaml": "lr0: 0.01\n"},
        {"prices.csv": "date,price\n2024-05-01,3\n"},
        {"page.xml": "<html></html>"},
    ],
)
def test_nothing_known(files, tmp_path):
    with pytest.raises(DataError, match="holds no labels in a known way: metadata.jsonl or .csv"):
        recognise(write(tmp_path, files))
    with pytest.raises(DataError, match="holds no labels in a known way"):
        load_images(tmp_path)


def test_unknown_format(tmp_path):
    with pytest.raises(DataError, match="format must be one of auto, metadata, columns, voc, coco, .*got 'csv'"):
        load_images(tmp_path, "csv")


@pytest.mark.parametrize("name", [name for name in EXPORTS if name not in ("metadata", "columns")])
def test_class_names_are_refused_where_the_format_has_its_own(name, tmp_path):
    with pytest.raises(DataError, match=f"the format {name} has class names of its own; leave out --classes"):
        load_images(write(tmp_path, EXPORTS[name][0]), class_names=["cat"])
    with pytest.raises(DataError, match=f"in the format {name} are read from disk as they are; streaming is for"):
        load_images(tmp_path, streaming=True)
