"""Layouts and spellings that people have: each is read right, or refused in words."""

import json
import os

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from datasets import Image as ImageFeature
from exports import EXPORTS
from PIL import Image

from msl_hf.data import load_images
from msl_hf.data.readers import recognise
from msl_hf.data.schema import DataError, class_names_of, undecoded


def save(root, *names):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 10), (number, 0, 0)).save(root / name, "PNG")


def write(file, *lines):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def shown(datasets, column="labels"):
    """Split -> file name -> names of the labels; an image that is not there is an error."""
    result = {}
    for split, dataset in datasets.items():
        names = class_names_of(dataset)
        assert all(row["image"].size for row in dataset)
        result[split] = {row["image"]["path"].rsplit("/", 1)[-1]: [names[index] for index in row[column]]
                         for row in undecoded(dataset)}  # fmt: skip
    return result


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_number_for_each_class_is_no_index(kind, tmp_path):
    save(tmp_path, "a.png", "b.png", "c.png")
    write(tmp_path / "classes.txt", "cat", "dog", "bird")
    vectors = {"a.png": [0, 1, 1], "b.png": [1, 0, 0], "c.png": [0, 0, 0]}
    if kind == "csv":
        write(tmp_path / "metadata.csv", "file_name,labels", *(f'{name},"{value}"' for name, value in vectors.items()))
    else:
        write(tmp_path / "metadata.jsonl", *(json.dumps({"file_name": n, "labels": v}) for n, v in vectors.items()))
    expected = {"a.png": ["dog", "bird"], "b.png": ["cat"], "c.png": []}
    assert shown(load_images(tmp_path)) == {"train": expected}


def test_numbers_for_each_class_beside_images_of_which_nothing_is_known(tmp_path):
    save(tmp_path, "a.png", "b.png", "c.png")
    write(tmp_path / "classes.txt", "cat", "dog", "bird")
    rows = (("a.png", [0, 1, 1]), ("b.png", None), ("c.png", [1, 0, 0]))
    write(tmp_path / "metadata.jsonl", *(json.dumps({"file_name": name, "labels": value}) for name, value in rows))
    data = load_images(tmp_path)
    assert shown(data) == {"train": {"a.png": ["dog", "bird"], "b.png": [], "c.png": ["cat"]}}
    assert shown(data, "ignored") == {"train": {"a.png": [], "b.png": ["cat", "dog", "bird"], "c.png": []}}


def test_numbers_that_may_be_either_are_refused(tmp_path):
    save(tmp_path, "a.png", "b.png")
    write(tmp_path / "classes.txt", "cat", "dog")
    rows = ({"file_name": "a.png", "labels": [0, 1]}, {"file_name": "b.png", "labels": [1, 0]})
    write(tmp_path / "metadata.jsonl", *map(json.dumps, rows))
    with pytest.raises(DataError, match="may be the indices of classes, or a number for each; write names"):
        load_images(tmp_path)


