import numpy as np
import pytest
import torch
from PIL import Image

from msl_hf import MaskBank
from msl_hf.masks import counter_generator


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """The cache of generated masks of these tests alone, so that they see the drawing and not an older cache."""
    folder = tmp_path_factory.getbasetemp() / "mask-cache"
    folder.mkdir(exist_ok=True)
    monkeypatch.setattr("msl_hf.masks.bank.cached_assets_path", lambda *args, **kwargs: folder)
    return folder


def masks_of(bank: MaskBank) -> np.ndarray:
    return np.stack([bank[index].numpy() for index in range(len(bank))])


def removed_patches(bank: MaskBank, side: int) -> float:
    """Share of the 16-pixel patches that masks of this side remove wholly, by pooling."""
    keep = bank.sample(400, side, generator=counter_generator(7)).float()
    return (torch.nn.functional.max_pool2d(keep, 16) == 0).float().mean().item()


@pytest.mark.parametrize("interval", [(0.01, 0.1), (0.2, 0.25), (0.5, 0.6), (0.8, 0.9)])
def test_every_generated_mask_lies_in_the_interval(interval):
    bank = MaskBank.generate(40, interval, seed=3)
    ratios = 1 - masks_of(bank).mean(axis=(1, 2))
    assert interval[0] <= ratios.min() and ratios.max() <= interval[1]
    np.testing.assert_allclose(bank.hole_ratios.numpy(), ratios, atol=1e-6)
    assert ratios.std() > 0.1 * (interval[1] - interval[0])


def test_generated_masks_are_a_function_of_the_seed(own_cache):
    first = masks_of(MaskBank.generate(6, seed=0))
    for file in own_cache.iterdir():
        file.unlink()
    again, longer, other = (masks_of(MaskBank.generate(n, seed=s)) for n, s in ((6, 0), (8, 0), (6, 1)))
    assert (first == again).all() and (first == longer[:6]).all()
    assert all((first[index] != other[index]).any() for index in range(6))


def test_cache_is_used_and_a_broken_one_is_replaced(own_cache):
    first = masks_of(MaskBank.generate(3, seed=11))
    (file,) = own_cache.glob("*-n3-*-s11.npy")
    np.save(file, np.full_like(np.load(file), 255))
    assert MaskBank.generate(3, seed=11).hole_ratios.max() == 0  # read, not drawn
    file.write_bytes(b"cut off")
    assert (masks_of(MaskBank.generate(3, seed=11)) == first).all()
    file.write_bytes(b"")
    assert (masks_of(MaskBank.generate(3, seed=11)) == first).all()
    assert MaskBank.generate(3, seed=11).hole_ratios.min() > 0 and len(np.load(file)) == 3
    assert not list(own_cache.glob("*.tmp"))


def test_no_place_for_a_cache_is_no_error(monkeypatch):
    def fail(*args, **kwargs):
        raise PermissionError

    monkeypatch.setattr("msl_hf.masks.bank.cached_assets_path", fail)
    assert len(MaskBank.generate(2, seed=12)) == 2


