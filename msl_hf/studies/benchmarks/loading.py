"""What reading, augmenting and masking images costs, against the usual way."""

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from ...console.speed import compare_speeds, take_turns
from ...data.schema import make_features
from ...data.transforms import CROP_RATIO, CROP_SCALE, ImageDataset, build_processor, normalized
from ...masks import MaskBank, apply_mask

# Name -> width and height of the JPEG files, side of the network's input, how many files.
LOADS = {"500x375_to_224": (500, 375, 224, 32), "500x375_to_448": (500, 375, 448, 32),
         "12_megapixels_to_224": (4000, 3000, 224, 4)}  # fmt: skip


def measure_loading(name: str, rounds: int, seed: int) -> dict:
    """Images/s of one process with one thread: what a loader's worker does, against PIL and torchvision's transforms.

    Our worker decodes, crops, resizes and stacks a batch of uint8 pixels; normalising and masking are the device's.
    The usual one decodes in full, crops, resizes and normalises through torchvision's transforms of PIL images, and
    reads a mask file, resizes it and multiplies, for every image.

    Returns:
        Images/s (medians) of `ours`, of `floats` (ours, with images normalised by the worker), of `all` (ours, with
        normalising and masking of the batch in the same process) and of `usual`; the ratios of the first three to the
        last, each with `median` and `spread` over the rounds: `ratio`, `ratio_floats`, `ratio_all`; and the megabytes
        of a batch of 32, `batch_mb` and `batch_mb_floats`.
    """
    width, height, side, count = LOADS[name]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a worker of a data loader has one
    try:
        with tempfile.TemporaryDirectory() as folder:
            paths, mask_paths = _write_files(Path(folder), width, height, count, seed)
            ways = {
                "ours": _our_loading(paths, side, seed),
                "floats": _our_loading(paths, side, seed, normalize=True),
                "all": _our_loading(paths, side, seed, mask=True),
                "usual": _usual_loading(paths, mask_paths, side),
            }
            speeds = take_turns(ways, count, rounds)
    finally:
        torch.set_num_threads(threads)
    result: dict = {way: statistics.median(values) for way, values in speeds.items()}
    for name, way in (("ratio", "ours"), ("ratio_floats", "floats"), ("ratio_all", "all")):
        result[name] = compare_speeds(speeds[way], speeds["usual"])
    pixels = 32 * 3 * side * side / 2**20
    return {**result, "batch_mb": pixels, "batch_mb_floats": 4 * pixels}


def _write_files(folder: Path, width: int, height: int, count: int, seed: int) -> tuple[list[str], list[str]]:
    """JPEG files with the frequencies of photographs (coarse structures and fine grain), and mask files."""
    rng, paths, mask_paths = np.random.default_rng(seed), [], []
    bank = MaskBank.generate(200, hole_ratio=(0.5, 0.6))
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).resize((width, height))
        grain = rng.normal(0, 6, (height, width, 1))
        pixels = (np.asarray(coarse, dtype=np.float32) + grain).clip(0, 255).astype(np.uint8)
        paths.append(str(folder / f"{number}.jpg"))
        Image.fromarray(pixels).save(paths[-1], quality=90)
        mask_paths.append(str(folder / f"mask{number}.png"))
        Image.fromarray((~bank[number].numpy()).astype(np.uint8) * 255).save(mask_paths[-1])
    return paths, mask_paths


def _our_loading(
    paths: list[str], side: int, seed: int, normalize: bool = False, mask: bool = False
) -> Callable[[], object]:
    from datasets import Dataset

    columns = {"image": paths, "labels": [[0]] * len(paths), "image_id": paths}
    processor = build_processor(None, side)
    data = Dataset.from_dict(columns, make_features(["object"]))
    images = ImageDataset(data, processor, augment=True, seed=seed, normalize=normalize)
    bank = MaskBank.generate(200, hole_ratio=(0.5, 0.6))

    def load() -> torch.Tensor:
        batch = torch.stack([images[index]["pixel_values"] for index in range(len(paths))])
        if not mask:
            return batch
        statistics_ = processor.image_mean, processor.image_std
        return apply_mask(normalized(batch, *statistics_), bank.sample(len(batch), side), *statistics_)

    return load


def _usual_loading(paths: list[str], mask_paths: list[str], side: int) -> Callable[[], object]:
    processor = build_processor(None, side)
    crop = transforms.RandomResizedCrop(side, CROP_SCALE, CROP_RATIO, transforms.InterpolationMode.BICUBIC)
    normalize = transforms.Normalize(processor.image_mean, processor.image_std)
    pipeline = transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.ToTensor(), normalize])

    def load() -> torch.Tensor:
        batch = []
        for path, mask_path in zip(paths, mask_paths, strict=True):
            pixels = pipeline(Image.open(path).convert("RGB"))
            mask = Image.open(mask_path).convert("L").resize((side, side), Image.Resampling.NEAREST)
            batch.append(pixels * (transforms.functional.to_tensor(mask) == 0))
        return torch.stack(batch)

    return load
