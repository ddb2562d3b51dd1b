"""What it takes from photographs to scores, against transformers' own pipeline."""

import copy
import statistics
from collections.abc import Callable

import numpy as np
import torch
import transformers
from PIL import Image

from ...console.speed import compare_speeds, take_turns
from ...data.transforms import build_processor
from .steps import Batch


def measure_inference_ways(batch: Batch, rounds: int, seed: int, compiled: bool) -> dict:
    """Images/s of PIL images to scores: transformers' pipeline image by image, and each improvement upon it.

    Returns:
        For `pipeline`, and, each including the one before, `batched` (16 images), `channels_last`, `bf16` (autocast),
        and where `compiled`, which takes minutes, for `compiled` (in float32) and `bf16_compiled`: `images_per_second`
        (median) and `ratio` to the pipeline, `median` and `spread`. For `reading_alone`, the image processor's share:
        `images_per_second`.
    """
    rng, (height, width) = np.random.default_rng(seed), batch.images.shape[-2:]
    pictures = [Image.fromarray(rng.integers(0, 255, (375, 500, 3), dtype=np.uint8)) for _ in range(16)]
    processor, device = build_processor(None, (height, width)), batch.images.device
    plain = batch.model.eval()
    fast = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    classify = transformers.pipeline("image-classification", model=plain, image_processor=processor, device=device)

    def read() -> torch.Tensor:
        return processor(pictures, return_tensors="pt")["pixel_values"].to(device)

    def batched(network, memory_format, bf16: bool = False) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                return network(read().contiguous(memory_format=memory_format)).logits.sigmoid()

        return run

    ways = {
        "pipeline": lambda: [classify(picture) for picture in pictures],
        "reading_alone": read,
        "batched": batched(plain, torch.contiguous_format),
        "channels_last": batched(fast, torch.channels_last),
        "bf16": batched(fast, torch.channels_last, bf16=True),
    }
    if compiled:
        program = torch.compile(fast)
        ways["compiled"] = batched(program, torch.channels_last)
        ways["bf16_compiled"] = batched(program, torch.channels_last, bf16=True)
    speeds = take_turns(ways, len(pictures), rounds)
    result = {name: {"images_per_second": statistics.median(values)} for name, values in speeds.items()}
    for name in [name for name in ways if name not in ("pipeline", "reading_alone")]:
        result[name]["ratio"] = compare_speeds(speeds[name], speeds["pipeline"])
    return result
