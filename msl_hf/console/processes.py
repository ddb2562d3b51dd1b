"""Work in processes of their own, and the memory of a process."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from .errors import RunError


def in_child(function: Callable, *arguments):
    """`function(*arguments)` in a fresh process, whose memory nothing else has touched."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def process_memory(name: str) -> float:
    """MB of this process: `VmRSS` now, `RssAnon` without mapped files, `VmHWM` at its peak.

    (getrusage's peak would start from that of the parent.)
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        raise RunError("memory is read from /proc/self/status, which only Linux has")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024