@pytest.mark.parametrize("prefix", ["", "images/", "data/photos/"])
@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("kind", ["metadata", "columns", "coco"])
def test_one_file_of_labels_whose_images_lie_in_folders_of_splits(kind, written, prefix, tmp_path):
    files = [f"{prefix}train/a.png", f"{prefix}test/b.png"]
    save(tmp_path, *files)
    names = files if written else ["a.png", "b.png"]
    if kind == "metadata":
        write(tmp_path / "labels.csv", "file_name,labels", f"{names[0]},cat", f"{names[1]},dog")
    elif kind == "columns":
        write(tmp_path / "labels.csv", "file_name,cat,dog", f"{names[0]},1,0", f"{names[1]},0,1")
    else:
        content = {"images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
                   "annotations": [{"id": n, "image_id": n, "category_id": n} for n in range(2)],
                   "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]}  # fmt: skip
        write(tmp_path / "all.json", json.dumps(content))
    assert shown(load_images(tmp_path)) == {"train": {"a.png": ["cat"]}, "test": {"b.png": ["dog"]}}


def test_columns_of_splits(tmp_path):
    save(tmp_path, "a.png", "b.png")
    write(tmp_path / "labels.csv", "file_name,subset,labels", "a.png,train,cat", "b.png,test,dog")
    assert shown(load_images(tmp_path)) == {"train": {"a.png": ["cat"]}, "test": {"b.png": ["dog"]}}
    (tmp_path / "labels.csv").unlink()
    rows = ({"file_name": "a.png", "labels": ["cat"]}, {"file_name": "b.png", "labels": ["dog"], "split": "test"})
    write(tmp_path / "metadata.jsonl", *map(json.dumps, rows))
    with pytest.raises(DataError, match="metadata.jsonl:1: column 'split' holds None, which is no split"):
        load_images(tmp_path)
    (tmp_path / "metadata.jsonl").unlink()
    save(tmp_path, "train/a.png")
    write(tmp_path / "train/metadata.csv", "file_name,split,labels", "a.png,test,cat")
    with pytest.raises(DataError, match="is of split 'test' by its column 'split', and of 'train' by the place"):
        load_images(tmp_path)


def test_a_named_validation_file_never_takes_training_images(tmp_path):
    save(tmp_path, "images/train/1.png", "images/val/1.png", "images/val/2.png")
    for name, files in (("train", ["1.png"]), ("holdout", ["1.png", "2.png"])):
        content = {"images": [{"id": number, "file_name": file} for number, file in enumerate(files)],
                   "annotations": [{"id": 0, "image_id": 0, "category_id": 0}],
                   "categories": [{"id": 0, "name": "cat"}]}  # fmt: skip
        write(tmp_path / f"ann/{name}.json", json.dumps(content))
    data = load_images(tmp_path, train_json=tmp_path / "ann/train.json", val_json=tmp_path / "ann/holdout.json",
                       image_dir=tmp_path / "images")  # fmt: skip
    paths = {split: [row["image"]["path"] for row in undecoded(dataset)] for split, dataset in data.items()}
    assert paths == {"train": [str(tmp_path / "images/train/1.png")],
                     "validation": [str(tmp_path / f"images/val/{n}.png") for n in (1, 2)]}  # fmt: skip


def test_openimages_by_its_own_names_and_what_was_verified(tmp_path, caplog):
    save(tmp_path, "train/t.png", "validation/v.png", "test/s.png")
    header = "ImageID,Source,LabelName,Confidence"
    for name, image in (("train", "t"), ("val", "v"), ("test", "s")):
        write(tmp_path / f"oidv7-{name}-annotations-human-imagelabels.csv", header, f"{image},verification,/m/cat,1")
    write(tmp_path / "oidv6-train-annotations-machine-imagelabels.csv", header, "t,machine,/m/dog,1.0",
          "t,verification,/m/fox,0", "t,verification,/m/fox,1", "t,verification,/m/cow,0")  # fmt: skip
    data = load_images(tmp_path)
    assert shown(data) == {split: {f"{split[0] if split != 'test' else 's'}.png": ["/m/cat"]}
                           for split in ("test", "train", "validation")}  # fmt: skip
    assert shown(data, "ignored")["train"] == {"t.png": ["/m/fox"]}  # contradicted; dog is a machine's, and no class
    assert "1 labels are verified both present and absent" in caplog.text


def test_voc_lists_by_any_name(tmp_path):
    save(tmp_path, "JPEGImages/my cat.png", "JPEGImages/b.png", "JPEGImages/my.png")
    for name, label in (("my cat", "cat"), ("b", "dog"), ("my", "fox")):
        write(tmp_path / f"Annotations/{name}.xml", f"<annotation><object><name>{label}</name></object></annotation>")
    write(tmp_path / "ImageSets/Main/train.txt", "my cat")
    write(tmp_path / "ImageSets/Main/valid.txt", "b.png")
    write(tmp_path / "ImageSets/Main/Test.txt", "my")
    expected = {"train": {"my cat.png": ["cat"]}, "validation": {"b.png": ["dog"]}, "test": {"my.png": ["fox"]}}
    assert shown(load_images(tmp_path)) == expected
    write(tmp_path / "ImageSets/Main/dev.txt", "b")
    with pytest.raises(DataError, match="valid.txt: there is a split 'validation' already"):
        load_images(tmp_path)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["16 0", "7 1 2 0"], [["0", "16"], ["0", "1", "2", "7"]]),
        (["3.0", "1.0"], [["3"], ["1"]]),
        (["nan", "cat"], [[], ["cat"]]),
        (["cat/dog", "cat", "dog"], [["cat", "dog"], ["cat"], ["dog"]]),
        (["cat & dog", "cat", "dog"], [["cat", "dog"], ["cat"], ["dog"]]),
        (['"cat\ndog"', "cow"], [["cat", "dog"], ["cow"]]),
        (["(a) or (b)", "[REDACTED]"], [["(a) or (b)"], ["[REDACTED]"]]),
    ],
)
def test_labels_as_text(cells, expected, tmp_path):
    names = [f"{number}.png" for number in range(len(cells))]
    save(tmp_path, *names)
    write(
        tmp_path / "metadata.csv", "file_name,labels", *(f"{n},{cell}" for n, cell in zip(names, cells, strict=True))
    )
    if any(label.isdigit() for labels in expected for label in labels):
        with pytest.raises(DataError, match="is an index, which needs class names"):
            load_images(tmp_path)
        write(tmp_path / "classes.txt", *map(str, range(17)))
    found = list(shown(load_images(tmp_path))["train"].values())
    assert [set(labels) for labels in found] == [set(labels) for labels in expected]


