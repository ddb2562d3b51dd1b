"""Tables with a column for each class, as Roboflow, Kaggle, CheXpert and CelebA publish them."""

import math
from pathlib import Path

import pytest
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from msl_hf.data import check_images, load_images
from msl_hf.data.schema import DataError, undecoded


def save(path, width=8, height=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path)


def write(path, *lines, end="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode())


def named(dataset, column="labels"):
    """The names that each image has in a column of class indices; every image is decoded."""
    names = dataset.features["labels"].feature.names
    assert all(min(row["image"].size) > 1 for row in dataset)
    return {
        Path(row["image"]["path"]).name: [names[index] for index in row[column] or []] for row in undecoded(dataset)
    }


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("format", ["auto", "columns"])
def test_roboflow(format, end, tmp_path):
    save(tmp_path / "train/a_jpg.rf.0a1b.jpg", 9, 8)
    save(tmp_path / "train/b_jpg.rf.2c3d.jpg")
    save(tmp_path / "valid/c_jpg.rf.4e5f.jpg")
    write(tmp_path / "train/_classes.csv", "filename, Cat, Dog", "a_jpg.rf.0a1b.jpg, 1, 1", "b_jpg.rf.2c3d.jpg, 0, 0",
          end=end)  # fmt: skip
    write(tmp_path / "valid/_classes.csv", "filename, Cat, Dog", "c_jpg.rf.4e5f.jpg, 0, 1", end=end)
    write(tmp_path / "README.roboflow.txt", "pets - v1")
    write(tmp_path / "README.dataset.txt", "# pets > v1")
    data = load_images(tmp_path, format)
    assert sorted(data) == ["train", "validation"]
    assert data["train"].features["labels"].feature.names == ["Cat", "Dog"]
    assert set(data["train"].features) == {"image", "labels", "image_id"}
    assert named(data["train"]) == {"a_jpg.rf.0a1b.jpg": ["Cat", "Dog"], "b_jpg.rf.2c3d.jpg": []}
    assert named(data["validation"]) == {"c_jpg.rf.4e5f.jpg": ["Dog"]}
    assert data["train"][0]["image"].size == (9, 8)


def test_roboflow_class_called_label(tmp_path):
    save(tmp_path / "train/a.jpg")
    save(tmp_path / "train/b.jpg")
    write(tmp_path / "train/_classes.csv", "filename, Label, Tags", "a.jpg, 1, 0", "b.jpg, 0, 1")
    data = load_images(tmp_path)
    assert named(data["train"]) == {"a.jpg": ["Label"], "b.jpg": ["Tags"]}


@pytest.mark.parametrize("submission", ["0.25,0.25", "0,1"])
@pytest.mark.parametrize("format", ["auto", "columns"])
def test_kaggle(format, submission, tmp_path):
    for name in ("Train_0", "Train_1", "Train_2", "Test_0"):
        save(tmp_path / f"images/{name}.jpg")
    write(tmp_path / "train.csv", "image_id,healthy,rust", "Train_0,0,1", "Train_1,1,0", "Train_2,0,0")
    write(tmp_path / "test.csv", "image_id", "Test_0")
    write(tmp_path / "sample_submission.csv", "image_id,healthy,rust", f"Test_0,{submission}")
    data = load_images(tmp_path, format)
    assert list(data) == ["train"]
    assert data["train"].features["labels"].feature.names == ["healthy", "rust"]
    assert named(data["train"]) == {"Train_0.jpg": ["rust"], "Train_1.jpg": ["healthy"], "Train_2.jpg": []}


CHEXPERT = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Cardiomegaly,Edema,Pleural Effusion"
CHEXPERT_NAMES = ["No Finding", "Cardiomegaly", "Edema", "Pleural Effusion"]


def make_chexpert(root):
    """Every patient has a `view1_frontal.jpg`: the folders of a path have to count."""
    train = "CheXpert-v1.0-small/train"
    write(root / "train.csv", CHEXPERT,
          f"{train}/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,0.0,,-1.0",
          f"{train}/patient00002/study2/view1_frontal.jpg,Male,87,Frontal,PA,,-1.0,1.0,1.0",
          f"{train}/patient00002/study2/view2_lateral.jpg,Unknown,0,Lateral,,,,0.0,")  # fmt: skip
    write(
        root / "valid.csv",
        CHEXPERT,
        "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg,Male,73,Frontal,AP,0.0,1.0,0.0,1.0",
    )
    for number, name in enumerate(
        (
            "train/patient00001/study1/view1_frontal",
            "train/patient00002/study2/view1_frontal",
            "train/patient00002/study2/view2_lateral",
            "valid/patient64541/study1/view1_frontal",
        )
    ):
        save(root / f"{name}.jpg", 10 + number, 8)
    return root


@pytest.mark.parametrize("folder", ["CheXpert-v1.0-small", "xrays"])
@pytest.mark.parametrize("format", ["auto", "columns"])
def test_chexpert(format, folder, tmp_path):
    data = load_images(make_chexpert(tmp_path / folder), format)
    assert sorted(data) == ["train", "validation"]
    train, valid = data["train"], data["validation"]
    assert train.features["labels"].feature.names == CHEXPERT_NAMES
    assert train.features == valid.features
    assert [row["image"].width for row in train] == [10, 11, 12]
    assert train[:]["labels"] == [[0], [2, 3], []]
    assert train[:]["ignored"] == [[2, 3], [0, 1], [0, 1, 3]]
    assert valid[0]["image"].width == 13 and valid[0]["labels"] == [1, 3] and valid[0]["ignored"] == []


def test_class_that_is_unknown_throughout_one_split(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / f"images/{name}.jpg")
    write(tmp_path / "train.csv", "image,cat,dog", "a.jpg,1,0")
    write(tmp_path / "valid.csv", "image,cat,dog", "b.jpg,1,")
    data = load_images(tmp_path)
    assert data["train"].features["labels"].feature.names == ["cat", "dog"]
    assert data["train"][:]["labels"] == [[0]] and data["train"][:]["ignored"] == [[]]
    assert data["validation"][:]["labels"] == [[0]] and data["validation"][:]["ignored"] == [[1]]


ATTRIBUTES = ["5_o_Clock_Shadow", "Arched_Eyebrows", "Male"]
CELEBA = {"000001.jpg": (-1, 1, -1), "000002.jpg": (-1, -1, -1), "000003.jpg": (1, -1, 1), "000004.jpg": (-1, 1, 1)}


def make_celeba(root, kind, folder="img_align_celeba"):
    for number, name in enumerate(CELEBA):
        save(root / folder / name, 10 + number, 8)
    if kind == "csv":
        write(root / "list_attr_celeba.csv", f"image_id,{','.join(ATTRIBUTES)}",
              *(f"{name},{','.join(map(str, states))}" for name, states in CELEBA.items()))  # fmt: skip
        write(root / "list_eval_partition.csv", "image_id,partition", "000001.jpg,0", "000002.jpg,0",
              "000003.jpg,1", "000004.jpg,2")  # fmt: skip
        write(root / "list_bbox_celeba.csv", "image_id,x_1,y_1,width,height",
              *(f"{name},95,71,226,313" for name in CELEBA))  # fmt: skip
        write(root / "list_landmarks_align_celeba.csv", "image_id,lefteye_x,lefteye_y,righteye_x,righteye_y",
              *(f"{name},69,109,106,113" for name in CELEBA))  # fmt: skip
    else:
        write(
            root / "list_attr_celeba.txt",
            "4",
            " ".join(ATTRIBUTES) + " ",
            *(f"{name} {' '.join(f'{state:2d}' for state in states)}" for name, states in CELEBA.items()),
        )
        write(root / "list_eval_partition.txt", "000001.jpg 0", "000002.jpg 0", "000003.jpg 1", "000004.jpg 2")
        write(root / "list_bbox_celeba.txt", "4", "image_id x_1 y_1 width height",
              *(f"{name}    95  71 226 313" for name in CELEBA))  # fmt: skip
        write(root / "list_landmarks_align_celeba.txt", "4", "lefteye_x lefteye_y righteye_x righteye_y",
              *(f"{name} 69  109  106  113" for name in CELEBA))  # fmt: skip
        write(root / "identity_CelebA.txt", *(f"{name} 2880" for name in CELEBA))
    return root


@pytest.mark.parametrize("folder", ["img_align_celeba", "img_align_celeba/img_align_celeba"])
@pytest.mark.parametrize("kind", ["csv", "txt"])
@pytest.mark.parametrize("format", ["auto", "columns"])
def test_celeba(format, kind, folder, tmp_path):
    data = load_images(make_celeba(tmp_path, kind, folder), format)
    assert sorted(data) == ["test", "train", "validation"]
    assert data["train"].features["labels"].feature.names == ATTRIBUTES
    assert named(data["train"]) == {"000001.jpg": ["Arched_Eyebrows"], "000002.jpg": []}
    assert named(data["validation"]) == {"000003.jpg": ["5_o_Clock_Shadow", "Male"]}
    assert named(data["test"]) == {"000004.jpg": ["Arched_Eyebrows", "Male"]}
    assert not any(any(row["ignored"]) for split in data.values() for row in split if "ignored" in row)


@pytest.mark.parametrize("kind", ["csv", "txt"])
def test_celeba_without_partition_and_by_the_file(kind, tmp_path):
    make_celeba(tmp_path, kind)
    (tmp_path / f"list_eval_partition.{kind}").unlink()
    for path in (tmp_path, tmp_path / f"list_attr_celeba.{kind}"):
        data = load_images(path)
        assert list(data) == ["train"] and data["train"][:]["labels"] == [[1], [], [0, 2], [1, 2]]


@pytest.mark.parametrize(
    ("yes", "no"), [("1", "0"), ("True", "False"), ("TRUE", "FALSE"), ("yes", "no"), ("1.0", "0.0")]
)
@pytest.mark.parametrize("format", ["auto", "columns"])
def test_wide_metadata(format, yes, no, tmp_path):
    for name in ("a", "b"):
        save(tmp_path / f"train/{name}.png")
    save(tmp_path / "test/c.png")
    write(tmp_path / "train/metadata.csv", "file_name,dog,cat", f"a.png,{yes},{no}", f"b.png,{no},{no}")
    write(tmp_path / "test/metadata.csv", "file_name,dog,cat", f"c.png,{yes},{yes}")
    data = load_images(tmp_path, format)
    assert sorted(data) == ["test", "train"]
    assert data["train"].features["labels"].feature.names == ["dog", "cat"]
    assert data["train"][:]["labels"] == [[0], []] and data["test"][:]["labels"] == [[0, 1]]


@pytest.mark.parametrize("blank", ["", "NaN", "-1", " "])
def test_wide_metadata_in_jsonl_and_csv_with_unknown_states(blank, tmp_path):
    for name in ("a", "b"):
        save(tmp_path / f"one/train/{name}.png")
        save(tmp_path / f"two/train/{name}.png")
    write(tmp_path / "one/train/metadata.csv", "file_name,dog,cat", f"a.png,1,{blank}", "b.png,0,1")
    write(tmp_path / "two/train/metadata.jsonl", '{"file_name": "a.png", "dog": 1, "cat": null}',
          '{"file_name": "b.png", "dog": false, "cat": true}')  # fmt: skip
    for root in (tmp_path / "one", tmp_path / "two"):
        train = load_images(root)["train"]
        assert train.features["labels"].feature.names == ["dog", "cat"]
        assert train[:]["labels"] == [[0], [1]] and train[:]["ignored"] == [[1], []]


@pytest.mark.parametrize("format", ["auto", "hub"])
def test_parquet(format, tmp_path):
    for name in ("a", "b", "c"):
        save(tmp_path / f"{name}.png")
    columns = {
        "image": [str(tmp_path / f"{name}.png") for name in ("a", "b", "c")],
        "cat": [1, 0, -1],
        "dog": [True, False, True],
        "fish": [math.nan, 1.0, 0.0],
        "source": ["web", "phone", "web"],
        "height": [8, 9, 8],
    }
    dataset = Dataset.from_dict(columns).cast_column("image", ImageFeature())
    (tmp_path / "set").mkdir()
    dataset.to_parquet(tmp_path / "set/train-00000-of-00001.parquet")
    dataset.select([1]).to_parquet(tmp_path / "set/validation-00000-of-00001.parquet")
    data = load_images(tmp_path / "set", format)
    assert sorted(data) == ["train", "validation"]
    assert data["train"].features["labels"].feature.names == ["cat", "dog", "fish"]
    assert data["train"][:]["labels"] == [[0, 1], [2], [1]]
    assert data["train"][:]["ignored"] == [[2], [], [0]]
    assert data["validation"][:]["labels"] == [[2]] and data["train"][0]["image"].size == (8, 8)
    chosen = load_images(tmp_path / "set", format, label_columns=["fish", "dog"])["train"]
    assert chosen.features["labels"].feature.names == ["fish", "dog"]
    assert chosen[:]["labels"] == [[1], [0], [1]] and chosen[:]["ignored"] == [[0], [], []]


def make_table(root):
    for name in ("a", "b"):
        save(root / f"images/{name}.jpg")
    write(root / "train.csv", ",image,flipped,cat,dog,quality", "0,a.jpg,1,0,1,3", "1,b.jpg,0,1,1,1")
    return root


@pytest.mark.parametrize("format", ["auto", "columns"])
def test_label_columns(format, tmp_path):
    train = load_images(make_table(tmp_path), format, label_columns=["dog", "cat"])["train"]
    assert train.features["labels"].feature.names == ["dog", "cat"]
    assert train[:]["labels"] == [[0], [0, 1]]
    with pytest.raises(DataError, match=r"train.csv: has no column 'emu'"):
        load_images(tmp_path, format, label_columns=["emu"])
    with pytest.raises(DataError, match=r"train.csv:2: column 'quality': '3'"):
        load_images(tmp_path, format, label_columns=["quality"])


def test_label_columns_beside_a_column_of_labels(tmp_path):
    save(tmp_path / "a.jpg")
    write(tmp_path / "metadata.csv", "file_name,label,cat,dog", "a.jpg,pets,1,0")
    data = load_images(tmp_path, label_columns=["cat", "dog"])
    assert data["train"].features["labels"].feature.names == ["cat", "dog"] and data["train"][0]["labels"] == [0]


def test_index_of_pandas_is_no_class_and_what_is_taken_is_logged(tmp_path, caplog):
    train = load_images(make_table(tmp_path))["train"]
    assert train.features["labels"].feature.names == ["flipped", "cat", "dog"]
    assert train[:]["labels"] == [[0, 2], [1, 2]]
    assert "flipped, cat, dog are taken for classes, not quality" in caplog.text


def test_missing_image_is_reported_by_its_check(tmp_path):
    make_table(tmp_path)
    (tmp_path / "images/b.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 2 images cannot be used:\n.*b\.jpg: no such image file"):
        check_images(load_images(tmp_path)["train"], progress=False)
