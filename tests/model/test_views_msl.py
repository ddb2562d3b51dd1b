"""How an image is looked at: the notation, the tiles, what becomes of their logits and maps."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from tiny import BACKBONES
from torch.nn import functional as F
from transformers import AutoModel, ViTImageProcessor, pipeline

from msl_hf import MSLConfig
from msl_hf.model.views_msl import Part, Views, views_of

PROCESSOR = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.4] * 3, image_std=[0.3] * 3)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_the_notation():
    views = Views.parse("whole@224 + mirror+2x3@160")
    assert views.parts == (Part(side=224), Part(is_mirrored=True), Part(2, 3, side=160))
    assert str(views) == "whole@224+mirror+2x3@160" and Views.parse(str(views)) == views
    assert Views.parse("1x1").parts == Views.parse("whole").parts and str(Views.parse("1x1")) == "whole"
    assert Views.parse(views) is views


@pytest.mark.parametrize("text", ["", "whole@", "whole@0", "half", "2x", "2x0", "whole@224,mirror", "Whole", "2x2@16O",
                                  "whole++mirror", "-1x2", 224, ["whole"]])  # fmt: skip
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="view"):
        Views.parse(text)


def test_no_more_tiles_than_are_of_use():
    with pytest.raises(ValueError, match="9 x 9 are more than 64 tiles"):
        Views.parse("9x9")


def test_cost_is_the_share_of_pixels():
    assert Views.parse("whole").cost((160, 160)) == 1
    assert Views.parse("whole@224+2x2@160").cost((160, 160)) == pytest.approx(224**2 / 160**2 + 4)
    assert Views.parse("mirror+3x2@80").cost((160, 160)) == pytest.approx(1 + 6 / 4)
    assert Views.parse("whole@64").cost((32, 48)) == 4  # twice the height, twice the width
    assert Views.parse("whole@64+2x2").sizes((32, 48)) == [(64, 96), *4 * [(32, 48)]]


def test_tiles_by_hand():
    """Two in a row are 4 / 7 of the side, three 2 / 5; a quarter of each is its neighbour's, too."""
    assert Part(1, 2).boxes(70, 10) == [(0, 0, 40, 10), (30, 0, 70, 10)]
    assert Part(3, 1).boxes(10, 100) == [(0, 0, 10, 40), (0, 30, 10, 70), (0, 60, 10, 100)]
    for rows, columns, width, height in ((2, 2, 101, 57), (3, 5, 640, 427), (4, 4, 7, 5), (8, 8, 8, 8)):
        covered = np.zeros((height, width), dtype=int)
        boxes = Part(rows, columns).boxes(width, height)
        for left, top, right, bottom in boxes:
            covered[top:bottom, left:right] += 1
        assert len(boxes) == rows * columns and covered.min() >= 1
        assert len({(right - left, bottom - top) for left, top, right, bottom in boxes}) == 1
    with pytest.raises(ValueError, match="the view 8x2 cuts finer than the image of 9 x 7 pixels"):
        Part(8, 2).boxes(9, 7)


def test_the_plain_pass_to_the_bit(tiny_model):
    model, images = tiny_model().eval(), [noise(50, 40, seed) for seed in range(3)]
    with torch.no_grad():
        plain = model(PROCESSOR(images, return_tensors="pt")["pixel_values"]).logits
    for views in (None, "whole", "whole@32"):
        assert torch.equal(model.view_logits(images, PROCESSOR, views), plain)
    model.config.views = "whole@48"
    larger = model.view_logits(images, PROCESSOR)
    size = {"height": 48, "width": 48}
    with torch.no_grad():
        assert torch.equal(larger, model(PROCESSOR(images, size=size, return_tensors="pt")["pixel_values"]).logits)
    assert torch.equal(model.view_logits(images, PROCESSOR, "whole"), plain)