def test_classes_that_are_called_by_numbers(tmp_path):
    save(tmp_path, "a.png")
    write(tmp_path / "classes.txt", "5", "10", "20")
    for label, found in (([10], ["10"]), (["5", 20], ["5", "20"])):
        write(tmp_path / "metadata.jsonl", json.dumps({"file_name": "a.png", "labels": label}))
        assert shown(load_images(tmp_path)) == {"train": {"a.png": found}}
    for label in ("1", "²", "-1"):
        write(tmp_path / "metadata.jsonl", json.dumps({"file_name": "a.png", "labels": [label]}))
        with pytest.raises(DataError, match=f"metadata.jsonl:1: label '{label}' is not among the classes 5, 10"):
            load_images(tmp_path)


@pytest.mark.parametrize("kind", ["voc", "labelme", "label_studio"])
def test_objects_that_are_called_by_numbers(kind, tmp_path):
    save(tmp_path, "a.png")
    if kind == "voc":
        write(tmp_path / "a.xml", "<annotation><object><name>7</name></object></annotation>")
    elif kind == "labelme":
        write(tmp_path / "a.json", json.dumps({"flags": {"7": True}, "shapes": [], "imagePath": "a.png"}))
    else:
        result = [{"type": "choices", "from_name": "kind", "value": {"choices": ["7"]}}]
        write(tmp_path / "e.json", json.dumps([{"data": {"image": "a.png"}, "annotations": [{"result": result}]}]))
    assert recognise(tmp_path) == kind and shown(load_images(tmp_path)) == {"train": {"a.png": ["7"]}}


def test_what_is_known_is_never_dropped(tmp_path):
    save(tmp_path, "a.png", "b.png")
    write(tmp_path / "classes.txt", "cat", "dog", "cow")
    rows = ({"file_name": "a.png", "labels": ["cat"], "Annotated": ["cat", "dog"], "Ignored": ["dog"]},
            {"file_name": "b.png", "labels": None})  # fmt: skip
    write(tmp_path / "metadata.jsonl", *map(json.dumps, rows))
    data = load_images(tmp_path)
    assert shown(data, "ignored") == {"train": {"a.png": ["dog", "cow"], "b.png": ["cat", "dog", "cow"]}}
    (tmp_path / "metadata.jsonl").unlink()
    write(tmp_path / "metadata.csv", "file_name,labels,Ignored", "a.png,cat,dog", "b.png,cow,", "b.png,cat,dog")
    data = load_images(tmp_path)
    assert shown(data) == {"train": {"a.png": ["cat"], "b.png": ["cat", "cow"]}}
    assert shown(data, "ignored") == {"train": {"a.png": ["dog"], "b.png": ["dog"]}}


