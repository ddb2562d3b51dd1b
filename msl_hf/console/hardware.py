"""Getting the most out of the machine, and saying which it was."""

import contextlib
import ctypes
import platform
import sys

import torch
from transformers import TrainingArguments

from .. import SHARES_CORES
from ..cores import default_threads, default_workers
from .errors import RunError


def keep_freed_memory() -> None:
    """Have glibc keep freed activations instead of giving them back to the kernel after every step.

    Otherwise each step faults its memory in anew, page by page, which costs a fifth of a training step on a CPU.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            libc = ctypes.CDLL("libc.so.6")
            for parameter, value in ((-3, 2**31 - 1), (-1, 2**31 - 1), (-2, 2**28)):  # mmap, trim threshold; top pad
                libc.mallopt(parameter, value)


def set_cpu_threads(threads: int | None) -> int:
    """Give torch this many threads, or those of `cores.default_threads`: `accelerate launch` leaves it one."""
    if threads is not None and threads < 1:
        raise RunError(f"--cpu_threads must be at least 1, got {threads}")
    threads = default_threads() if threads is None else threads
    torch.set_num_threads(threads)
    return threads


def choose_workers(given: int | None, device: torch.device, is_main_process: bool = True) -> int:
    """Processes that read images: what was given, else what suits the device, which is printed where there are any."""
    workers = default_workers(device.type != "cpu") if given is None else given
    if workers and is_main_process:
        print(describe_workers(workers))
    return workers


def describe_workers(workers: int) -> str:
    """For the line that a run begins with."""
    return f"{workers} {'process reads' if workers == 1 else 'processes read'} images"


def describe_threads(threads: int) -> str:
    """The CPU threads of a process, and whether they make room for others, for the line that a run begins with."""
    room = ", which give up their cores while they wait, because others run here (OMP_WAIT_POLICY=PASSIVE)"
    return f"{threads} CPU threads{room if SHARES_CORES else ''}"


def describe_hardware(training: TrainingArguments) -> str:
    """One line for the record."""
    processes = f"{training.world_size} x " if training.world_size > 1 else ""
    if training.device.type == "cuda":
        return f"{processes}{torch.cuda.get_device_name()}"
    return f"{processes}{torch.get_num_threads()} CPU threads ({platform.machine()})"
