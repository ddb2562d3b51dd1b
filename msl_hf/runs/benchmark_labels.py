"""How long annotations of the size of real data sets take to load, and how much memory."""

import json
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np

from ..data import load_coco
from ..data.coco import CLASSES
from .arguments import RunError

COCO_SIZE = (82_081, 604_907)  # images with labels and instances of COCO 2014 train


def measure_label_file(seed: int, size: tuple[int, int] = COCO_SIZE) -> dict:
    """`load_coco` on a synthetic annotation file, in a process of its own.

    Args:
        seed: Seed of the annotations.
        size: Number of images and of instances.

    Returns:
        `file_mb`, `seconds`, `peak_memory_mb` (beyond the loaded libraries), `dataset_mb` (the loaded data set).
    """
    with tempfile.TemporaryDirectory() as folder:
        file_mb = _write_coco(Path(folder), *size, seed)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return {"file_mb": file_mb, **pool.apply(_load, (folder,))}


def _write_coco(folder: Path, num_images: int, num_instances: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    image_ids = np.concatenate([np.arange(num_images), rng.integers(0, num_images, num_instances - num_images)])
    boxes = np.concatenate([rng.uniform(0, 400, (num_instances, 2)), rng.uniform(5, 200, (num_instances, 2))], axis=1)
    content = {
        "images": [{"id": i, "file_name": f"COCO_train2014_{i:012d}.jpg", "width": 640, "height": 480}
                   for i in range(num_images)],
        "annotations": [
            {"id": i, "image_id": int(image_id), "category_id": int(category), "bbox": [round(x, 2) for x in box],
             "area": round(box[2] * box[3], 2), "iscrowd": 0}
            for i, (image_id, category, box) in enumerate(
                zip(image_ids, rng.integers(1, len(CLASSES) + 1, num_instances), boxes.tolist(), strict=True)
            )
        ],
        "categories": [{"id": index + 1, "name": name} for index, name in enumerate(CLASSES)],
    }  # fmt: skip
    (folder / "annotations").mkdir()
    file = folder / "annotations" / "instances_train2014.json"
    file.write_text(json.dumps(content))
    return file.stat().st_size / 2**20


def _load(folder: str) -> dict:
    before, start = process_memory("VmRSS"), time.perf_counter()
    data = load_coco(folder)["train"]
    return {
        "seconds": time.perf_counter() - start,
        "peak_memory_mb": process_memory("VmHWM") - before,
        "dataset_mb": data.data.nbytes / 2**20,
        "num_images": len(data),
    }


def process_memory(name: str) -> float:
    """MB of this process: `VmRSS` now, `VmHWM` at its peak (getrusage would start from the parent's)."""
    status = Path("/proc/self/status")
    if not status.is_file():
        raise RunError("memory is read from /proc/self/status, which only Linux has")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024
