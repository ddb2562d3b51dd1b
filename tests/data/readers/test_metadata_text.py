"""Tables with a column of labels, written as text in all the ways that people write it."""

import csv
import hashlib
import json
import re

import pytest
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from msl_hf.data import check_images, load_images
from msl_hf.data.schema import DataError, undecoded


def save(*paths, size=(8, 8)):
    """Images, each of a colour that belongs to its name."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, tuple(hashlib.sha1(path.name.encode()).digest()[:3])).save(path)


def write(path, *lines, end="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode())


def make(root, cells, header="file_name,labels", quote=True):
    """A `metadata.csv` with an image for each cell, the first of them a.jpg."""
    names = [f"{chr(97 + number)}.jpg" for number in range(len(cells))]
    save(*(root / name for name in names))
    quoted = ['"' + cell.replace('"', '""') + '"' if quote else cell for cell in cells]
    write(root / "metadata.csv", header, *(f"{name},{cell}" for name, cell in zip(names, quoted, strict=True)))
    return root


def found(dataset):
    """Names of the labels of each image."""
    names = dataset.features["labels"].feature.names
    return [[names[index] for index in row] for row in undecoded(dataset)[:]["labels"]]


LISTS = {
    "blank": "a b", "bar": "a|b", "bar and blanks": " a | b ", "comma": "a,b", "comma and blank": "a, b",
    "semicolon": "a;b", "semicolon and blank": "a; b;", "Python": "['a', 'b']", "JSON": '["a", "b"]',
    "tuple": "('a', 'b')", "bare": "[a, b]", "repeated": "a;b;a",
}  # fmt: skip


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("format", ["auto", "metadata"])
def test_lists_in_a_cell(format, kind, tmp_path):
    one = "['a']" if kind == "Python" else '["a"]' if kind == "JSON" else "a"
    none = "[]" if kind in ("Python", "JSON") else ""
    data = load_images(make(tmp_path, [LISTS[kind], one, "b" if one == "a" else "['b']", none]), format)
    assert list(data) == ["train"] and data["train"].features["labels"].feature.names == ["a", "b"]
    assert found(data["train"]) == [["a", "b"], ["a"], ["b"], []]
    assert set(data["train"].features) == {"image", "labels", "image_id"}


@pytest.mark.parametrize("kind", LISTS)
def test_lists_in_a_text_of_jsonl(kind, tmp_path):
    save(*(tmp_path / f"{name}.jpg" for name in "abc"))
    write(tmp_path / "metadata.jsonl", *(json.dumps({"file_name": f"{name}.jpg", "labels": text}) for name, text in
                                         zip("abc", (LISTS[kind], "a", "b"), strict=True)))  # fmt: skip
    assert found(load_images(tmp_path)["train"]) == [["a", "b"], ["a"], ["b"]]


@pytest.mark.parametrize("kind", ["blank", "bar", "comma", "semicolon", "Python", "JSON"])
def test_lists_in_a_column_of_parquet(kind, tmp_path):
    save(tmp_path / "a.png")
    table = {"image": [str(tmp_path / "a.png")] * 4, "labels": [LISTS[kind], "a", " b", ""]}
    (tmp_path / "set").mkdir()
    Dataset.from_dict(table).cast_column("image", ImageFeature()).to_parquet(tmp_path / "set/train.parquet")
    train = load_images(tmp_path / "set")["train"]
    assert train.features["labels"].feature.names == ["a", "b"] and train[:]["labels"] == [[0, 1], [0], [1], []]


def test_blanks_separate_only_labels_of_other_rows(tmp_path, caplog):
    train = load_images(make(tmp_path, ["hot dog", "cat dog", "dog", "cat", "dog cat hot dog", "New York"]))["train"]
    assert train.features["labels"].feature.names == ["New York", "cat", "dog", "dog cat hot dog", "hot dog"]
    assert found(train) == [["hot dog"], ["cat", "dog"], ["dog"], ["cat"], ["dog cat hot dog"], ["New York"]]
    assert "'cat dog' are taken for several labels" in caplog.text


@pytest.mark.parametrize("cells", [["hot dog", "dog", "cat"], ["hot dog;cat", "dog", "cat"], ["hot dog", "hot dog"]])
def test_hot_dog_stays_one_class(cells, tmp_path):
    train = load_images(make(tmp_path, cells))["train"]
    assert "hot dog" in train.features["labels"].feature.names and "hot" not in train.features["labels"].feature.names
    assert "hot dog" in found(train)[0]


def test_separator_that_is_given(tmp_path):
    root = make(tmp_path, ["a b|c", "b", "c, d"])
    assert found(load_images(root, label_separator="|")["train"]) == [["a b", "c"], ["b"], ["c, d"]]
    assert found(load_images(root, label_separator="none")["train"]) == [["a b|c"], ["b"], ["c, d"]]
    assert found(load_images(root, label_separator=",")["train"]) == [["a b|c"], ["b"], ["c", "d"]]
    root = make(tmp_path / "two", ["a b", "a", "b", "a/b"])
    assert found(load_images(root, label_separator=" ")["train"]) == [["a", "b"], ["a"], ["b"], ["a/b"]]
    assert found(load_images(root, label_separator="/")["train"]) == [["a b"], ["a"], ["b"], ["a", "b"]]
    assert found(load_images(root, label_separator="none")["train"]) == [["a b"], ["a"], ["b"], ["a/b"]]


def test_a_given_blank_does_not_mind_several_blanks(tmp_path):
    assert found(load_images(make(tmp_path, ["a  b", " c "]), label_separator=" ")["train"]) == [["a", "b"], ["c"]]


def test_two_separators_in_one_column(tmp_path):
    with pytest.raises(DataError, match=r"metadata.csv, column 'labels': ';' separates labels, but in 'b\|a' '\|'"):
        load_images(make(tmp_path, ["a;b", "b|a"]))
    assert found(load_images(make(tmp_path / "two", ["a;b", "Salt, pepper"]))["train"]) == [
        ["a", "b"],
        ["Salt, pepper"],
    ]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "jsonl lists"])
def test_blanks_around_names_and_empty_names(kind, tmp_path):
    cells = [" cat", "cat", "cat ", "", "cat;;dog; "]
    if kind == "csv":
        make(tmp_path, cells)
    else:
        save(*(tmp_path / f"{name}.jpg" for name in "abcde"))
        lists = [cell if kind == "jsonl" else cell.split(";") for cell in cells]
        write(tmp_path / "metadata.jsonl", *(json.dumps({"file_name": f"{name}.jpg", "labels": labels})
                                             for name, labels in zip("abcde", lists, strict=True)))  # fmt: skip
    train = load_images(tmp_path)["train"]
    assert train.features["labels"].feature.names == ["cat", "dog"]
    assert train[:]["labels"] == [[0], [0], [0], [], [0, 1]]


@pytest.mark.parametrize("text", ['[""]', '["", "cat"]', "null"])
def test_nothing_in_lists(text, tmp_path):
    save(tmp_path / "a.jpg", tmp_path / "b.jpg")
    write(tmp_path / "metadata.jsonl", '{"file_name": "a.jpg", "labels": ' + text + "}",
          '{"file_name": "b.jpg", "labels": ["cat"]}')  # fmt: skip
    if text == "null":  # of the first image nothing is known
        train = load_images(tmp_path)["train"]
        assert train[:]["labels"] == [[], [0]] and train[:]["ignored"] == [[0], []]
    else:
        assert load_images(tmp_path)["train"][:]["labels"] == [[0] if "cat" in text else [], [0]]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("header", ["file_name, labels", " file_name ,labels ", "\ufefffile_name,labels",
                                    "File_Name,Labels", "filename,label", "image, tags", "path,classes"])  # fmt: skip
def test_headers(header, end, tmp_path):
    save(tmp_path / "a.jpg", tmp_path / "b.jpg")
    write(tmp_path / "metadata.csv", header, 'a.jpg, "cat,dog"', "b.jpg,dog", end=end)
    assert found(load_images(tmp_path)["train"]) == [["cat", "dog"], ["dog"]]


@pytest.mark.parametrize("mark", [";", "\t"])
def test_other_marks_between_columns(mark, tmp_path):
    save(tmp_path / "a.jpg", tmp_path / "b.jpg")
    write(tmp_path / "metadata.csv", f"file_name{mark}labels", f"a.jpg{mark}cat,dog", f"b.jpg{mark}dog")
    assert found(load_images(tmp_path)["train"]) == [["cat", "dog"], ["dog"]]


def test_semicolons_between_columns_and_between_quoted_labels(tmp_path):
    save(tmp_path / "a.jpg", tmp_path / "b.jpg")
    write(tmp_path / "metadata.csv", "file_name;labels;width", 'a.jpg;"cat;dog";8', "b.jpg;dog;8")
    assert found(load_images(tmp_path)["train"]) == [["cat", "dog"], ["dog"]]


def test_unquoted_commas(tmp_path):
    save(tmp_path / "a.jpg")
    write(tmp_path / "metadata.csv", "file_name,labels", "a.jpg,cat,dog")
    with pytest.raises(
        DataError, match=r"metadata.csv:2: has 3 cells for 2 columns; labels that hold ',' need quotes"
    ):
        load_images(tmp_path)


def test_one_table_in_the_root(tmp_path):
    save(tmp_path / "train/a.jpg", tmp_path / "Valid/a.jpg", tmp_path / "test/deep/a.jpg")
    save(tmp_path / "Valid/a.jpg", size=(9, 9))
    write(
        tmp_path / "metadata.csv", "file_name,labels", "train/a.jpg,cat", "Valid\\a.jpg,dog", "test/deep/a.jpg,cat;dog"
    )
    data = load_images(tmp_path)
    assert sorted(data) == ["test", "train", "validation"]
    assert found(data["train"]) == [["cat"]] and found(data["validation"]) == [["dog"]]
    assert found(data["test"]) == [["cat", "dog"]] and data["validation"][0]["image"].size == (9, 9)
    save(tmp_path / "b.jpg")
    with (tmp_path / "metadata.csv").open("a") as stream:
        stream.write("b.jpg,cat\n")
    with pytest.raises(DataError, match="metadata.csv: .*b.jpg lies in no folder of a split, but others do"):
        load_images(tmp_path)


def test_column_of_splits(tmp_path):
    save(*(tmp_path / f"photos/{name}.jpg" for name in "abc"))
    write(tmp_path / "metadata.csv", "file_name,split,labels", "photos/a.jpg,train,cat", "photos/b.jpg,val,dog",
          "photos/c.jpg,test,cat")  # fmt: skip
    data = load_images(tmp_path)
    assert {split: found(dataset) for split, dataset in data.items()} == {
        "train": [["cat"]], "validation": [["dog"]], "test": [["cat"]]}  # fmt: skip


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_ignored_and_annotated(kind, tmp_path):
    save(*(tmp_path / f"{name}.jpg" for name in "abcd"))
    rows = [(["cat"], ["dog"], None), (["cat", "emu"], [], None), ([], [], ["cat"]), (["dog"], [], ["cat", "dog"])]
    if kind == "jsonl":
        lines = [{"file_name": f"{name}.jpg", "labels": labels, **({"ignored": ignored} if ignored else {}),
                  **({"annotated": known} if known else {})}
                 for name, (labels, ignored, known) in zip("abcd", rows, strict=True)]  # fmt: skip
        write(tmp_path / "metadata.jsonl", *map(json.dumps, lines))
    else:
        rows = [row for row in rows if row[2] is None]
        write(
            tmp_path / "metadata.csv",
            "file_name,labels,ignored",
            *(f"{name}.jpg,{';'.join(row[0])},{';'.join(row[1])}" for name, row in zip("ab", rows, strict=True)),
        )
    train = load_images(tmp_path)["train"]
    assert train.features["labels"].feature.names == ["cat", "dog", "emu"]
    count = len(rows)
    assert train[:]["labels"] == [[0], [0, 2], [], [1]][:count]
    assert train[:]["ignored"] == [[1], [], [1, 2], [2]][:count]


def test_a_label_that_is_also_ignored(tmp_path):
    save(tmp_path / "a.jpg")
    write(tmp_path / "metadata.jsonl", '{"file_name": "a.jpg", "labels": ["cat"], "ignored": ["cat"]}')
    with pytest.raises(DataError, match="metadata.jsonl:1: 'cat' is listed among the labels and among the unknown"):
        load_images(tmp_path)


def test_a_row_for_each_label(tmp_path, caplog):
    save(tmp_path / "a.jpg", tmp_path / "b.jpg")
    write(tmp_path / "metadata.csv", "file_name,label", "a.jpg,cat", "b.jpg,dog", "a.jpg,dog", "a.jpg,cat")
    train = load_images(tmp_path)["train"]
    assert found(train) == [["cat", "dog"], ["dog"]] and "4 rows are 2 images" in caplog.text


def test_an_image_listed_twice(tmp_path):
    save(tmp_path / "a.jpg")
    for text in ("[]", '["cat"]'):
        write(tmp_path / "metadata.jsonl", f'{{"file_name": "a.jpg", "labels": {text}}}', '{"file_name": "./a.jpg", '
              '"labels": ["dog"]}')  # fmt: skip
        with pytest.raises(DataError, match=r"metadata.jsonl:2: .*a.jpg has been listed already, at .*jsonl:1"):
            load_images(tmp_path)


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085", "\x0c", "\x0b", "\x1c"])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "classes"])
def test_characters_that_end_lines_elsewhere(kind, mark, tmp_path):
    name = f"hot{mark}dog"
    save(tmp_path / "a.jpg", tmp_path / "b.jpg")
    if kind == "csv":
        write(tmp_path / "metadata.csv", "file_name,labels", f"a.jpg,{name}", "b.jpg,cat")
    elif mark > "\x1f":
        write(tmp_path / "metadata.jsonl", json.dumps({"file_name": "a.jpg", "labels": [name]}, ensure_ascii=False),
              '{"file_name": "b.jpg", "labels": ["cat"]}')  # fmt: skip
    else:  # JSON escapes control characters
        write(tmp_path / "metadata.jsonl", json.dumps({"file_name": "a.jpg", "labels": [name]}),
              '{"file_name": "b.jpg", "labels": ["cat"]}')  # fmt: skip
    if kind == "classes":
        write(tmp_path / "classes.txt", "cat", name, end="\r\n")
    train = load_images(tmp_path)["train"]
    assert train.features["labels"].feature.names == ["cat", name] and train[:]["labels"] == [[1], [0]]


@pytest.mark.parametrize("between", ["\n", "\r\n"])
def test_quoted_line_feed_in_csv(between, tmp_path):
    save(tmp_path / "a.jpg", tmp_path / "b.jpg")
    write(tmp_path / "metadata.csv", "file_name,labels,note", f'a.jpg,cat,"one{between}two"',
          f'b.jpg,"cat;{between}dog","x"', end=between)  # fmt: skip
    assert found(load_images(tmp_path)["train"]) == [["cat"], ["cat", "dog"]]


def test_links_that_lead_out_of_the_folder(tmp_path):
    save(tmp_path / "store/1.jpg", tmp_path / "more/c.jpg", size=(11, 7))
    root = tmp_path / "set/train"
    root.mkdir(parents=True)
    (root / "a.jpg").symlink_to(tmp_path / "store/1.jpg")
    (root / "linked").symlink_to(tmp_path / "more")
    write(root / "metadata.csv", "file_name,labels", "a.jpg,cat", "linked/c.jpg,dog")
    train = load_images(tmp_path / "set")["train"]
    assert [row["image"].size for row in train] == [(11, 7), (11, 7)] and train[:]["labels"] == [[0], [1]]
    write(root / "metadata.csv", "file_name,labels", "a.jpg,cat", "c.jpg,dog")  # found by its name
    assert [row["image"].size for row in load_images(tmp_path / "set")["train"]] == [(11, 7), (11, 7)]


def lines_of_python(message):
    """The indented lines of a message."""
    return "\n".join(line[2:] for line in message.splitlines() if re.match(r"  \S", line))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "jsonl of pandas"])
@pytest.mark.parametrize("root", ["set", "it's mine", "Fotos für mich"])
def test_absolute_paths_are_refused_with_lines_that_convert_them(root, kind, tmp_path):
    root = tmp_path / root
    save(root / "a.jpg", root / "b.jpg")
    file = root / f"metadata.{kind.split()[0]}"
    if kind == "csv":
        with file.open("w", newline="") as stream:
            csv.writer(stream).writerows([("file_name", "labels"), (root / "a.jpg", "cat"), (root / "b.jpg", "dog")])
    else:  # both escape what is not ASCII, pandas slashes, too
        rows = (
            {"file_name": str(root / f"{name}.jpg"), "labels": [label]} for name, label in (("a", "cat"), ("b", "dog"))
        )
        write(file, *(json.dumps(row).replace("/", "\\/" if kind.endswith("pandas") else "/") for row in rows))
    with pytest.raises(DataError, match="is absolute.*with two lines of Python") as error:
        load_images(root)
    exec(lines_of_python(str(error.value)), {})
    assert found(load_images(root)["train"]) == [["cat"], ["dog"]]


def test_absolute_paths_of_folders_in_folders(tmp_path):
    save(tmp_path / "cats/a.jpg", tmp_path / "dogs/a.jpg")
    write(tmp_path / "metadata.csv", "file_name,labels", f"{tmp_path}/cats/a.jpg,cat", f"{tmp_path}/dogs/a.jpg,dog")
    with pytest.raises(DataError, match="is absolute") as error:
        load_images(tmp_path)
    exec(lines_of_python(str(error.value)), {})
    assert found(load_images(tmp_path)["train"]) == [["cat"], ["dog"]]


@pytest.mark.parametrize("format", ["auto", "metadata", "hub"])
def test_a_folder_for_each_class_is_refused_with_lines_that_convert_it(format, tmp_path):
    root = tmp_path / "it's mine"
    save(root / "cat/a.jpg", root / "dog/b.jpg", root / "cat/both, of them.jpg", root / "dog/both, of them.jpg")
    save(root / "dog/a.jpg", size=(30, 20))  # another image of that name
    (root / "dog/a.jpg").write_bytes((root / "dog/a.jpg").read_bytes() + b"\0" * 100)
    with pytest.raises(DataError, match="holds a folder for each class") as error:
        load_images(root, format)
    lines = lines_of_python(str(error.value))
    assert len(lines.splitlines()) == 2
    exec(lines, {})
    train = load_images(root, "auto")["train"]
    names = ["/".join(row["image"]["path"].split("/")[-2:]) for row in undecoded(train)]
    assert dict(zip(names, found(train), strict=True)) == {
        "cat/a.jpg": ["cat"], "cat/both, of them.jpg": ["cat", "dog"], "dog/a.jpg": ["dog"], "dog/b.jpg": ["dog"],
    }  # fmt: skip


def test_a_folder_for_each_class_in_each_split(tmp_path):
    save(
        tmp_path / "train/cat/a.jpg",
        tmp_path / "train/dog/a.jpg",
        tmp_path / "val/cat/c.jpg",
        tmp_path / "val/dog/d.jpg",
    )
    with pytest.raises(DataError, match="(?s)train holds a folder for each class.*The same for val") as error:
        load_images(tmp_path)
    lines = lines_of_python(str(error.value))
    exec(lines, {})
    exec(lines.replace(str(tmp_path / "train"), str(tmp_path / "val")), {})
    data = load_images(tmp_path)
    assert found(data["train"]) == [["cat", "dog"]] and found(data["validation"]) == [["cat"], ["dog"]]


@pytest.mark.parametrize("names", [["dog", "hot", "hot dog"], ["hats", "shoes, boots"], ["a|b", "c"], ["a;b", "c"]])
def test_the_lines_keep_the_names_of_folders_whole(names, tmp_path):
    save(*(tmp_path / name / f"{number}.jpg" for number, name in enumerate(names)))
    with pytest.raises(DataError, match="holds a folder for each class") as error:
        load_images(tmp_path)
    exec(lines_of_python(str(error.value)), {})
    train = load_images(tmp_path)["train"]
    assert sorted(train.features["labels"].feature.names) == sorted(names)
    assert [len(labels) for labels in train[:]["labels"]] == [1] * len(names)


@pytest.mark.parametrize("folder", ["", "train"])
def test_both_kinds_of_metadata_in_one_folder(folder, tmp_path):
    save(tmp_path / folder / "a.jpg")
    write(tmp_path / folder / "metadata.csv", "file_name,labels", "a.jpg,cat")
    write(tmp_path / folder / "metadata.jsonl", '{"file_name": "a.jpg", "labels": ["cat"]}')
    with pytest.raises(DataError, match="metadata.csv and metadata.jsonl both list images"):
        load_images(tmp_path)


@pytest.mark.parametrize(("folder", "split"), [("valid", "validation"), ("dev", "validation"), ("Valid", "validation"),
                                               ("val", "validation"), ("eval", "validation"), ("Train", "train"),
                                               ("TEST", "test")])  # fmt: skip
def test_names_of_splits(folder, split, tmp_path):
    make(tmp_path / folder, ["cat", "dog"])
    data = load_images(tmp_path)
    assert list(data) == [split] and found(data[split]) == [["cat"], ["dog"]]


def test_two_folders_of_one_split(tmp_path):
    make(tmp_path / "val", ["cat"])
    make(tmp_path / "valid", ["cat"])
    with pytest.raises(DataError, match="there is a split 'validation' already"):
        load_images(tmp_path)


def test_class_names_and_label_column_that_are_given(tmp_path):
    save(tmp_path / "a.jpg", tmp_path / "b.jpg")
    write(tmp_path / "metadata.csv", "file_name,labels,kinds", "a.jpg,x,cat;dog", "b.jpg,y,1")
    train = load_images(tmp_path, label_column="kinds", class_names=["dog", "cat", "emu"])["train"]
    assert train.features["labels"].feature.names == ["dog", "cat", "emu"] and train[:]["labels"] == [[0, 1], [1]]


def test_plant_pathology_of_kaggle(tmp_path):
    save(*(tmp_path / f"train_images/{name}.jpg" for name in ("800113bb", "8002cb32", "80070f7f", "80077517")))
    save(tmp_path / "test_images/85f8cb61.jpg")
    write(tmp_path / "train.csv", "image,labels", "800113bb.jpg,healthy", "8002cb32.jpg,scab complex",
          "80070f7f.jpg,scab", "80077517.jpg,complex")  # fmt: skip
    write(tmp_path / "sample_submission.csv", "image,labels", "85f8cb61.jpg,healthy")
    data = load_images(tmp_path)
    assert list(data) == ["train"] and data["train"].features["labels"].feature.names == ["complex", "healthy", "scab"]
    assert data["train"][:]["labels"] == [[1], [0, 2], [2], [0]]


def test_a_missing_image_is_not_taken_from_another_split(tmp_path):
    save(tmp_path / "train/b.jpg", tmp_path / "test/a.jpg")
    write(tmp_path / "train/metadata.csv", "file_name,labels", "a.jpg,cat", "b.jpg,dog")
    write(tmp_path / "test/metadata.csv", "file_name,labels", "a.jpg,dog")
    data = load_images(tmp_path)
    with pytest.raises(DataError, match=r"(?s)1 of 2 images cannot be used.*train/a\.jpg: no such image file"):
        check_images(data["train"], progress=False)
