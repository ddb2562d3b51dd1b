"""What the prediction of ever more images takes: images/s, and memory, which must not grow with them."""

import io
import runpy
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel

from ...console.processes import in_child, process_memory
from ...data.transforms import build_processor
from ...model import MSLForImageClassification

SIDE = 16  # of the images, in pixels
FILE_ROWS = 20_000
SHARD_ROWS = 10_000


def measure_prediction(sizes: Sequence[int], seed: int) -> Iterator[dict]:
    """`msl-hf predict --output FOLDER/` of streamed parquet files of tiny images by a tiny network.

    Each number of images has a process of its own; what it takes is the reading and writing, not the network.

    Args:
        sizes: Numbers of images.
        seed: Seed of the images and of the network.

    Returns:
        Of each size, as it is measured, `num_images`, `num_shards`, `images_per_second`, and `start_memory_mb` and
        `peak_memory_mb` of the process.
    """
    with tempfile.TemporaryDirectory() as folder:
        _write_model(Path(folder, "model"), seed)
        for count in sizes:
            data = Path(folder, f"data-{count}")
            _write_images(data, count, seed)
            yield in_child(_predict, f"{folder}/model", str(data), f"{folder}/labels-{count}/")


def _write_model(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    config = AutoConfig.for_model("vit", hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                  intermediate_size=32, image_size=SIDE, patch_size=8)  # fmt: skip
    names = [f"class_{index}" for index in range(20)]
    model = MSLForImageClassification.from_backbone(AutoModel.from_config(config), names, pretrained=False)
    model.save_pretrained(folder)
    build_processor(None, SIDE).save_pretrained(folder)


def _write_images(folder: Path, count: int, seed: int) -> None:
    """Files of FILE_ROWS PNG images, of which each hundredth is a new one."""
    import pyarrow as pa
    from pyarrow import parquet

    folder.mkdir()
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in range(100):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(file, "PNG")
        pictures.append(file.getvalue())
    starts = range(0, count, FILE_ROWS)
    for number, start in enumerate(starts):
        rows = range(start, min(start + FILE_ROWS, count))
        images = [{"bytes": pictures[row % 100], "path": None} for row in rows]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({"image": pa.array(images, kind)})
        name = f"test-{number:05d}-of-{len(starts):05d}.parquet"
        parquet.write_table(table, folder / name, row_group_size=1000)


def _predict(model: str, data: str, output: str) -> dict:
    """The command in this process, as `python -m msl_hf` runs it."""
    from pyarrow import parquet

    before, start = process_memory("VmRSS"), time.perf_counter()
    flags = {"model": model, "dataset": data, "image_column": "image", "streaming": True, "output": output,
             "rows_per_shard": SHARD_ROWS, "batch_size": 64, "use_cpu": True, "disable_tqdm": True}  # fmt: skip
    sys.argv = ["msl-hf", "predict", *(text for name, value in flags.items() for text in (f"--{name}", str(value)))]
    runpy.run_module("msl_hf", run_name="__main__")
    seconds = time.perf_counter() - start
    shards = sorted(Path(output).glob("*.parquet"))
    num_images = sum(parquet.read_metadata(file).num_rows for file in shards)
    return {
        "num_images": num_images,
        "num_shards": len(shards),
        "images_per_second": num_images / seconds,
        "start_memory_mb": before,
        "peak_memory_mb": process_memory("VmHWM"),
    }
