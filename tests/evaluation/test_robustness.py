import pytest
import torch

from msl_hf import MaskBank
from msl_hf.data.transforms import normalized
from msl_hf.evaluation import MaskedDataset

MEAN, STD = [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]


def test_mask_depends_on_seed_and_position_alone():
    bank = MaskBank(torch.rand(9, 40, 40) > 0.5)
    images = [{"pixel_values": torch.ones(3, 20, 20), "labels": [index]} for index in range(12)]
    first = MaskedDataset(images, bank, MEAN, STD)
    backwards = [first[index]["pixel_values"] for index in reversed(range(12))][::-1]
    again = MaskedDataset(images, bank, MEAN, STD)
    assert all(torch.equal(again[index]["pixel_values"], backwards[index]) for index in range(12))
    other_seed = MaskedDataset(images, bank, MEAN, STD, seed=1)
    assert any(not torch.equal(other_seed[index]["pixel_values"], backwards[index]) for index in range(12))
    assert len({image.numpy().tobytes() for image in backwards}) > 6
    assert all(set(image.unique().tolist()) == {-1.0, 1.0} for image in backwards)  # black is -1 here
    assert first[3]["labels"] == [3] and len(first) == 12
    assert images[3]["pixel_values"].min() == 1  # the data set itself is left alone


def test_removed_pixels_are_black_or_zero():
    images = [{"pixel_values": torch.full((3, 20, 20), 0.7)}]
    bank = MaskBank(torch.rand(9, 40, 40) > 0.5)
    black, zero = (MaskedDataset(images, bank, MEAN, STD, fill=fill)[0]["pixel_values"] for fill in ("black", "zero"))
    assert black.unique().tolist() == pytest.approx([-1.0, 0.7]) and zero.unique().tolist() == pytest.approx(
        [0.0, 0.7]
    )
    assert torch.equal(black == -1, zero == 0)


def test_another_image_in_the_holes_depends_on_seed_and_position_alone():
    images = [{"pixel_values": torch.full((3, 20, 20), float(index))} for index in range(12)]
    bank = MaskBank(torch.rand(9, 40, 40) > 0.5)
    masked = MaskedDataset(images, bank, MEAN, STD, fill="image")
    seen = [masked[index]["pixel_values"].unique().tolist() for index in range(12)]
    assert all(len(colours) == 2 and index in colours for index, colours in enumerate(seen))
    assert len({sum(colours) - index for index, colours in enumerate(seen)}) > 4
    backwards = MaskedDataset(images, bank, MEAN, STD, fill="image")
    assert [backwards[index]["pixel_values"].unique().tolist() for index in reversed(range(12))] == seen[::-1]
    with pytest.raises(ValueError, match="shows another image of the data set, which has 1"):
        MaskedDataset(images[:1], bank, MEAN, STD, fill="mixed")


@pytest.mark.parametrize(
    ("fill", "dtype"),
    [("black", torch.uint8), ("zero", torch.float32), ("noise", torch.float32), ("image", torch.float32)],
)
def test_pixels_in_uint8_are_masked_as_normalised_ones_are(fill, dtype):
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    pixels = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    rows = [[{"pixel_values": image} for image in images] for images in (pixels, normalized(pixels, mean, std))]
    bank = MaskBank.generate(10, (0.4, 0.6))
    short, whole = (MaskedDataset(images, bank, mean, std, fill=fill) for images in rows)
    for index in range(3):
        found = short[index]["pixel_values"]
        assert found.dtype == dtype
        torch.testing.assert_close(normalized(found, mean, std), whole[index]["pixel_values"], atol=1e-6, rtol=0)
