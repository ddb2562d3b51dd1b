"""What data of the size of real data sets cost: seconds and memory of annotations, memory of images."""

import io
import itertools
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from ...console.processes import in_child, process_memory
from ...data import ImageDataset, build_processor, load_coco, load_image_folder
from ...data.readers.coco import CLASSES
from ...data.schema import make_features
from ...data.transforms import StreamedImages

COCO_SIZE = (82_081, 604_907)  # images with labels and instances of COCO 2014 train
LARGE_SIZE = (9_000_000, 600)  # images and classes, as in OpenImages
SHARD_ROWS = 1_000_000
STREAMED = 10_000  # rows that are read of a stream
IMAGES = (20_000, 200_000)  # photographs of a data set, and bytes of each: 4 GB
MEMORY_MB = 2048  # what a process that reads them may have beyond the loaded libraries


def measure_label_file(seed: int, size: tuple[int, int] = COCO_SIZE) -> dict:
    """`load_coco` on a synthetic annotation file, in a process of its own.

    Args:
        seed: Seed of the annotations.
        size: Number of images and of instances.

    Returns:
        `file_mb`, `num_images`, `seconds`, `peak_memory_mb` (beyond the loaded libraries), `dataset_mb` (the loaded
        data set).
    """
    with tempfile.TemporaryDirectory() as folder:
        file_mb = _write_coco(Path(folder), *size, seed)
        return {"file_mb": file_mb, **in_child(_load_coco, folder)}


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


def _load_coco(folder: str) -> dict:
    before, start = process_memory("VmRSS"), time.perf_counter()
    data = load_coco(folder)["train"]
    return {
        "seconds": time.perf_counter() - start,
        "peak_memory_mb": process_memory("VmHWM") - before,
        "dataset_mb": data.data.nbytes / 2**20,
        "num_images": len(data),
    }


