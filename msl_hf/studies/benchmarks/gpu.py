"""What only a GPU shows, in tasks of a minute or less, so that an interruption loses one."""

import os
import socket
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback

from ...console.speed import synchronize
from ...cores import default_workers
from ...data.images import read_image
from ...data.transforms import augmented_pixels, build_processor
from ...masks import MaskBank
from ...model import MSLForImageClassification
from ...training import MSLTrainer, MSLTrainingArguments
from .steps import NETWORKS, Batch, make_step

STEP_NETWORKS = ("resnet101_448", "vit_base_384", "vit_base_448", "lite0_224")
BATCH_SIZES = (6, 16, 64)
STEP_VARIANTS = ("plain", "reference", "ours", "plain_bf16", "reference_bf16", "ours_bf16", "ours_bf16_compiled")
LOADED_SIZES = (224, 448)
TARGET = ("steps resnet101_448 batch 16", "ours_bf16", "reference", 4.0)  # images/s of the one over the other


@dataclass
class Size:
    """How much of everything; `quick` is what a CPU does in seconds, to see that all of it runs.

    Args:
        quick: Small images and few of them.
        rounds: Times that each variant is measured, in turn.
        seed: Of weights, images and masks.
        use_cpu: Leave an accelerator alone.
    """

    quick: bool
    rounds: int
    seed: int
    use_cpu: bool

    @property
    def device(self) -> torch.device:
        """Where it is measured."""
        has_gpu = torch.accelerator.is_available() and not self.use_cpu
        return torch.accelerator.current_accelerator() if has_gpu else torch.device("cpu")


def gpu_tasks(size: Size) -> dict[str, Callable[[], dict]]:
    """Name of each task -> what does it and returns figures for a JSON file."""
    networks, batches = (("lite0_224",), (2,)) if size.quick else (STEP_NETWORKS, BATCH_SIZES)
    tasks = {
        f"steps {network} batch {count}": lambda network=network, count=count: measure_steps(network, count, size)
        for network in networks
        for count in batches
    }
    for side in (32,) if size.quick else LOADED_SIZES:
        tasks[f"loader {side}"] = lambda side=side: measure_loader(side, size)
    tasks["sync_batch_norm"] = lambda: measure_sync_batch_norm(size)
    tasks["curves"] = lambda: measure_curves(size)
    return tasks


def measure_steps(network: str, count: int, size: Size) -> dict[str, dict]:
    """Images/s (`images_per_second` and `rounds`), `memory_mb` and `host_waits` of a training step of each variant.

    Host waits are those of the second of three steps, as `torch.cuda.set_sync_debug_mode` finds them; None without
    CUDA. A variant that does not fit into memory has `error` instead.
    """
    variants = ("plain", "reference", "ours") if size.quick else STEP_VARIANTS
    masks, found = MaskBank.generate(200, hole_ratio=(0.5, 0.6)), {variant: {"rounds": []} for variant in variants}
    batch = Batch.make(network, size.use_cpu, size.seed, count, image_size=32 if size.quick else None)
    for variant in variants:  # one after the other, so that the memory is that of one
        row = found[variant]
        try:
            step = make_step(variant, batch, masks)
            step()
            row["host_waits"] = count_host_waits(step, size.device)
            calls = 1 if size.quick else _calls_of_a_second(step, size.device)
            if size.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            for _ in range(size.rounds):
                row["rounds"].append(count * calls / _seconds(step, calls, size.device))
            row["images_per_second"] = statistics.median(row["rounds"])
            if size.device.type == "cuda":
                row["memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
        except torch.OutOfMemoryError as error:
            found[variant] = {"error": str(error).splitlines()[0]}
        step = None
        if size.device.type == "cuda":
            torch.cuda.empty_cache()
    return found


def count_host_waits(step: Callable[[], object], device: torch.device) -> int | None:
    """How often a step makes the host wait for a CUDA device; None for others, which do not say."""
    if device.type != "cuda":
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


def _seconds(step: Callable[[], object], calls: int, device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        step()
    synchronize(device)
    return time.perf_counter() - start


def _calls_of_a_second(step: Callable[[], object], device: torch.device) -> int:
    return max(3, int(3 / _seconds(step, 3, device)))


class _Files(Dataset):
    def __init__(self, paths: list[str], side: int, count: int):
        self.paths, self.processor, self.count = paths, build_processor(None, side), count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        path = self.paths[index % len(self.paths)]
        image = read_image({"image": {"path": path, "bytes": None}})
        return augmented_pixels(image, self.processor, np.random.default_rng(index))


def measure_loader(side: int, size: Size) -> dict:
    """Images/s of the training loader alone, from JPEG files of 500 x 375 pixels to uint8 pixels on the device.

    Returns:
        `workers`, `images_per_second`; the networks' own images/s stand in the other tasks.
    """
    workers = 1 if size.quick else max(1, default_workers(True))
    count, batch_size = (8, 2) if size.quick else (4096, 64)
    rng = np.random.default_rng(size.seed)
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number in range(min(count, 64)):
            coarse = Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).resize((500, 375))
            paths.append(str(Path(folder) / f"{number}.jpg"))
            coarse.save(paths[-1], quality=90)
        loader = DataLoader(_Files(paths, side, count), batch_size, num_workers=workers,
                            pin_memory=size.device.type == "cuda", persistent_workers=True)  # fmt: skip
        for batch in loader:  # the workers start
            batch.to(size.device)
        synchronize(size.device)
        start = time.perf_counter()
        for batch in loader:
            batch.to(size.device, non_blocking=True)
        synchronize(size.device)
        return {"workers": workers, "images_per_second": count / (time.perf_counter() - start)}


def measure_sync_batch_norm(size: Size) -> dict:
    """Batch normalisation over two processes with half of a batch each, against one with the whole batch.

    Returns:
        `difference`: the largest of the outputs, and of the running mean, which should be that of rounding; or `error`
        where there is no CUDA device, without which PyTorch has no synchronised batch normalisation.
    """
    if size.device.type != "cuda":
        return {"error": "PyTorch has no synchronised batch normalisation on a CPU"}
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_synchronised, rank, port, size.seed) for rank in range(2)]
        return {"difference": max(job.result() for job in jobs)}