def test_json_lines_with_different_keys(tmp_path):
    save(tmp_path, "a.png", "b.png")
    write(
        tmp_path / "metadata.jsonl", '{"file_name": "a.png", "cat": 1}', '{"file_name": "b.png", "dog": 1, "cat": 0}'
    )
    data = load_images(tmp_path)
    assert shown(data) == {"train": {"a.png": ["cat"], "b.png": ["dog"]}}
    assert shown(data, "ignored") == {"train": {"a.png": ["dog"], "b.png": []}}


def test_boxes_as_data_sets_of_the_hub_write_them(tmp_path):
    save(tmp_path, "a.png", "b.png")
    write(tmp_path / "classes.txt", "cat", "dog")
    rows = ({"file_name": "a.png", "objects": {"bbox": [[1, 2, 3, 4]], "categories": [1]}},
            {"file_name": "b.png", "objects": {"bbox": [], "categories": []}})  # fmt: skip
    write(tmp_path / "metadata.jsonl", *map(json.dumps, rows))
    data = load_images(tmp_path)
    assert shown(data) == {"train": {"a.png": ["dog"], "b.png": []}}
    assert data["train"][0]["objects"]["bbox"] == [[1, 2, 3, 4]]
    assert shown(load_images(tmp_path, label_column="objects.categories")) == shown(data)


def test_answers_that_several_questions_share_are_no_classes(tmp_path, caplog):
    save(tmp_path, "a.png")

    def export(**answers):
        results = [{"type": "choices", "from_name": n, "value": {"choices": [v]}} for n, v in answers.items()]
        write(tmp_path / "e.json", json.dumps([{"data": {"image": "a.png"}, "annotations": [{"result": results}]}]))

    export(cat="yes", dog="yes")
    with pytest.raises(DataError, match="'yes' answers both 'cat' and 'dog': the answer is no class"):
        load_images(tmp_path)
    export(kind="cat", colour="black")
    assert shown(load_images(tmp_path)) == {"train": {"a.png": ["black", "cat"]}}
    assert "the answers to colour, kind are all taken for labels" in caplog.text


@pytest.mark.parametrize("spelling", ["bom", "upper", "large"])
def test_files_of_labelme_and_label_studio_as_they_come(spelling, tmp_path):
    content = {"imagePath": "a.png", "imageData": None, "flags": {"cat": True}, "shapes": []}
    task = {"data": {"image": "b.png"}, "annotations": [
        {"result": [{"type": "choices", "from_name": "kind", "value": {"choices": ["dog"]}}]}]}  # fmt: skip
    if spelling == "large":
        content, task = {"a": "x" * 100_000, **content}, {"a": "x" * 100_000, **task}
    ending = ".JSON" if spelling == "upper" else ".json"
    for name, value in (("labelme", content), ("studio", [task])):
        save(tmp_path / name, "a.png", "b.png")
        text = ("\ufeff" if spelling == "bom" else "") + json.dumps(value)
        write((tmp_path / name / "a").with_suffix(ending), text)
    assert shown(load_images(tmp_path / "labelme")) == {"train": {"a.png": ["cat"]}}
    assert shown(load_images(tmp_path / "studio")) == {"train": {"b.png": ["dog"]}}


def test_xml_and_json_in_deep_folders(tmp_path):
    save(tmp_path / "voc", "JPEGImages/s1/a.png", "JPEGImages/s2/b.png")
    for name, label in (("s1/a.XML", "cat"), ("s2/b.xml", "dog")):
        write(tmp_path / "voc/Annotations" / name, f"<annotation><object><name>{label}</name></object></annotation>")
    write(tmp_path / "voc/0info.xml", "<annotations><meta/></annotations>")  # CVAT's own format is none of VOC
    assert shown(load_images(tmp_path / "voc")) == {"train": {"a.png": ["cat"], "b.png": ["dog"]}}
    save(tmp_path / "both", "a.png", "train/b.png")
    for name in ("a", "train/b"):
        write(tmp_path / f"both/{name}.xml", "<annotation><object><name>cat</name></object></annotation>")
    with pytest.raises(DataError, match="a.xml lies in no folder of a split, but others do"):
        load_images(tmp_path / "both")