def measure_large_dataset(seed: int, size: tuple[int, int] = LARGE_SIZE) -> dict:
    """A synthetic data set in parquet shards, loaded memory-mapped and streamed, each in a process of its own.

    Its images are names of files that are not there: what is measured are rows and labels.

    Args:
        seed: Seed of the labels.
        size: Number of images and of classes.

    Returns:
        `file_mb`, `num_images`; under `mapped` and `streamed` `seconds` until the data set is there (mapped: the first
        time, when datasets writes its Arrow files, and `seconds_again`), `rows_per_second` when rows are then read,
        and `memory_mb` and `peak_memory_mb` beyond the loaded libraries, the first without pages of mapped files.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        result = {"file_mb": _write_parquet(data, *size, seed), "num_images": size[0]}
        cache = str(Path(folder, "cache"))
        first = in_child(_load_large, str(data), cache, False)
        again = in_child(_load_large, str(data), cache, False)
        mapped = {**first, "seconds_again": again["seconds"]}
        return {**result, "mapped": mapped, "streamed": in_child(_load_large, str(data), cache, True)}


def _write_parquet(folder: Path, num_images: int, num_classes: int, seed: int) -> float:
    """Shards of images with three labels on average; returns their size in MB."""
    import pyarrow as pa
    from pyarrow import parquet

    folder.mkdir()
    rng = np.random.default_rng(seed)
    schema = make_features([f"class {index}" for index in range(num_classes)]).arrow_schema
    starts = range(0, num_images, SHARD_ROWS)
    for shard, start in enumerate(starts):
        numbers = np.arange(start, min(start + SHARD_ROWS, num_images))
        names = pa.array(numbers).cast(pa.string())
        image = pa.StructArray.from_arrays([pa.nulls(len(names), pa.binary()), names], ["bytes", "path"])
        ends = np.concatenate([[0], rng.integers(0, 7, len(names)).cumsum()])
        labels = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(rng.integers(0, num_classes, ends[-1])))
        columns = {"image": image, "labels": labels, "image_id": names}
        table = pa.Table.from_arrays(
            [columns[name].cast(schema.field(name).type) for name in schema.names], schema=schema
        )
        parquet.write_table(table, folder / f"train-{shard:05d}-of-{len(starts):05d}.parquet")
    return sum(file.stat().st_size for file in folder.iterdir()) / 2**20


def _load_large(folder: str, cache: str, streaming: bool) -> dict:
    import datasets
    from datasets import Image

    datasets.config.HF_DATASETS_CACHE = Path(cache)
    datasets.disable_progress_bars()
    before = {name: process_memory(name) for name in ("RssAnon", "VmRSS")}
    start = time.perf_counter()
    data = load_image_folder(folder, streaming=streaming)["train"]
    seconds = time.perf_counter() - start
    rows = data.cast_column("image", Image(decode=False))
    start = time.perf_counter()
    if streaming:
        count = sum(1 for _ in itertools.islice(rows, STREAMED))
    else:
        count = STREAMED
        order = np.random.default_rng(0).integers(0, len(rows), count)
        for index in order.tolist():
            rows[index]
    return {
        "seconds": seconds,
        "rows_per_second": count / (time.perf_counter() - start),
        "memory_mb": process_memory("RssAnon") - before["RssAnon"],
        "peak_memory_mb": process_memory("VmHWM") - before["VmRSS"],
    }


def measure_images(seed: int, size: tuple[int, int] = IMAGES) -> dict:
    """All training images of a data set twice as large as the memory that the process may have.

    Args:
        seed: Seed of the images.
        size: Number of images and bytes of each.

    Returns:
        `data_mb`, `limit_mb`; under `mapped` and `streamed` `num_images`, `images_per_second`, and `memory_mb`: the
        most of the process's own memory (without pages of mapped files) in each quarter of the reading, beyond the
        loaded libraries.
    """
    with tempfile.TemporaryDirectory() as folder:
        data, cache = Path(folder, "data"), str(Path(folder, "cache"))
        result = {"data_mb": _write_images(data, *size, seed), "limit_mb": MEMORY_MB}
        for way in ("streamed", "mapped"):
            result[way] = in_child(_read_images, str(data), cache, way == "streamed", size[0])
    return result


def _write_images(folder: Path, count: int, size: int, seed: int) -> float:
    """Shards of JPEG files that differ in what follows the picture; returns their size in MB."""
    from datasets import Dataset, Features
    from PIL import Image

    rng, picture, features = np.random.default_rng(seed), io.BytesIO(), make_features(["one", "two"])
    Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).resize((500, 375)).save(picture, "JPEG", quality=90)
    features = {name: features[name] for name in ("image", "labels", "image_id")}
    shards = np.array_split(np.arange(count), max(1, count // 1000))
    folder.mkdir()
    for number, rows in enumerate(shards):
        tails = [rng.bytes(max(size - picture.tell(), 8)) for _ in rows]
        columns = {"image": [{"bytes": picture.getvalue() + tail, "path": None} for tail in tails],
                   "labels": [[index % 2] for index in rows], "image_id": [str(index) for index in rows]}  # fmt: skip
        shard = Dataset.from_dict(columns, features=Features(features))
        shard.to_parquet(folder / f"train-{number:05d}-of-{len(shards):05d}.parquet")
    return sum(file.stat().st_size for file in folder.iterdir()) / 2**20


def _read_images(folder: str, cache: str, streaming: bool, count: int) -> dict:
    import resource  # which Windows has not

    import datasets

    datasets.config.HF_DATASETS_CACHE = Path(cache)
    datasets.disable_progress_bars()
    limit = int(process_memory("VmData") + MEMORY_MB) * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    before, processor = process_memory("RssAnon"), build_processor(None, 224)
    data = load_image_folder(folder, streaming=streaming)["train"]
    if streaming:
        images = iter(StreamedImages(data, processor, augment=True))
    else:
        dataset = ImageDataset(data, processor, augment=True)
        images = (dataset[index] for index in np.random.default_rng(0).permutation(count).tolist())
    start, memory = time.perf_counter(), [0.0] * 4
    for number, _ in enumerate(images):
        quarter = 4 * number // count
        if number % 50 == 0:
            memory[quarter] = max(memory[quarter], process_memory("RssAnon") - before)
    return {
        "num_images": number + 1,
        "images_per_second": (number + 1) / (time.perf_counter() - start),
        "memory_mb": memory,
    }
