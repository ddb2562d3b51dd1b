import io

import numpy as np
import pytest
import torch
from PIL import Image

from msl_hf.data.images import image_files, read_image, set_max_pixels, upright_rgb
from msl_hf.data.schema import DataError
from msl_hf.model.pipeline_msl import MultiLabelImageClassificationPipeline

RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)


def saved(path, image, **options):
    image.save(path, **options)
    return path


def reading(path):
    return read_image({"image": {"path": str(path), "bytes": None}})


def runner(path):
    with Image.open(path) as image:
        return pytest.importorskip("msl_hf.hub.run_onnx", exc_type=ImportError).upright_rgb(image)


def pipeline(path, given=str):
    """What the pipeline hands to its processor."""
    seen = []

    class Processor:
        def __call__(self, images, return_tensors):
            seen.append(images)
            return {"pixel_values": torch.zeros(1, 3, 2, 2)}

    model = type("Model", (), {"dtype": torch.float32, "config": type("Config", (), {"views": None})()})
    classify = MultiLabelImageClassificationPipeline.__new__(MultiLabelImageClassificationPipeline)
    classify.image_processor, classify.model = Processor(), model()
    classify.preprocess(given(path))
    return seen[0]


READERS = {"reading": reading, "runner": runner, "pipeline": pipeline,
           "pipeline of images": lambda path: pipeline(path, Image.open)}  # fmt: skip


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
@pytest.mark.parametrize("reader", READERS)
def test_sixteen_bits_become_eight_by_their_range(reader, ending, tmp_path):
    path = saved(tmp_path / f"ramp.{ending}", Image.fromarray(RAMP))
    pixels = np.asarray(READERS[reader](path))
    expected = (RAMP.astype(np.int64) + 128) // 257  # 0 -> 0, 65,535 -> 255, nearest in between
    assert pixels.shape == (256, 256, 3) and pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize("reader", READERS)
def test_sixteen_bits_are_turned_upright(reader, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    levels = np.zeros((20, 40), np.uint16)
    levels[:10] = 65535
    path = saved(tmp_path / "side.png", Image.fromarray(levels), exif=exif)
    pixels = np.asarray(READERS[reader](path))
    assert pixels.shape == (40, 20, 3) and (pixels[:, 10:] == 255).all() and (pixels[:, :10] == 0).all()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_images_without_a_range_are_refused(reader, dtype, tmp_path):
    path = saved(tmp_path / "wide.tif", Image.fromarray(np.ones((4, 4), dtype)))
    with pytest.raises(ValueError, match="range"):
        READERS[reader](path)


def test_modes_with_eight_bits_are_as_pillow_has_them():
    for mode in ("1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr"):
        image = Image.new("RGB", (4, 4), (200, 30, 90)).convert("L" if mode == "LA" else "RGB").convert(mode)
        np.testing.assert_array_equal(np.asarray(upright_rgb(image)), np.asarray(image.convert("RGB")))


def test_more_pixels_are_let_in_on_demand(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # of 12 x 12 pixels every one is more than twice as many
    path = saved(tmp_path / "large.png", Image.new("RGB", (12, 12)))
    with pytest.raises(DataError, match="large.png: has more pixels than are let in .*--max_pixels"):
        reading(path)
    set_max_pixels(144)
    assert reading(path).size == (12, 12)
    set_max_pixels(143 - 1)
    with pytest.raises(DataError, match="max_pixels"):
        reading(path)
    with pytest.raises(DataError, match="at least 1"):
        set_max_pixels(0)


def test_an_image_that_only_another_package_reads_says_which(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 100)
    with pytest.raises(DataError, match="a.heic: cannot be decoded .*"):
        reading(tmp_path / "a.heic")
    try:
        import pillow_heif  # noqa: F401
    except ImportError:
        with pytest.raises(DataError, match="pip install pillow-heif"):
            reading(tmp_path / "a.heic")


def test_an_image_is_its_file_or_its_content(tmp_path):
    from datasets import Dataset

    from msl_hf.data.schema import make_features

    path = saved(tmp_path / "a.png", Image.new("RGB", (2, 2)))
    (tmp_path / "link.png").symlink_to(path)
    content = io.BytesIO()
    Image.new("RGB", (2, 2), "red").save(content, "PNG")
    images = [str(path), str(tmp_path / "link.png"), *[{"bytes": content.getvalue(), "path": n} for n in "xy"]]
    rows = {"image": images, "labels": [[]] * 4, "image_id": list("abcd")}
    found = image_files(Dataset.from_dict(rows, features=make_features(["cat"])))
    assert list(found.values()) == ["b", "d"] and str(path.resolve()) in found
    dataset = Dataset.from_dict(rows, features=make_features(["cat"]))
    assert list(image_files(dataset, read_content=False)) == [str(path.resolve()), "c", "d"]