def test_views_by_brute_force(tiny_model):
    """The mean of the whole image at 64, of its mirror image, and of each class's greatest tile."""
    model, image = tiny_model().eval(), noise(70, 140)

    def logits(image, side=32, flip=False):
        pixels = PROCESSOR(image, size={"height": side, "width": side}, return_tensors="pt")["pixel_values"]
        return model(pixels.flip(-1) if flip else pixels).logits[0]

    with torch.no_grad():
        corners = [(x, y, x + 40, y + 80) for y in (0, 60) for x in (0, 30)]
        tiles = torch.stack([logits(image.crop(corner), 48) for corner in corners])
        expected = (logits(image, 64) + logits(image, flip=True) + tiles.max(dim=0).values) / 3
    assert len(set(tiles.argmax(dim=0).tolist())) > 1  # no tile is the greatest of all classes
    with_alpha = image.copy()
    with_alpha.putalpha(255)
    for given in (image, [image], with_alpha, torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)):
        found = model.view_logits(given, PROCESSOR, "whole@64+mirror+2x2@48")[0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


class Coordinates:
    """A network whose maps show where what it sees lies: the first two channels, at half the resolution."""

    def score_maps(self, pixel_values):
        return F.avg_pool2d(pixel_values[:, :2], 2)


def test_maps_of_tiles_are_joined_in_their_places():
    """Of an image whose channels are its coordinates every joined map is its coordinates again."""
    rows, columns = torch.meshgrid(torch.arange(56.0), torch.arange(112.0), indexing="ij")
    image = torch.stack([rows, columns, columns]) + 0.5
    for name in ("2x2", "2x2+whole", "mirror+2x1", "1x2"):
        views = Views.parse(name)
        maps = views.score_maps(Coordinates(), [crop[None] for crop in views.crops(image, lambda crop, _: crop)])
        height, width = maps.shape[-2:]
        assert (height, width) == (28, 56)
        torch.testing.assert_close(maps[0, 0], rows[:height, :width] * 2 + 1)
        torch.testing.assert_close(maps[0, 1], columns[:height, :width] * 2 + 1)


def test_joined_maps_by_brute_force(tiny_model):
    """Each cell is the mean of the tiles that cover it, each of them stretched to its place."""
    model, image = tiny_model("timm_vit").eval(), noise(60, 60)
    views = Views.parse("2x2@64")
    crops = views.crops(image, lambda crop, side: PROCESSOR(
        crop, size={"height": side, "width": side}, return_tensors="pt")["pixel_values"][0])  # fmt: skip
    with torch.no_grad():
        found = views.score_maps(model, [crop[None] for crop in crops])
        tiles = [model.score_maps(crop[None])[0].numpy() for crop in crops]
    assert found.shape == (1, 3, 14, 14)  # tiles of 8 x 8 cells, 1.75 of them in a row
    sums, counts = np.zeros((3, 14, 14)), np.zeros((14, 14))
    for tile, (y, x) in zip(tiles, [(0, 0), (0, 6), (6, 0), (6, 6)], strict=True):
        for row in range(8):
            for column in range(8):
                sums[:, y + row, x + column] += tile[:, row, column]
                counts[y + row, x + column] += 1
    np.testing.assert_allclose(found[0].numpy(), sums / counts, atol=1e-5)
    plain = Views.parse("whole").score_maps(model, [PROCESSOR(image, return_tensors="pt")["pixel_values"]])
    assert torch.equal(plain, model.score_maps(PROCESSOR(image, return_tensors="pt")["pixel_values"]))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_kind_of_network_looks_closer(backbone, tiny_model):
    model = tiny_model(backbone).eval()
    found = model.view_logits([noise(80, 60)], PROCESSOR, "whole@64+2x2@32")
    assert found.shape == (1, 3) and found.isfinite().all()
    assert not torch.equal(found, model.view_logits([noise(80, 60)], PROCESSOR, "whole"))


def test_sizes_that_a_network_cannot_take(tiny_model):
    model = tiny_model("timm_vit")
    with pytest.raises(ValueError, match="the view 2x2@44: image_size 44 is no multiple .* of 8 pixels.* 40 or 48"):
        model.view_logits([noise(80, 60)], PROCESSOR, "whole+2x2@44")
    with pytest.raises(ValueError, match="8x8 cuts finer than the image of 80 x 6 pixels"):
        model.view_logits([noise(80, 6)], PROCESSOR, "8x8")
    cropping = ViTImageProcessor(do_resize=False)
    with pytest.raises(ValueError, match="the view whole@64 needs an image processor that resizes"):
        Views.parse("whole@64").check(model, cropping)
    Views.parse("whole+mirror").check(model, cropping)


def test_the_configuration_carries_them(tiny_model, tmp_path):
    model = tiny_model()
    model.config.views = "whole@48+2x2"
    model.save_pretrained(tmp_path)
    PROCESSOR.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval()
    assert again.config.views == "whole@48+2x2"
    with pytest.raises(StrictDataclassError, match="'2y2' is none of"):
        MSLConfig(views="2y2")
    images = [noise(80, 60), noise(50, 90)]
    expected = again.view_logits(images, PROCESSOR).sigmoid()
    for options in ({}, {"batch_size": 2}, {"views": "whole@48+2x2"}):
        classify = pipeline("multi-label-image-classification", model=str(tmp_path), threshold=0, **options)
        for row, scores in zip(classify(images), expected, strict=True):
            found = {entry["label"]: entry["score"] for entry in row}
            assert [found[name] for name in again.config.id2label.values()] == pytest.approx(scores.tolist(), abs=1e-5)


def test_the_pipeline_takes_views(tiny_model, tmp_path):
    model = tiny_model("timm_vit").eval()
    model.save_pretrained(tmp_path)
    PROCESSOR.save_pretrained(tmp_path)
    image = noise(80, 60)
    classify = pipeline("multi-label-image-classification", model=str(tmp_path), threshold=0)
    expected = model.view_logits([image], PROCESSOR, "whole@64+2x2").sigmoid()[0]
    for given in (image, np.asarray(image)):
        found = {entry["label"]: entry for entry in classify(given, views="whole@64+2x2", score_maps=True)}
        assert [found[name]["score"] for name in ("cat", "dog", "fish")] == pytest.approx(expected.tolist(), abs=1e-5)
        assert found["cat"]["score_map"].shape == (8, 8)
    plain = model(PROCESSOR(image, return_tensors="pt")["pixel_values"]).logits.sigmoid()[0].tolist()
    assert [entry["score"] for entry in classify(image)] == pytest.approx(sorted(plain, reverse=True), abs=1e-5)
    with pytest.raises(ValueError, match="no view"):
        classify(image, views="2by2")
    with pytest.raises(ValueError, match="image_size 36 is no multiple"):
        pipeline("multi-label-image-classification", model=str(tmp_path), views="whole@36")


def test_thresholds_of_another_view_are_said_once(caplog):
    config = SimpleNamespace(views="whole@64", thresholds=[0.2])
    with caplog.at_level("WARNING"):
        views_of(None, config)
        views_of("whole@64", config)
        views_of("whole@72", SimpleNamespace(views="whole@64", thresholds=None))
        assert not caplog.records
        views_of("whole@72", config)
        views_of("whole@72", config)
    assert len(caplog.records) == 1
    assert "chosen for whole@64, and it looks at images as whole@72" in caplog.text
