"""OpenImages' image-level labels, in the files of its download page."""

from pathlib import Path

import pytest
from PIL import Image

from msl_hf.data import load_images
from msl_hf.data.schema import DataError, undecoded

HEADER = "ImageID,Source,LabelName,Confidence"
DESCRIPTIONS = ["/m/0bt9lr,Dog", '/m/01yrx,"Cat"', '/m/04rky,"Mammal, any"', "/m/0h8n5zk,Kitchen"]
TRAIN = [
    "000026e7ee790996,verification,/m/0bt9lr,1",
    "000026e7ee790996,verification,/m/01yrx,0",
    "000062a39995e348,crowdsource-verification,/m/04rky,1",
    "000062a39995e348,verification,/m/01yrx,1",
    "000062a39995e348,verification,/m/0bt9lr,0",
    "ffffffffffffffff,verification,/m/0bt9lr,1",  # not among the images
    "0000c64e1253d68f,verification,/m/0bt9lr,0",
]


def save(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)


def write(path, *lines, end="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode())


def make(root, end="\n"):
    save(*(root / f"train/{name}.jpg" for name in ("000026e7ee790996", "000062a39995e348", "0000c64e1253d68f")))
    write(root / "train-annotations-human-imagelabels.csv", HEADER, *TRAIN, end=end)
    write(root / "class-descriptions.csv", *DESCRIPTIONS, end=end)
    return root


def found(dataset):
    """Image -> (names of the labels, names of those ignored)."""
    names = dataset.features["labels"].feature.names
    return {
        Path(row["image"]["path"]).stem: tuple([names[index] for index in row[key]] for key in ("labels", "ignored"))
        for row in undecoded(dataset)
    }


EXPECTED = {
    "000026e7ee790996": (["Dog"], ["Mammal, any"]),
    "000062a39995e348": (["Cat", "Mammal, any"], []),
    "0000c64e1253d68f": ([], ["Cat", "Mammal, any"]),
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("format", ["auto", "openimages"])
def test_human_labels(format, end, tmp_path, caplog):
    data = load_images(make(tmp_path, end), format)
    assert list(data) == ["train"]
    assert data["train"].features["labels"].feature.names == ["Cat", "Dog", "Mammal, any"]
    assert found(data["train"]) == EXPECTED and data["train"][0]["image"].size == (8, 8)
    assert "1 rows are about images that are not there" in caplog.text


@pytest.mark.parametrize("descriptions", ["oidv7-class-descriptions.csv", "class-descriptions-boxable.csv", None])
@pytest.mark.parametrize("format", ["auto", "openimages"])
def test_splits_and_names_of_classes(format, descriptions, tmp_path):
    make(tmp_path)
    (tmp_path / "class-descriptions.csv").unlink()
    if descriptions:
        header = ["LabelName,DisplayName"] if descriptions.startswith("oidv7") else []
        write(tmp_path / descriptions, *header, *DESCRIPTIONS)
    save(tmp_path / "validation/0001eeaf4aed83f9.jpg", tmp_path / "test/000026e7ee790996.jpg")
    write(tmp_path / "validation-annotations-human-imagelabels.csv", HEADER,
          "0001eeaf4aed83f9,verification,/m/01yrx,1")  # fmt: skip
    write(tmp_path / "test-annotations-human-imagelabels.csv", HEADER, "000026e7ee790996,verification,/m/04rky,1")
    data = load_images(tmp_path, format)
    assert sorted(data) == ["test", "train", "validation"]
    cat, dog, mammal = ("Cat", "Dog", "Mammal, any") if descriptions else ("/m/01yrx", "/m/0bt9lr", "/m/04rky")
    names = sorted((cat, dog, mammal))
    assert data["train"].features["labels"].feature.names == names
    assert found(data["train"])["000026e7ee790996"] == ([dog], [mammal])
    assert found(data["validation"])["0001eeaf4aed83f9"][0] == [cat]
    assert set(found(data["validation"])["0001eeaf4aed83f9"][1]) == {dog, mammal}
    test = found(data["test"])["000026e7ee790996"]
    assert test[0] == [mammal] and set(test[1]) == {cat, dog}
    assert undecoded(data["test"])[0]["image"]["path"] == str(tmp_path / "test/000026e7ee790996.jpg")


def test_other_tables_of_the_download_page(tmp_path):
    make(tmp_path)
    write(
        tmp_path / "train-images-with-labels-with-rotation.csv",
        "ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,Title,OriginalSize,OriginalMD5,"
        "Thumbnail300KURL,Rotation",
        "000026e7ee790996,train,https://x.org/a.jpg,https://x.org/a,https://cc/by,https://x.org/me,me,a,1,q==,,0.0",
    )
    write(tmp_path / "train-annotations-machine-imagelabels.csv", HEADER, "000026e7ee790996,machine,/m/04rky,0.9",
          "000026e7ee790996,machine,/m/01yrx,0.7")  # fmt: skip
    assert found(load_images(tmp_path)["train"]) == EXPECTED


def test_images_elsewhere_below_the_folder(tmp_path):
    make(tmp_path)
    (tmp_path / "train").rename(tmp_path / "photos")
    assert found(load_images(tmp_path)["train"]) == EXPECTED


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("000026e7ee790996,verification", r"imagelabels.csv:9: expected an image id, a label and a confidence"),
        ("000026e7ee790996,verification,/m/01yrx,yes", r"imagelabels.csv:9: expected an image id"),
    ],
)
def test_errors_name_file_and_line(line, message, tmp_path):
    with (make(tmp_path) / "train-annotations-human-imagelabels.csv").open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(DataError, match=message):
        load_images(tmp_path)


def test_no_image_is_there(tmp_path):
    make(tmp_path)
    (tmp_path / "train").rename(tmp_path.parent / f"{tmp_path.name}-elsewhere")
    with pytest.raises(DataError, match="none of the images of train-annotations-human-imagelabels.csv is there"):
        load_images(tmp_path)