def test_celeba_as_it_is_published(tmp_path, caplog):
    save(tmp_path, "Img/img_align_celeba/000001.jpg", "Img/img_align_celeba/000002.jpg", "Img/img_align_celeba/3.jpg")
    write(tmp_path / "Anno/list_attr_celeba.txt", "3", "Bald Male", "000001.jpg -1 1", "000002.jpg 1 -1", "3.jpg 1 1")
    write(tmp_path / "Eval/list_eval_partition.txt", "000001.jpg 0", "000002.jpg 2")
    expected = {"train": {"000001.jpg": ["Male"], "3.jpg": ["Bald", "Male"]}, "test": {"000002.jpg": ["Bald"]}}
    assert shown(load_images(tmp_path)) == expected
    assert "1 images of list_attr_celeba.txt are not in it" in caplog.text


@pytest.mark.parametrize("kind", ["cvat", "labelimg", "label studio", "words"])
def test_yolo_without_a_yaml_and_with_odd_names(kind, tmp_path):
    box, names = "1 0.5 0.5 0.2 0.4", ["no", "010"]
    if kind == "cvat":
        save(tmp_path, "obj_train_data/a.png")
        write(tmp_path / "obj.data", "classes = 2", "train = data/train.txt", "names = data/obj.names")
        write(tmp_path / "obj.names", *names)
        write(tmp_path / "train.txt", "data/obj_train_data/a.png")
        write(tmp_path / "obj_train_data/a.txt", box)
    elif kind == "labelimg":
        save(tmp_path, "a.png")
        write(tmp_path / "classes.txt", *names)
        write(tmp_path / "a.txt", box)
    elif kind == "label studio":
        save(tmp_path, "images/a.png")
        write(tmp_path / "classes.txt", *names)
        write(tmp_path / "labels/a.txt", box)
    else:
        save(tmp_path, "Images/train/a.png")
        write(tmp_path / "data.yaml", "names: [no, 010]", "train: Images/train", "test: ../test/images")
        write(tmp_path / "Labels/train/a.txt", box)
    assert recognise(tmp_path) == "yolo"
    data = load_images(tmp_path)
    assert shown(data) == {"train": {"a.png": ["010"]}} and class_names_of(data["train"]) == names
    assert data["train"][0]["objects"]["bbox"][0] == pytest.approx([4, 3, 2, 4])


def test_images_that_are_called_by_other_columns(tmp_path):
    save(tmp_path, "images/a.png", "images/b.png")
    write(tmp_path / "Data_Entry.csv", "sep=,", "Image Index,Finding Labels,Age", "a.png,Mass|Edema,5", "b.png,Mass,6")
    data = load_images(tmp_path, label_column="Finding Labels")
    assert shown(data) == {"train": {"a.png": ["Edema", "Mass"], "b.png": ["Mass"]}}
    with pytest.raises(DataError, match="holds no labels in a known way") as error:
        load_images(tmp_path)
    assert "a folder for each class" not in str(error.value)


def test_flags_that_mean_nothing_to_a_format_are_refused(tmp_path):
    save(tmp_path, "a.png")
    write(tmp_path / "a.xml", "<annotation><object><name>cat</name></object></annotation>")
    for flag, value in (("label_column", "x"), ("label_separator", ";"), ("image_dir", "x")):
        with pytest.raises(DataError, match=f"--{flag} means nothing to the format voc; leave it out"):
            load_images(tmp_path, "voc", **{flag: value})


@pytest.mark.parametrize("text", ["", "file_name,labels\n"])
def test_empty_tables(text, tmp_path):
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(DataError, match="its table lists no images"):
        load_images(tmp_path)


def test_absolute_names_of_several_folders_are_converted_at_once(tmp_path):
    save(tmp_path, "train/a.png", "test/b.png")
    write(
        tmp_path / "metadata.csv",
        "file_name,labels",
        "/home/joe/data/train/a.png,cat",
        "/home/joe/data/test/b.png,dog",
    )
    with pytest.raises(DataError, match="two lines of Python") as error:
        load_images(tmp_path)
    exec("\n".join(line.strip() for line in str(error.value).splitlines()[1:]), {})
    assert shown(load_images(tmp_path)) == {"train": {"a.png": ["cat"]}, "test": {"b.png": ["dog"]}}


