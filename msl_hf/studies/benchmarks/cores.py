"""Training where other processes want the same cores: how OpenMP's threads wait."""

import os
import statistics
import subprocess
import sys
import time

import torch

from ...masks import MaskBank
from .steps import Batch, TrainerStep

LOADS = (0, 1, 2, 3)  # busy processes beside the training
SECONDS = 6.0  # of steps that are timed, in each process
LIMIT = 150.0  # seconds of a process
OPENMP = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
BUSY = "while True: pass"
STEP = """
from msl_hf.cores import default_threads
from msl_hf.studies.benchmarks.cores import time_steps
print(time_steps(default_threads()))
"""


def measure_shared_cores(rounds: int) -> dict:
    """Seconds of a step (lite0 at 96 pixels) idle and beside busy processes, as torch waits and as this package does.

    Both take turns; each time a process of its own, because OpenMP reads its settings once. Every process that is busy
    is one Python loop.

    Returns:
        Under the number of busy processes: `torch` and `ours`, medians over the rounds of the median step in seconds
        (37.5 where four of them were not done in 150), and `ratio`, theirs over ours in each round: `median` and
        `spread`. Under `beside_one`, our step beside one busy process over the idle one.
    """
    report: dict = {}
    for load in LOADS:
        seconds: dict[str, list[float]] = {"torch": [], "ours": []}
        for _ in range(rounds):
            for name, found in seconds.items():
                found.append(_time_in_child(load, name))
        ratios = sorted(theirs / ours for theirs, ours in zip(seconds["torch"], seconds["ours"], strict=True))
        report[str(load)] = {
            **{name: statistics.median(found) for name, found in seconds.items()},
            "ratio": {"median": statistics.median(ratios), "spread": [ratios[0], ratios[-1]]},
        }
    report["beside_one"] = report["1"]["ours"] / report["0"]["ours"]
    return report


def print_shared_cores(report: dict) -> None:
    """A line for each load."""
    for load in map(str, LOADS):
        row = report[load]
        print(f"{load} busy processes beside it: a step takes {row['torch']:.2f} s as torch waits, "
              f"{row['ours']:.2f} s as this package does ({row['ratio']['median']:.2f} times)")  # fmt: skip


def _time_in_child(load: int, name: str) -> float:
    environment = {key: value for key, value in os.environ.items() if key not in OPENMP}
    code = f"import torch{STEP}" if name == "torch" else STEP  # OpenMP reads its settings when torch is imported
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(load)]
    time.sleep(0.5)  # until they run
    try:
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True,
                              check=True, timeout=LIMIT)  # fmt: skip
        return float(done.stdout)
    except subprocess.TimeoutExpired:
        return LIMIT / 4
    finally:
        for process in others:
            process.kill()


def time_steps(threads: int) -> float:
    """Median seconds of a step of lite0 at 96 pixels in this process."""
    torch.set_num_threads(threads)
    batch = Batch.make("lite0_224", True, 0, image_size=96)
    step = TrainerStep(batch, MaskBank.generate(100, hole_ratio=(0.5, 0.6)))
    seconds, start = [], time.perf_counter()
    while len(seconds) < 4 or time.perf_counter() - start < SECONDS:
        begun = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:])
