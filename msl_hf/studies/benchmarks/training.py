"""What surrounds the step: masks, the trainer's own work, a second process."""

import copy
import os
import socket
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch
import transformers

from ...console.hardware import keep_freed_memory
from ...console.speed import time_calls
from ...data.transforms import build_processor
from ...masks import MaskBank, apply_mask
from ...training import MSLTrainer, MSLTrainingArguments
from .steps import PUBLISHED, Batch, TrainerStep, make_step

STEPS = 6  # of a training run that is timed


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


def time_training(batch: Batch, use_cpu: bool) -> float:
    """Seconds of a step of `MSLTrainer.train` with data in memory and a log line after every step (median)."""
    rows = [{"pixel_values": image.cpu(), "labels": label.cpu()}
            for image, label in zip(batch.images, batch.labels, strict=True)]  # fmt: skip
    times, count = _StepTimes(), len(rows)
    with tempfile.TemporaryDirectory() as folder:
        arguments = MSLTrainingArguments(
            folder,
            use_cpu=use_cpu,
            max_steps=STEPS,
            save_strategy="no",
            per_device_train_batch_size=count,
            logging_steps=1,
            **PUBLISHED,
            disable_tqdm=True,
            report_to="none",
        )
        processor = build_processor(None, tuple(batch.images.shape[-2:]))
        masks = MaskBank.generate(200, hole_ratio=(0.5, 0.6))
        data = rows * arguments.world_size
        trainer = MSLTrainer(batch.model, arguments, masks, processor, train_dataset=data, callbacks=[times])
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return statistics.median(np.diff(times.begun)[1:])


def measure_trainer(batch: Batch, rounds: int) -> dict:
    """Time of a step of `MSLTrainer.train` (data in memory, logging in every step) over that of a bare step."""
    bare, ratios = make_step("bare", batch, MaskBank.generate(200, hole_ratio=(0.5, 0.6))), []
    device = batch.images.device
    for _ in range(rounds):
        copied = Batch(copy.deepcopy(batch.model), batch.images, batch.labels)
        whole = time_training(copied, use_cpu=device.type == "cpu")
        ratios.append(whole / statistics.median(time_calls(bare, device, 3, 0.2, 1)))
    return {"ratio": {"median": statistics.median(ratios), "spread": [min(ratios), max(ratios)]}}


def measure_processes(network: str, batch_size: int | None, rounds: int, seed: int) -> dict:
    """Images/s of training in two processes with a CPU thread each, over those of one process with one thread.

    Both give every process the same batch, and the gradients are averaged after every step.

    Returns:
        `one` and `two` (images/s of all processes, medians), and `ratio` with `median` and `spread`; 2 would be a
        second process for nothing.
    """
    speeds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for count, found in speeds.items():
            with socket.socket() as free:
                free.bind(("localhost", 0))
                port = free.getsockname()[1]
            with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
                jobs = [
                    pool.submit(_train_as_rank, rank, count, port, network, batch_size, seed) for rank in range(count)
                ]
                found.append(sum(job.result() for job in jobs))
    ratios = [two / one for one, two in zip(speeds[1], speeds[2], strict=True)]
    return {
        "one": statistics.median(speeds[1]),
        "two": statistics.median(speeds[2]),
        "ratio": {"median": statistics.median(ratios), "spread": [min(ratios), max(ratios)]},
    }


def _train_as_rank(rank: int, count: int, port: int, network: str, batch_size: int | None, seed: int) -> float:
    keep_freed_memory()
    torch.set_num_threads(1)
    if count > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count),
                          MASTER_ADDR="localhost", MASTER_PORT=str(port))  # fmt: skip
    batch = Batch.make(network, True, seed, batch_size)
    return len(batch.images) / time_training(batch, use_cpu=True)