def test_a_full_cache_is_no_error(own_cache, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("msl_hf.masks.bank.np.save", fail)
    assert len(MaskBank.generate(2, seed=13)) == 2 and not list(own_cache.glob("*-s13.npy"))


def test_the_cache_lies_where_hugging_face_keeps_its_assets(own_cache, monkeypatch):
    asked = []
    monkeypatch.setattr("msl_hf.masks.bank.cached_assets_path", lambda *a, **k: asked.append((a, k)) or own_cache)
    MaskBank.generate(2, seed=14)
    assert asked == [(("msl_hf",), {"namespace": "masks"})]


@pytest.mark.slow
def test_generated_high_masks_are_as_hard_as_nvidias():
    bank = MaskBank.generate(300, (0.5, 0.6))
    for side, expected in ((224, 0.28), (384, 0.38), (448, 0.42)):
        assert removed_patches(bank, side) == pytest.approx(expected, abs=0.05)
    touches_border = [not (mask[0].all() and mask[-1].all() and mask[:, 0].all()) for mask in masks_of(bank)]
    assert 0.3 < np.mean(touches_border) < 0.8


@pytest.mark.slow
def test_real_masks_give_the_same_shares(shared):
    bank = MaskBank.from_folder(shared / "data/masks/nvidia", hole="white", hole_ratio=(0.5, 0.6))
    assert len(bank) == 200
    for side, expected in ((224, 0.28), (384, 0.38), (448, 0.42)):
        assert removed_patches(bank, side) == pytest.approx(expected, abs=0.02)
    with pytest.raises(ValueError, match="pass hole='white'"):
        MaskBank.from_folder(shared / "data/masks/nvidia", hole="black", hole_ratio=(0.5, 0.6))


def save_mask(path, holes: np.ndarray) -> None:
    Image.fromarray((holes * 255).astype(np.uint8)).save(path)


def test_from_folder_polarity_selection_and_order(tmp_path):
    for name, ratio in (("b", 0.25), ("a", 0.5), ("c", 0.75)):
        holes = np.zeros((512, 512), bool)
        holes[: int(512 * ratio)] = True
        save_mask(tmp_path / f"{name}.png", holes)
    assert MaskBank.from_folder(tmp_path, "white").hole_ratios.tolist() == [0.5, 0.25, 0.75]
    assert MaskBank.from_folder(tmp_path, "black").hole_ratios.tolist() == [0.5, 0.75, 0.25]
    assert MaskBank.from_folder(tmp_path, "white", (0.2, 0.3)).hole_ratios.tolist() == [0.25]
    assert MaskBank.from_folder(tmp_path, "white", (0.25, 0.5)).hole_ratios.tolist() == [0.5, 0.25]  # both ends count
    for hole, other in (("white", "black"), ("black", "white")):
        with pytest.raises(ValueError, match=rf"25% to 75%.*none within the hole ratio 0.8 to 0.9.*hole='{other}'"):
            MaskBank.from_folder(tmp_path, hole, (0.8, 0.9))


def test_from_folder_enlarges_without_blurring_and_cuts_at_half_grey(tmp_path):
    holes = np.random.default_rng(0).random((64, 64)) > 0.5
    save_mask(tmp_path / "small.png", holes)
    expected = ~holes.repeat(8, axis=0).repeat(8, axis=1)
    assert (masks_of(MaskBank.from_folder(tmp_path, "white"))[0] == expected).all()
    coloured = np.where(holes[:, :, None], [255, 250, 240], [0, 10, 20]).astype(np.uint8)
    coloured[0, :5], coloured[1, :5] = 128, 127  # few enough to be the edges of a JPEG file
    Image.fromarray(coloured).save(tmp_path / "small.png")
    mask = masks_of(MaskBank.from_folder(tmp_path, "white"))[0]
    assert not mask[:8, :40].any() and mask[8:16, :40].all() and (mask[16:] == expected[16:]).all()


def test_a_bank_says_what_it_holds():
    assert repr(MaskBank(np.eye(4, dtype=bool)[None])) == "MaskBank(1 masks, hole ratio 0.750 to 0.750)"


def test_samples_are_a_function_of_the_generator_and_half_of_them_flipped():
    bank = MaskBank(np.random.default_rng(0).random((5, 16, 16)) > 0.5)
    first, again, other = (bank.sample(9, 16, generator=counter_generator(number)) for number in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    corner = np.zeros((1, 2, 2), bool)
    corner[0, 0, 0] = True  # where it ends up says which flips there were
    drawn = MaskBank(corner).sample(4000, 2, generator=counter_generator(0)).float().mean(dim=(0, 1))
    torch.testing.assert_close(drawn, torch.full((2, 2), 0.25), atol=0.03, rtol=0)


def test_from_folder_errors_name_the_file(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        MaskBank.from_folder(tmp_path / "missing", "white")
    with pytest.raises(ValueError, match="holds no mask files"):
        MaskBank.from_folder(tmp_path, "white")
    with pytest.raises(ValueError, match="'white' or 'black'"):
        MaskBank.from_folder(tmp_path, "grey")
    Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (256, 1))).save(tmp_path / "photo.png")
    with pytest.raises(ValueError, match="photo.png.*not a binary mask"):
        MaskBank.from_folder(tmp_path, "white")
    (tmp_path / "photo.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="photo.png.*cannot be read"):
        MaskBank.from_folder(tmp_path, "white")


@pytest.mark.parametrize("size", [(64, 64), (50, 70), (512, 512), (600, 530)])
def test_sample_is_a_flipped_stored_mask_resized_as_pillow_does(size):
    bank = MaskBank(np.random.default_rng(0).random((3, 121, 91)) > 0.5)
    sample = bank.sample(20, size, generator=counter_generator(1))
    assert sample.shape == (20, 1, *size) and sample.dtype == torch.bool
    stored = [Image.fromarray(mask) for mask in masks_of(bank)]
    resized = [np.asarray(mask.resize(size[::-1], Image.Resampling.NEAREST)) > 0 for mask in stored]
    variants = {variant.tobytes() for mask in resized
                for variant in (mask, mask[::-1], mask[:, ::-1], mask[::-1, ::-1])}  # fmt: skip
    drawn = {mask[0].numpy().tobytes() for mask in sample}
    assert drawn <= variants
    assert len(drawn) > 6  # several masks, several flips


def test_without_leaves_out_what_another_bank_holds():
    masks = np.random.default_rng(0).random((6, 16, 16)) > 0.5
    left = MaskBank(masks).without(MaskBank(masks[[1, 4]]))
    assert torch.equal(torch.stack([left[i] for i in range(4)]), torch.from_numpy(masks[[0, 2, 3, 5]]))
    torch.testing.assert_close(left.hole_ratios, MaskBank(masks[[0, 2, 3, 5]]).hole_ratios)
    with pytest.raises(ValueError, match="all 6 masks are in the other bank"):
        MaskBank(masks).without(MaskBank(masks))
    assert len(MaskBank.patches().without(MaskBank(masks))) == 1


def test_split_is_disjoint_complete_and_mixed():
    masks = np.random.default_rng(0).random((10, 16, 16)) > 0.5
    train, test = MaskBank(masks).split(0.5)
    assert [len(train), len(test)] == [5, 5]
    keys = [{mask.tobytes() for mask in masks_of(bank)} for bank in (train, test)]
    assert not keys[0] & keys[1] and keys[0] | keys[1] == {mask.tobytes() for mask in masks}
    assert {len(bank) for bank in MaskBank(masks).split(0.3)} == {3, 7}
    # Every second mask, and the first ones to the second bank.
    assert [mask.tobytes() for mask in masks_of(train)] == [mask.tobytes() for mask in masks[1::2]]
    # Both halves of an ordered bank get easy and hard masks.
    assert keys[0] != {mask.tobytes() for mask in masks[:5]}
    with pytest.raises(ValueError, match="cannot be split"):
        MaskBank(masks[:1]).split(0.5)


def test_patches_remove_whole_patches_at_the_size_of_the_image():
    bank = MaskBank.patches(ratio=0.75, patch=16)
    keep = bank.sample(8, (64, 48), generator=counter_generator(0))
    cells = keep.float().unfold(2, 16, 16).unfold(3, 16, 16).mean(dim=(4, 5))
    assert set(cells.unique().tolist()) == {0.0, 1.0}
    assert (cells.sum(dim=(1, 2, 3)) == 3).all()  # a quarter of 4 x 3 patches
    assert len({mask.numpy().tobytes() for mask in keep}) > 4
    assert bank.sample(1, (20, 20)).shape == (1, 1, 20, 20)
    assert bank.hole_ratios.tolist() == [0.75]


def test_a_bank_counts_its_holes_and_takes_nothing_but_masks():
    masks = np.random.default_rng(0).random((3, 10, 13)) > 0.3
    expected = [np.count_nonzero(~mask) / 130 for mask in masks]
    assert MaskBank(masks).hole_ratios.tolist() == pytest.approx(expected)
    for wrong in (masks[0], masks.astype(np.uint8), masks[:0]):
        with pytest.raises(ValueError, match=r"MaskBank takes \(N, H, W\) bool masks with N >= 1, got"):
            MaskBank(wrong)


@pytest.mark.parametrize("fraction", [0.0, 1.0, 1.5, -0.5])
def test_a_split_needs_a_share_between_none_and_all(fraction):
    with pytest.raises(ValueError, match=f"between 0 and 1, got {fraction}"):
        MaskBank(np.ones((4, 2, 2), bool)).split(fraction)


@pytest.mark.parametrize(("ratio", "patch"), [(0.0, 16), (1.0, 16), (1.5, 16), (0.5, 0)])
def test_patches_need_a_share_and_a_size(ratio, patch):
    with pytest.raises(ValueError, match=rf"patches need a ratio in \(0, 1\).*, got {ratio}, {patch}"):
        MaskBank.patches(ratio, patch)


def test_patches_are_a_function_of_the_generator():
    bank = MaskBank.patches(0.5, 1)  # single pixels, too
    first, again, other = (bank.sample(2, 8, generator=counter_generator(number)) for number in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.shape == (2, 1, 8, 8) and (first.sum(dim=(1, 2, 3)) == 32).all()
    assert bank[0].shape == (512, 512) and torch.equal(bank[0], bank[0]) and bank[0].float().mean() == 0.5
    with pytest.raises(IndexError, match="1"):
        bank[1]


@pytest.mark.parametrize("hole_ratio", [(0.6, 0.5), (-0.1, 0.5), (0.5, 1.1), (0.5, 0.5)])
def test_senseless_intervals_are_refused(hole_ratio):
    with pytest.raises(ValueError, match="hole_ratio"):
        MaskBank.generate(1, hole_ratio)


def test_several_masks_of_a_bank_at_once():
    keep = np.random.default_rng(0).random((5, 13, 19)) > 0.5
    bank = MaskBank(keep)
    assert np.array_equal(bank[1:3], keep[1:3]) and np.array_equal(bank[[0, 4]], keep[[0, 4]])
    assert np.array_equal(bank[-1], keep[4])
    with pytest.raises(TypeError):
        MaskBank.patches()[0:2]


def test_sizes_are_whole_numbers_of_any_type():
    bank = MaskBank(np.ones((2, 13, 19), dtype=bool))
    assert bank.sample(2, np.int64(8)).shape == bank.sample(2, (np.int32(8), 8)).shape == (2, 1, 8, 8)
    assert MaskBank.patches(patch=4).sample(2, np.int64(8)).shape == (2, 1, 8, 8)
    with pytest.raises(TypeError):
        bank.sample(2, (8.0, 8))


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0, 4), (2, 4, 0)])
def test_masks_without_a_pixel_are_refused(shape):
    with pytest.raises(ValueError, match="bool masks with N >= 1, got bool"):
        MaskBank(np.ones(shape, dtype=bool))


def test_sizes_without_a_pixel_are_refused():
    for bank in (MaskBank(np.ones((2, 4, 4), dtype=bool)), MaskBank.patches()):
        for size in (0, -8, (4, 0)):
            with pytest.raises(ValueError, match="size must be at least 1 pixel"):
                bank.sample(2, size)
    bank = MaskBank(np.ones((2, 4, 4), dtype=bool))
    assert bank.without(MaskBank.patches()) is bank
