import itertools

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from torchvision.transforms.v2 import RandomResizedCrop
from transformers import AutoImageProcessor

from msl_hf.data import ImageDataset, build_processor, load_voc
from msl_hf.data.images import read_image
from msl_hf.data.schema import DataError, make_features, undecoded
from msl_hf.data.transforms import StreamedImages, augmented_pixels, normalized, random_crop


def test_saved_processor_reproduces_the_evaluation_transform(scenes, tmp_path):
    data = load_voc(scenes)["test"]
    processor = build_processor(None, (24, 40), image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7])
    processor.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    item = ImageDataset(data, processor)[4]
    assert item["pixel_values"].shape == (3, 24, 40) and item["labels"] == data[4]["labels"]
    assert torch.equal(loaded(data[4]["image"], return_tensors="pt")["pixel_values"][0], item["pixel_values"])
    # Squash-resized as Pillow does it, to a grey level or two.
    resized = np.asarray(data[4]["image"].resize((40, 24), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    expected = (torch.tensor(resized).permute(2, 0, 1) - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor(
        [0.5, 0.6, 0.7]
    ).view(3, 1, 1)
    assert (item["pixel_values"] - expected).abs().max() < 0.05


def test_processor_takes_the_statistics_of_the_backbone(shared):
    processor = build_processor(shared / "weights/tf_efficientnet_lite0", 160)
    assert list(processor.image_mean) == [0.5] * 3 and list(processor.image_std) == [0.5] * 3
    assert build_processor(None, 160).image_mean != processor.image_mean
    reference = build_processor(shared / "weights/tf_efficientnet_lite0", 160, [0.0] * 3, [1.0] * 3)
    assert list(reference.image_mean) == [0.0] * 3 and list(reference.image_std) == [1.0] * 3


def test_augmentation_is_a_function_of_seed_epoch_and_index(scenes):
    data, processor = load_voc(scenes)["train"], build_processor(None, 32)
    first, second, other_seed = (ImageDataset(data, processor, augment=True, seed=seed) for seed in (0, 0, 1))
    a = [first[index]["pixel_values"] for index in range(6)]
    b = [second[index]["pixel_values"] for index in reversed(range(6))][::-1]
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(other_seed[0]["pixel_values"], a[0])
    first.set_epoch(1)
    assert not torch.equal(first[0]["pixel_values"], a[0])
    first.set_epoch(0)
    assert torch.equal(first[0]["pixel_values"], a[0])


def test_first_epochs_may_have_images_of_another_size(scenes):
    data, processor = load_voc(scenes)["train"], build_processor(None, 32)
    images = ImageDataset(data, processor, augment=True, first_size=(16, 16), first_epochs=2)
    plain = ImageDataset(data, processor, augment=True)
    for epoch, side in ((0, 16), (1, 16), (2, 32)):
        images.set_epoch(epoch)
        plain.set_epoch(epoch)
        assert images[3]["pixel_values"].shape == (3, side, side)
    assert torch.equal(images[3]["pixel_values"], plain[3]["pixel_values"])
    assert ImageDataset(data, processor, first_size=(16, 16), first_epochs=2)[0]["pixel_values"].shape[1] == 32


def test_workers_see_the_epoch_change(scenes):
    data, processor = load_voc(scenes)["train"].select(range(4)), build_processor(None, 32)
    dataset = ImageDataset(data, processor, augment=True)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=4, num_workers=1, persistent_workers=True,
        collate_fn=lambda items: torch.stack([item["pixel_values"] for item in items]),
    )  # fmt: skip
    batches = []
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        batches += list(loader)
    assert not torch.equal(batches[0], batches[1])
    assert torch.equal(batches[1], torch.stack([dataset[index]["pixel_values"] for index in range(4)]))


@pytest.mark.parametrize(("height", "width"), [(100, 100), (200, 60), (3, 400)])
def test_crops_lie_within_the_image_and_the_interval(height, width):
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(300):
        top, left, crop_height, crop_width = random_crop(height, width, rng)
        assert 0 <= top <= top + crop_height <= height and 0 <= left <= left + crop_width <= width
        shares.append(crop_height * crop_width / (height * width))
    if height == width:
        assert min(shares) > 0.68 and max(shares) <= 1.0 and np.std(shares) > 0.05


def test_half_of_the_images_are_flipped():
    image = Image.fromarray(np.tile(np.linspace(0, 255, 32, dtype=np.uint8)[None, :, None], (32, 1, 3)))
    processor = build_processor(None, 16)
    flipped = 0
    for seed in range(200):
        pixels = augmented_pixels(image, processor, np.random.default_rng(seed))
        flipped += bool(pixels[0, 8, 0] > pixels[0, 8, -1])
        assert pixels.dtype == torch.uint8
    assert 70 < flipped < 130


def test_crops_of_the_whole_image_only_flip(scenes):
    data, processor = load_voc(scenes)["train"], build_processor(None, 32, [0.0] * 3, [1.0] * 3)
    images = ImageDataset(data, processor, augment=True, crop_scale=(1, 1))
    plain = ImageDataset(data, processor)
    flipped = 0
    for index in range(len(data)):
        augmented, whole = images[index]["pixel_values"], plain[index]["pixel_values"]
        is_flipped = (augmented - whole.flip(2)).abs().max() < 1e-3
        assert is_flipped or (augmented - whole).abs().max() < 1e-3
        flipped += int(is_flipped)
    assert 0 < flipped < len(data)


def test_stream_gives_every_row_once_an_epoch_in_another_order(scenes):
    data = load_voc(scenes)["train"]
    stream = StreamedImages(data.to_iterable_dataset(num_shards=4), build_processor(None, 32), augment=True, seed=3)
    expected = sorted(data.remove_columns("image")["labels"][:])
    orders = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        items = list(stream)
        orders.append([item["pixel_values"] for item in items])
        assert sorted(item["labels"] for item in items) == expected
    assert all(torch.equal(one, two) for one, two in zip(orders[0], orders[2], strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(orders[0], orders[1], strict=True))
    loader = torch.utils.data.DataLoader(stream, batch_size=5, num_workers=2, collate_fn=list)
    assert sorted(item["labels"] for batch in loader for item in batch) == expected


def test_bad_images_of_a_stream_stop_or_are_left_out(scenes, tmp_path):
    data = load_voc(scenes)["train"]
    paths = [row["image"]["path"] for row in undecoded(data)]
    paths[2] = str(tmp_path / "gone.jpg")
    feature = data.features["image"]
    data = data.remove_columns("image").add_column("image", paths).cast_column("image", feature).to_iterable_dataset()
    with pytest.raises(DataError, match="gone.jpg: no such image file"):
        list(StreamedImages(data, build_processor(None, 32)))
    assert len(list(StreamedImages(data, build_processor(None, 32), drop_bad_images=True))) == len(paths) - 1


def test_large_photographs_are_decoded_smaller_for_training_and_never_too_small(tmp_path, monkeypatch):
    """The same crop of a 2400 x 1600 photograph at full and at reduced decoding differs by a grey level or two."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8))
    small.resize((2400, 1600), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=95)
    row = {"image": {"path": str(tmp_path / "a.jpg"), "bytes": None}}
    assert read_image(row, (200, 150)).size == (300, 200) and read_image(row, (700, 100)).size == (1200, 800)
    assert read_image(row, (2000, 100)).size == (2400, 1600)
    processor, seen = build_processor(None, 100, [0.0] * 3, [1.0] * 3), []
    features = make_features(["cat"])
    data = Dataset.from_dict({"image": [row["image"]["path"]], "labels": [[0]], "image_id": ["a"]}, features=features)
    images = ImageDataset(data, processor, augment=True, crop_scale=(1, 1))
    fast = images[0]["pixel_values"]
    monkeypatch.setattr("msl_hf.data.transforms.read_image", lambda row, least: seen.append(least) or read_image(row))
    assert (fast - images[0]["pixel_values"]).abs().max() < 8 / 255 and seen == [(116, 116)]


@pytest.mark.parametrize(
    "size",
    [(480, 640), (427, 640), (360, 640), (640, 427), (250, 500), (500, 500)],
    ids=lambda size: "x".join(map(str, size)),
)
def test_crops_are_distributed_as_those_of_torchvision(size):
    """Mean share of the area and mean aspect ratio, on the sizes of real photographs."""
    height, width = size
    torch.manual_seed(0)
    reference = RandomResizedCrop(224, scale=(0.7, 1.0))
    image = torch.zeros(1, height, width)
    theirs = [reference.make_params([image]) for _ in range(6000)]
    rng = np.random.default_rng(0)
    ours = [random_crop(height, width, rng) for _ in range(6000)]
    ours = np.array([(h * w / height / width, w / h) for _, _, h, w in ours])
    theirs = np.array([(p["height"] * p["width"] / height / width, p["width"] / p["height"]) for p in theirs])
    assert np.abs(ours.mean(axis=0) - theirs.mean(axis=0)).max() < 0.01
    assert np.abs(ours.std(axis=0) - theirs.std(axis=0)).max() < 0.01


def test_what_no_draw_fits_is_cropped_at_the_centre():
    rng = np.random.default_rng(0)
    assert random_crop(100, 500, rng) == (0, 183, 100, 133)
    assert random_crop(500, 100, rng) == (183, 0, 133, 100)
    assert random_crop(100, 500, rng, (1.0, 1.0)) == (0, 0, 100, 500)


def test_interpolation_is_chosen_for_training_and_evaluation_alike():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8))
    bilinear, default = (
        build_processor(None, 16, [0.0] * 3, [1.0] * 3, "bilinear"),
        build_processor(None, 16, [0.0] * 3, [1.0] * 3),
    )
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    for processor, is_near in ((bilinear, True), (default, False)):
        evaluated = processor(image, return_tensors="pt")["pixel_values"][0].permute(1, 2, 0).numpy()
        trained = (
            augmented_pixels(image, processor, np.random.default_rng(1), (1.0, 1.0)).permute(1, 2, 0).numpy() / 255
        )
        trained = min(trained, trained[:, ::-1], key=lambda pixels: np.abs(pixels - expected).max())
        assert (
            (np.abs(evaluated - expected).max() < 2 / 255) == is_near == (np.abs(trained - expected).max() < 2 / 255)
        )
    with pytest.raises(ValueError, match="interpolation must be one of bilinear, .*, got 'cubic'"):
        build_processor(None, 16, interpolation="cubic")


def items_of(dataset, processor, **settings) -> list[torch.Tensor]:
    images = ImageDataset(dataset, processor, **settings)
    return [images[index]["pixel_values"] for index in range(6)]


@pytest.mark.parametrize("augment", [False, True])
def test_pixels_in_uint8_are_the_same_numbers(augment, scenes):
    processor, data = build_processor(None, 24), load_voc(scenes)["train"]
    floats = items_of(data, processor, augment=augment)
    pixels = items_of(data, processor, augment=augment, normalize=False)
    assert {image.dtype for image in pixels} == {torch.uint8} and floats[0].dtype == torch.float32
    found = normalized(torch.stack(pixels), processor.image_mean, processor.image_std)
    torch.testing.assert_close(found, torch.stack(floats), atol=1e-6, rtol=1e-6)
    exact = (torch.stack(pixels).double() / 255 - torch.tensor(processor.image_mean).double().view(3, 1, 1)) / (
        torch.tensor(processor.image_std).double().view(3, 1, 1)
    )
    assert (found - exact).abs().max() < 1e-6


@pytest.mark.parametrize("setting", [{"do_normalize": False}, {"rescale_factor": 1 / 127.5}, {"do_rescale": False}])
def test_a_processor_that_does_something_else_is_left_to_do_it(setting, scenes):
    processor, data = build_processor(None, 24), load_voc(scenes)["train"]
    for name, value in setting.items():
        setattr(processor, name, value)
    for plain, kept in zip(items_of(data, processor), items_of(data, processor, normalize=False), strict=True):
        assert torch.equal(kept, plain) and kept.dtype == torch.float32
        assert torch.equal(normalized(kept, processor.image_mean, processor.image_std), plain)


def test_uint8_needs_mean_and_deviation():
    with pytest.raises(ValueError, match="uint8, and nothing says how they are normalised"):
        normalized(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), None, None)


def test_what_is_passed_over_is_not_decoded(scenes, monkeypatch):
    """The first two batches of four are placeholders, and what follows is what it was."""
    read = []
    monkeypatch.setattr(
        "msl_hf.data.transforms.read_image", lambda row, *args: read.append(row) or read_image(row, *args)
    )
    data, processor = load_voc(scenes)["train"].to_iterable_dataset(3), build_processor(None, 16)
    stream = StreamedImages(data, processor, augment=True, shuffle_buffer=5)
    whole, count = list(stream), len(read)
    assert count == len(whole) == 24
    stream.pass_over(2, 4)
    rest = list(stream)
    assert len(rest) == 24 and len(read) - count == 16
    assert all(item["pixel_values"].shape == (3, 1, 1) for item in rest[:8])
    for item, expected in zip(rest[8:], whole[8:], strict=True):
        assert torch.equal(item["pixel_values"], expected["pixel_values"]) and item["labels"] == expected["labels"]
    stream.set_epoch(1)  # the pass after it is whole
    assert all(item["pixel_values"].shape == (3, 16, 16) for item in stream)


@pytest.mark.parametrize("num_files", [1, 4])
def test_processes_share_a_stream(num_files, scenes):
    """Files where there are enough, else rows; each pass has every row once, and is followed by another."""
    data = load_voc(scenes)["train"]
    shares = []
    for rank in range(2):
        stream = StreamedImages(data.to_iterable_dataset(num_files), build_processor(None, 16), shuffle_buffer=3)
        stream.deal(rank, 2)
        stream.deal(rank, 2)  # again is not twice
        shares.append([item["image_id"] for item in itertools.islice(stream, 24)])
    for number in (0, 12):
        names = sorted(shares[0][number : number + 12] + shares[1][number : number + 12])
        assert names == sorted(data["image_id"][:])
    assert shares[0][:12] != shares[0][12:]  # in another order
