import pytest
import torch

from msl_hf import apply_mask
from msl_hf.masks import counter_generator

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.5]


def test_apply_mask_paints_black_in_unit_space():
    rgb = torch.rand(2, 3, 5, 6)
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    keep = torch.rand(2, 1, 5, 6) > 0.5
    masked = apply_mask((rgb - mean) / std, keep, MEAN, STD)
    torch.testing.assert_close(masked * std + mean, rgb * keep, atol=1e-6, rtol=0)


def test_apply_mask_keep_value_and_zero_fill():
    rgb = torch.rand(1, 3, 4, 4)
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    normalised, keep = (rgb - mean) / std, torch.eye(4, dtype=torch.bool)[None, None]
    unbinarised = apply_mask(normalised, keep, MEAN, STD, keep_value=225 / 255)
    torch.testing.assert_close(unbinarised * std + mean, rgb * keep * 225 / 255, atol=1e-6, rtol=0)
    torch.testing.assert_close(apply_mask(normalised, keep, fill="zero"), normalised * keep)
    with pytest.raises(ValueError, match="image_mean"):
        apply_mask(normalised, keep)
    with pytest.raises(ValueError, match="fill must be one of black, zero, noise, image, mixed, got 'white'"):
        apply_mask(normalised, keep, fill="white")
    with pytest.raises(ValueError, match="keep must be a bool tensor"):
        apply_mask(normalised, keep.float(), MEAN, STD)


def test_holes_are_filled_with_noise_another_image_or_a_mixture():
    """Every pixel is that of the image, or of what fills the hole; what is drawn depends on the generator alone."""
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    colours = torch.arange(1, 31).view(30, 1, 1, 1).expand(30, 3, 16, 16) / 100  # of one colour each
    images, keep = (colours - mean) / std, (torch.rand(30, 1, 16, 16) > 0.5).contiguous()
    holes = ~keep.expand_as(images)

    def filled(fill, seed=0, **options):
        masked = apply_mask(images, keep, MEAN, STD, fill, generator=counter_generator(seed), **options)
        assert torch.equal(masked[~holes], images[~holes])
        return masked * std + mean

    noise = filled("noise")[holes]
    assert noise.min() >= -1e-6 and noise.max() <= 1 + 1e-6
    assert noise.mean().item() == pytest.approx(0.5, abs=0.02) and noise.std().item() == pytest.approx(
        12**-0.5, abs=0.02
    )
    assert torch.equal(filled("noise")[holes], noise) and not torch.equal(filled("noise", 1)[holes], noise)

    def seen_in_holes(masked):
        return [sorted({round(100 * value) for value in one[hole].tolist()}) for one, hole in zip(masked, holes)]  # noqa: B905

    seen = [colours for (colours,) in map(tuple, seen_in_holes(filled("image")))]
    assert sorted(seen) == list(range(1, 31)) and all(colour != own for own, colour in enumerate(seen, 1))
    assert len({tuple(map(tuple, seen_in_holes(filled("image", seed)))) for seed in range(9)}) > 4
    given = filled("image", others=images.flip(0))
    assert seen_in_holes(given) == [[31 - own] for own in range(1, 31)]

    kinds = [
        {0: "black"}.get(colours[0], "image") if len(colours) == 1 else "noise"
        for colours in seen_in_holes(filled("mixed"))
    ]
    assert {kind: kinds.count(kind) > 4 for kind in kinds} == {"black": True, "noise": True, "image": True}


def test_other_images_are_needed_and_have_to_fit():
    images, keep = torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    for fill in ("image", "mixed"):
        with pytest.raises(ValueError, match="another image of the batch, and it has only one: pass others"):
            apply_mask(images, keep, MEAN, STD, fill)
        with pytest.raises(ValueError, match=r"others must be of the shape of the images, \(1, 3, 4, 4\), got"):
            apply_mask(images, keep, MEAN, STD, fill, others=torch.zeros(2, 3, 4, 4))
    others = torch.ones(1, 3, 4, 4)
    assert torch.equal(apply_mask(images, keep, fill="image", others=others), others)  # without mean and std


def test_apply_mask_needs_both_statistics_and_takes_any_fill_with_any_factor():
    rgb, keep = torch.rand(1, 3, 4, 4), torch.eye(4, dtype=torch.bool)[None, None]
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    normalised = (rgb - mean) / std
    for statistics in ((MEAN, None), (None, STD)):
        with pytest.raises(ValueError, match="^apply_mask needs image_mean and image_std .*; pass those of the image"):
            apply_mask(normalised, keep, *statistics)
    grey = apply_mask(normalised, keep, MEAN, STD, fill="zero", keep_value=0.5)
    torch.testing.assert_close(grey, torch.where(keep, (rgb * 0.5 - mean) / std, torch.tensor(0.0)))
    assert torch.equal(apply_mask(normalised, keep, MEAN, STD)[keep.expand_as(rgb)], normalised[keep.expand_as(rgb)])


@pytest.mark.parametrize("fill", ["black", "zero"])
def test_images_of_whole_numbers_are_refused(fill):
    keep = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="must be normalised floating-point images, got torch.uint8"):
        apply_mask(torch.ones(1, 3, 4, 4, dtype=torch.uint8), keep, [0.5] * 3, [0.5] * 3, fill)


@pytest.mark.parametrize(
    "wrong", [{"keep_value": float("nan")}, {"image_std": [0.0, 1.0, 1.0]}, {"image_mean": [float("nan")] * 3}]
)
def test_statistics_that_are_no_numbers_are_refused(wrong):
    keep = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="image_mean and keep_value must be numbers, and image_std not 0"):
        apply_mask(torch.ones(1, 3, 4, 4), keep, **{"image_mean": [0.5] * 3, "image_std": [0.5] * 3, **wrong})


def test_statistics_may_come_from_any_iterable():
    keep = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    black = apply_mask(torch.ones(1, 3, 4, 4), keep, iter([0.5, 0.25, 0.75]), iter([0.5] * 3))
    assert black[0, :, 0, 0].tolist() == [-1.0, -0.5, -1.5]
