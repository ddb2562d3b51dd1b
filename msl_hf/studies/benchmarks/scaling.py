"""How images/s and memory grow with the batch, the image, the classes and the heads."""

import os
import statistics
from collections.abc import Sequence

import torch

from ...console.hardware import keep_freed_memory
from ...console.processes import in_child, process_memory
from ...console.speed import time_calls
from ...masks import MaskBank
from .steps import NUM_HEADS, NUM_LABELS, Batch, make_step

BASE = {"batch_size": 8, "image_size": 224, "num_labels": NUM_LABELS, "num_heads": NUM_HEADS}
SWEEPS = {"batch_size": (1, 2, 4, 8, 16, 32), "image_size": (128, 224, 320, 448),
          "num_labels": (20, 80, 1_000, 10_000), "num_heads": (1, 2, 4, 8)}  # fmt: skip
AXES = {"batch_size": "images in a batch", "image_size": "side of the image (pixels)", "num_labels": "classes",
        "num_heads": "CSRA heads"}  # fmt: skip
SCALED = ("plain", "ours")


def measure_point(network: str, variant: str, threads: int, use_cpu: bool, seed: int, **settings) -> dict:
    """Images/s and peak memory (MB beyond the loaded libraries) of a training step, in a process of its own.

    Args:
        network: One of `NETWORKS`.
        variant: One of `VARIANTS`.
        threads: Of torch.
        use_cpu: Leave an accelerator alone.
        seed: Of weights, images and masks.
        **settings: `batch_size`, `image_size`, `num_labels`, `num_heads` where they differ from the network's own.
    """
    return in_child(_measure_point, network, variant, threads, use_cpu, seed, settings)


def _measure_point(network: str, variant: str, threads: int, use_cpu: bool, seed: int, settings: dict) -> dict:
    keep_freed_memory()
    torch.set_num_threads(threads)
    masks, before = MaskBank.generate(200, hole_ratio=(0.5, 0.6)), process_memory("VmRSS")
    batch = Batch.make(network, use_cpu, seed, **settings)
    device = batch.images.device
    step = make_step(variant, batch, masks)
    speed = len(batch.images) / statistics.median(time_calls(step, device, min_calls=3, seconds=0.5))
    on_cuda = device.type == "cuda"
    memory = torch.cuda.max_memory_allocated() / 2**20 if on_cuda else process_memory("VmHWM") - before
    return {"images_per_second": speed, "memory_mb": memory}


def measure_scaling(network: str, threads: int, use_cpu: bool, seed: int):
    """Yields {"quantity", "value", "variant", "images_per_second", "memory_mb"} for each point of `SWEEPS`."""
    for quantity, values in SWEEPS.items():
        for value in values:
            for variant in SCALED:
                settings = {**BASE, quantity: value}
                point = measure_point(network, variant, threads, use_cpu, seed, **settings)
                yield {"quantity": quantity, "value": value, "variant": variant, **point}


def plot_scaling(points: Sequence[dict], path: str | os.PathLike) -> None:
    """Images/s and memory over each quantity, a line for each variant, as a PNG.

    Args:
        points: Of `measure_scaling`.
        path: Where the PNG goes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 6), layout="constrained")
    axes = figure.subplots(2, len(AXES), sharex="col")
    names = {"plain": "plain training", "ours": "MSL"}
    for axis_column, (quantity, label) in zip(axes.T, AXES.items(), strict=True):
        for axis, key, unit in zip(axis_column, ("images_per_second", "memory_mb"), ("images/s", "MB"), strict=True):
            for variant in SCALED:
                chosen = [p for p in points if p["quantity"] == quantity and p["variant"] == variant]
                axis.plot([p["value"] for p in chosen], [p[key] for p in chosen], marker="o", label=names[variant])
            axis.set(ylabel=unit, ylim=(0, None))
            axis.grid(alpha=0.3)
        axis_column[1].set(xlabel=label, xscale="log", xticks=SWEEPS[quantity])
        axis_column[1].set_xticks([], minor=True)
        axis_column[1].set_xticklabels([f"{value:,}" for value in SWEEPS[quantity]])
    axes[0, 0].legend()
    figure.savefig(path, dpi=110)