def parquet(folder, labels, feature, **more):
    image = folder / "a.png"
    save(folder, "a.png")
    features = Features({"image": ImageFeature(), "labels": feature, **{name: f for name, (_, f) in more.items()}})
    values = {name: v for name, (v, _) in more.items()}
    dataset = Dataset.from_dict({"image": [str(image)] * len(labels), "labels": labels, **values}, features=features)
    (folder / "set").mkdir(exist_ok=True)
    dataset.to_parquet(folder / "set" / "train.parquet")
    return folder / "set"


@pytest.mark.parametrize(
    ("labels", "feature", "expected", "unknown"),
    [
        (["cat", None], Value("string"), [[0], []], [[], [0]]),
        ([0, -1], ClassLabel(names=["cat"]), [[0], []], [[], [0]]),
        ([[1, 0, 0], [0, 0, 1]], List(Value("int64")), [[0], [2]], None),
        ([[1, -1, 0], [0, 0, 1]], List(Value("int64")), [[0], [2]], [[1], []]),
    ],
)
def test_unknown_labels_in_parquet_files(labels, feature, expected, unknown, tmp_path):
    data = load_images(parquet(tmp_path, labels, feature))["train"]
    assert data[:]["labels"] == expected
    assert data[:]["ignored"] == unknown if unknown else "ignored" not in data.features


def test_annotated_classes_in_parquet_files(tmp_path):
    folder = parquet(tmp_path, [["cat"], ["dog"]], List(Value("string")),
                     annotated=([["cat"], ["cat", "dog", "cat"]], List(Value("string"))))  # fmt: skip
    data = load_images(folder)["train"]
    assert data[:]["labels"] == [[0], [1]] and data[:]["ignored"] == [[1], []]
    with pytest.raises(DataError, match="row 0: labels are numbers such as 0.5"):
        load_images(parquet(tmp_path, [[0.5], [1.0]], List(Value("float32"))))


def test_lvis_says_which_classes_were_looked_for(tmp_path):
    save(tmp_path, "1.png", "2.png")
    content = {"images": [{"id": 1, "file_name": "1.png", "neg_category_ids": [2]},
                          {"id": 2, "file_name": "2.png", "neg_category_ids": []}],
               "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}],
               "categories": [{"id": n, "name": name} for n, name in enumerate(("cat", "dog", "cow"), 1)]}  # fmt: skip
    write(tmp_path / "lvis.json", json.dumps(content))
    assert shown(load_images(tmp_path), "ignored") == {"train": {"1.png": ["cow"], "2.png": ["cat", "dog", "cow"]}}


def test_unknown_labels_beside_a_column_for_each_class(tmp_path):
    save(tmp_path, "a.png", "b.png")
    write(tmp_path / "metadata.csv", "file_name,cat,dog,ignored", "a.png,1,0,dog", "b.png,1,1,")
    data = load_images(tmp_path)
    assert shown(data) == {"train": {"a.png": ["cat"], "b.png": ["cat", "dog"]}}
    assert shown(data, "ignored") == {"train": {"a.png": ["dog"], "b.png": []}}


def test_unknown_labels_of_a_stream_are_never_taken_for_absent(tmp_path, monkeypatch):
    folder = parquet(tmp_path, [["cat"], None], List(Value("string")))
    rows = list(load_images(folder, class_names=["cat", "dog"], streaming=True)["train"])
    assert [row["ignored"] for row in rows] == [[], [0, 1]]
    monkeypatch.setattr("msl_hf.data.readers.hub_labels.PEEK", 1)
    with pytest.raises(DataError, match="row 1: has unknown labels, and none of the first 1 rows"):
        list(load_images(folder, class_names=["cat", "dog"], streaming=True)["train"])


@pytest.mark.parametrize("name", ["voc", "yolo", "labelme"])
def test_a_file_name_that_is_not_utf8_is_named(name, tmp_path):
    EXPORTS[name](tmp_path)
    for root, _, files in os.walk(os.fsencode(tmp_path)):
        for file in files:
            if file.startswith(b"a."):
                os.rename(root + b"/" + file, root + b"/\xff" + file[1:])
    with pytest.raises(DataError, match=r"\\xff.png: its name is not UTF-8"):
        load_images(tmp_path)
