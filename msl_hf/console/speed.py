"""How long things take on this machine."""

import statistics
import time
from collections.abc import Callable

import torch

from ..model.views_msl import Views


def time_calls(
    call: Callable[[], object], device: torch.device, min_calls: int = 5, seconds: float = 1.0, warm_up: int = 2
) -> list[float]:
    """Seconds of each of several calls after a warm-up: at least `min_calls`, and until `seconds` are over."""
    durations: list[float] = []
    for number in range(1000):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        if number >= warm_up:
            durations.append(time.perf_counter() - start)
        if len(durations) >= min_calls and sum(durations) >= seconds:
            break
    return durations


def synchronize(device: torch.device) -> None:
    """Wait for the device, whose work is asynchronous on an accelerator."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def measure_inference(
    network: torch.nn.Module,
    size: tuple[int, int],
    device: torch.device,
    batch_size: int,
    views: Views | None = None,
) -> dict:
    """Latency of one image and throughput of a batch, of the network alone.

    Args:
        network: The model, which is put into evaluation mode.
        size: (H, W) of the input in pixels.
        device: Where the network is.
        batch_size: Images in a batch of the throughput.
        views: How the images are looked at; None is the plain pass.

    Returns:
        `latency_ms` (median), `latency_ms_p95`, `images_per_second` and `batch_size`.
    """
    network.eval()
    views = views or Views.parse("whole")

    def run(count: int, memory_format: torch.memory_format) -> Callable[[], object]:
        sizes = views.sizes(size)
        crops = [
            torch.randn(count, 3, *size_, device=device).contiguous(memory_format=memory_format) for size_ in sizes
        ]
        return lambda: views.logits(network, crops)

    with torch.inference_mode():
        latencies = time_calls(run(1, torch.contiguous_format), device, min_calls=20)
        batches = time_calls(run(batch_size, torch.channels_last), device)
    return {
        "latency_ms": 1000 * statistics.median(latencies),
        "latency_ms_p95": 1000 * sorted(latencies)[int(0.95 * (len(latencies) - 1))],
        "images_per_second": batch_size / statistics.median(batches),
        "batch_size": batch_size,
    }


def take_turns(calls: dict[str, Callable[[], object]], count: int, rounds: int) -> dict[str, list[float]]:
    """Images/s of each call, which works on `count` images, in each round: A B A B, so that all see one machine."""
    speeds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            speeds[name].append(count / statistics.median(time_calls(call, torch.device("cpu"), 1, 0.3, 1)))
    return speeds


def compare_speeds(over: list[float], under: list[float]) -> dict:
    """Median and spread of the ratio of two speeds within each round."""
    ratios = sorted(a / b for a, b in zip(over, under, strict=True))
    return {"median": statistics.median(ratios), "spread": [ratios[0], ratios[-1]]}
