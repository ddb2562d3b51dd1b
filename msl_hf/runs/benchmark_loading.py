"""What reading, augmenting and masking images costs, and inference, against the usual ways."""

import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from datasets import Dataset
from PIL import Image
from torchvision import transforms

from ..data.schema import make_features
from ..data.transforms import CROP_RATIO, CROP_SCALE, ImageDataset, build_processor
from ..masks import MaskBank, apply_mask
from ..training import MSLTrainer, MSLTrainingArguments
from .benchmark_steps import Batch, TrainerStep, make_step
from .speed import time_calls

# Name -> width and height of the JPEG files, side of the network's input, how many files.
LOADS = {"500x375_to_224": (500, 375, 224, 32), "500x375_to_448": (500, 375, 448, 32),
         "12_megapixels_to_224": (4000, 3000, 224, 4)}  # fmt: skip
CPU = torch.device("cpu")


def measure_loading(name: str, rounds: int, seed: int) -> dict:
    """Images/s of one process with one thread: the package's loading and masking against PIL and torchvision's.

    The usual way decodes in full, crops, resizes and normalises through torchvision's transforms of PIL images, and
    reads a mask file, resizes it and multiplies, for every image.

    Returns:
        `ours` and `usual` (images/s, medians), and `ratio` with `median` and `spread` over the rounds.
    """
    width, height, side, count = LOADS[name]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a worker of a data loader has one
    try:
        with tempfile.TemporaryDirectory() as folder:
            paths, mask_paths = _write_files(Path(folder), width, height, count, seed)
            ours = _our_loading(paths, side, seed)
            usual = _usual_loading(paths, mask_paths, side)
            return _in_turn({"ours": ours, "usual": usual}, count, rounds)
    finally:
        torch.set_num_threads(threads)


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


def _our_loading(paths: list[str], side: int, seed: int) -> Callable[[], object]:
    columns = {"image": paths, "labels": [[0]] * len(paths), "image_id": paths}
    processor = build_processor(None, side)
    images = ImageDataset(Dataset.from_dict(columns, make_features(["object"])), processor, augment=True, seed=seed)
    bank = MaskBank.generate(200, hole_ratio=(0.5, 0.6))

    def load() -> torch.Tensor:
        batch = torch.stack([images[index]["pixel_values"] for index in range(len(paths))])
        keep = bank.sample(len(batch), side)
        return apply_mask(batch, keep, processor.image_mean, processor.image_std)

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


def measure_masking(batch: Batch, rounds: int) -> dict:
    """Seconds of drawing and laying a batch of masks, as a share of the training step around it."""
    bank = MaskBank.generate(1000, hole_ratio=(0.5, 0.6))
    processor = build_processor(None, tuple(batch.images.shape[-2:]))
    images, step = batch.images, TrainerStep(batch, bank)

    def mask() -> torch.Tensor:
        keep = bank.sample(len(images), images.shape[-2:], images.device)
        return apply_mask(images, keep, processor.image_mean, processor.image_std)

    shares = []
    for _ in range(rounds):
        masking, whole = (statistics.median(time_calls(call, images.device, 3, 0.2, 1)) for call in (mask, step))
        shares.append(masking / whole)
    return {"share": {"median": statistics.median(shares), "spread": [min(shares), max(shares)]}}


class _StepTimes(transformers.TrainerCallback):
    def __init__(self):
        self.begun: list[float] = []

    def on_step_begin(self, *_, **__):
        self.begun.append(time.perf_counter())


def measure_trainer(batch: Batch, rounds: int) -> dict:
    """Time of a step of `MSLTrainer.train` (data in memory, logging in every step) over that of a bare step."""
    bank, count = MaskBank.generate(200, hole_ratio=(0.5, 0.6)), len(batch.images)
    rows = [
        {"pixel_values": image.cpu(), "labels": label.cpu()}
        for image, label in zip(batch.images, batch.labels, strict=True)
    ]
    bare, ratios = make_step("bare", batch, bank), []
    processor = build_processor(None, tuple(batch.images.shape[-2:]))
    for _ in range(rounds):
        times = _StepTimes()
        with tempfile.TemporaryDirectory() as folder:
            arguments = MSLTrainingArguments(
                folder,
                use_cpu=batch.images.device.type == "cpu",
                max_steps=5,
                save_strategy="no",
                per_device_train_batch_size=count,
                logging_steps=1,
                disable_tqdm=True,
            )
            model = copy.deepcopy(batch.model)
            MSLTrainer(model, arguments, bank, processor, train_dataset=rows, callbacks=[times]).train()
        whole = statistics.median(np.diff(times.begun))
        ratios.append(whole / statistics.median(time_calls(bare, batch.images.device, 3, 0.2, 1)))
    return {"ratio": {"median": statistics.median(ratios), "spread": [min(ratios), max(ratios)]}}


def measure_pipeline(batch: Batch, rounds: int, seed: int) -> dict:
    """Images/s of PIL images to scores: in batches, channels-last, against transformers' pipeline image by image."""
    rng, (height, width) = np.random.default_rng(seed), batch.images.shape[-2:]
    pictures = [Image.fromarray(rng.integers(0, 255, (375, 500, 3), dtype=np.uint8)) for _ in range(16)]
    processor, device = build_processor(None, (height, width)), batch.images.device
    network = batch.model.eval()
    classify = transformers.pipeline("image-classification", model=network, image_processor=processor, device=device)

    def ours() -> torch.Tensor:
        with torch.inference_mode():
            pixel_values = processor(pictures, return_tensors="pt")["pixel_values"].to(device)
            return network(pixel_values.contiguous(memory_format=torch.channels_last)).logits.sigmoid()

    def one_by_one() -> list:
        return [classify(picture) for picture in pictures]

    network.to(memory_format=torch.channels_last)
    try:
        return _in_turn({"ours": ours, "usual": one_by_one}, len(pictures), rounds)
    finally:
        network.to(memory_format=torch.contiguous_format)


def _in_turn(calls: dict[str, Callable[[], object]], count: int, rounds: int) -> dict:
    speeds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            speeds[name].append(count / statistics.median(time_calls(call, CPU, 1, 0.3, 1)))
    ratios = sorted(ours / usual for ours, usual in zip(speeds["ours"], speeds["usual"], strict=True))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    return {**medians, "ratio": {"median": statistics.median(ratios), "spread": [ratios[0], ratios[-1]]}}
