import pytest
import torch
from PIL import Image

from msl_hf.data import MultiLabelCollator, check_images
from msl_hf.data.images import read_image
from msl_hf.data.schema import DataError, class_names_of, make_features, undecoded


def make_dataset(paths, **columns):
    from datasets import Dataset

    columns = {"image": [str(path) for path in paths], "labels": [[0]] * len(paths),
               "image_id": [str(index) for index in range(len(paths))], **columns}  # fmt: skip
    return Dataset.from_dict(columns, features=make_features(["cat", "dog"], ignored="ignored" in columns))


@pytest.fixture
def images(tmp_path):
    """good, missing, cut off, no image at all."""
    Image.effect_noise((300, 200), 90).convert("RGB").save(tmp_path / "good.jpg")
    data = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    return [tmp_path / name for name in ("good.jpg", "missing.jpg", "cut.jpg", "page.jpg")]


def test_all_broken_images_are_listed_at_once(images):
    with pytest.raises(DataError, match="3 of 4 images") as error:
        check_images(make_dataset(images), progress=False)
    assert all(name in str(error.value) for name in ("missing.jpg: no such", "cut.jpg: cannot", "page.jpg: cannot"))
    assert "good.jpg" not in str(error.value) and "--drop_bad_images" in str(error.value)


def test_broken_images_are_dropped_and_reported(images):
    dataset, messages = check_images(make_dataset(images), drop=True, progress=False)
    assert dataset[:]["image_id"] == ["0"] and len(messages) == 3


def test_check_finds_what_decoding_finds(images):
    """The check decodes JPEGs at an eighth of their size; it must not be more lenient than full decoding."""
    for row in undecoded(make_dataset(images)).select([1, 2, 3]):
        with pytest.raises(DataError):
            read_image(row)
        with pytest.raises(DataError):
            read_image(row, least_size=(1, 1))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16", "1"])
def test_images_of_every_mode_become_rgb(mode, tmp_path):
    suffix = "jpg" if mode in ("L", "CMYK") else "png"
    Image.new(mode, (6, 4)).save(tmp_path / f"a.{suffix}")
    image = read_image(undecoded(make_dataset([tmp_path / f"a.{suffix}"]))[0])
    assert image.mode == "RGB" and image.size == (6, 4)


def test_images_are_turned_upright(tmp_path):
    image = Image.new("RGB", (6, 4))
    exif = image.getexif()
    exif[0x0112] = 6  # a camera held upright
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(undecoded(make_dataset([tmp_path / "a.jpg"]))[0]).size == (4, 6)


def test_targets():
    items = [{"pixel_values": torch.zeros(3, 2, 2), "labels": [0, 2], "ignored": [1]},
             {"pixel_values": torch.ones(3, 2, 2), "labels": [], "ignored": None}]  # fmt: skip
    negative, ignore = (MultiLabelCollator(4, ignored_as=kind)(items) for kind in ("negative", "ignore"))
    assert negative["labels"].tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]]
    assert ignore["labels"].tolist() == [[1, -100, 1, 0], [0, 0, 0, 0]]
    assert negative["pixel_values"].shape == (2, 3, 2, 2) and negative["labels"].dtype == torch.float32
    with pytest.raises(ValueError, match="ignored_as"):
        MultiLabelCollator(4, ignored_as="maybe")


def test_class_names(images):
    assert class_names_of(make_dataset(images[:1])) == ["cat", "dog"]