def _synchronised(rank: int, port: int, seed: int) -> float:
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    device = torch.device("cuda", rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    # NCCL takes one process for each GPU, and there may be one GPU alone.
    dist.init_process_group("nccl" if torch.cuda.device_count() > 1 else "gloo", rank=rank, world_size=2)
    torch.manual_seed(seed)
    images = torch.randn(16, 8, 12, 12, device=device)
    norm = torch.nn.BatchNorm2d(8).to(device)
    together = torch.nn.SyncBatchNorm.convert_sync_batchnorm(torch.nn.BatchNorm2d(8)).to(device)
    expected, half = norm(images), images.chunk(2)[rank]
    outputs = (together(half) - expected.chunk(2)[rank]).abs().max()
    statistics_differ = (together.running_mean - norm.running_mean).abs().max()
    dist.destroy_process_group()
    return max(outputs.item(), statistics_differ.item())


class _BrightChannels(Dataset):
    """Noise in which class c brightens channel c."""

    def __init__(self, count: int, side: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.labels = (torch.rand(count, 3, generator=generator) > 0.5).float()
        self.images = torch.randn(count, 3, side, side, generator=generator) + self.labels[:, :, None, None]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


def measure_curves(size: Size) -> dict:
    """Loss every tenth step of the same training in float32 and in bfloat16.

    Returns:
        `float32` and `bfloat16`, lists of losses, and `gap`: the mean relative difference of the two.
    """
    side, steps, count = (32, 4, 8) if size.quick else (224, 200, 512)
    data, curves = _BrightChannels(count, side, size.seed), {}
    for name in ("float32", "bfloat16"):
        torch.manual_seed(size.seed)
        model = MSLForImageClassification.from_backbone(
            NETWORKS["lite0_224"][0], ["red", "green", "blue"], image_size=side, pretrained=False
        )
        AcceleratorState._reset_state()  # it is one for the process, and the two differ in precision
        with tempfile.TemporaryDirectory() as folder:
            arguments = MSLTrainingArguments(
                folder, use_cpu=size.device.type == "cpu", bf16=name == "bfloat16", max_steps=steps, seed=size.seed,
                per_device_train_batch_size=2 if size.quick else 16, logging_steps=1 if size.quick else 10,
                save_strategy="no", report_to="none", disable_tqdm=True, dataloader_num_workers=0,
            )  # fmt: skip
            trainer = MSLTrainer(model, arguments, processing_class=build_processor(None, side), train_dataset=data)
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        curves[name] = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    pairs = zip(curves["float32"], curves["bfloat16"], strict=True)
    return {**curves, "gap": statistics.mean(abs(a - b) / a for a, b in pairs)}
