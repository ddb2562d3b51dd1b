"""MS-COCO: images and `instances_*.json` -> the schema."""

import os
from collections import Counter
from pathlib import Path

from transformers.utils import logging

from .schema import DataError, make_features, path_inside, read_json_lists, read_record

logger = logging.get_logger(__name__)

SPLITS = {"train": "train", "validation": "val"}  # ours -> COCO's
CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip


def load_coco(root: str | os.PathLike, year: int = 2014, keep_unlabelled: bool = False):
    """Load the multi-label task of COCO 2014, 2017 or any data set stored as they are.

    An image shows a class when an instance of it is annotated, single or in a crowd. Classes come in the order of the
    category ids.

    Args:
        root: Holds `annotations/instances_train<year>.json`, `train<year>/`, and the same for `val`.
        year: 2014 or 2017.
        keep_unlabelled: Keep the images without any label, which the literature leaves out.

    Returns:
        `datasets.DatasetDict` with those of the splits train and validation that exist. `objects.bbox` is
        [x, y, w, h] and `objects.area` that of the segmentation, both in pixels; `crowd` marks boxes around groups.
        Instances whose box is empty give a label but no object; their number is logged.

    Raises:
        DataError: naming the file and the record at fault.
    """
    from datasets import Dataset, DatasetDict

    root = Path(root)
    files = {name: root / "annotations" / f"instances_{part}{year}.json" for name, part in SPLITS.items()}
    files = {name: file for name, file in files.items() if file.is_file()}
    if not files:
        raise DataError(f"{root / 'annotations'}: holds no instances_train{year}.json, no instances_val{year}.json; "
                        "root must be the folder that holds annotations/ (is the year right?)")  # fmt: skip
    result, first = DatasetDict(), None
    for name, file in files.items():
        content = read_json_lists(file, "images", "annotations", "categories")
        categories = _read_categories(file, content)
        first = first or (file, categories)
        if categories != first[1]:
            raise DataError(f"{file}: its categories differ from those of {first[0]}")
        columns = _read_split(file, content, categories, root / f"{SPLITS[name]}{year}", keep_unlabelled)
        result[name] = Dataset.from_dict(columns, features=make_features(list(categories.values()), objects=True))
    return result


def _read_categories(file: Path, content: dict) -> dict[int, str]:
    """Category id -> name, in the order of the ids."""
    pairs = []
    for number, record in enumerate(content["categories"]):
        pairs.append(read_record(record, f"{file}: categories[{number}]", lambda r: (int(r["id"]), str(r["name"]))))
    categories = dict(sorted(pairs))
    if not pairs or not len(set(categories.values())) == len(categories) == len(pairs):
        raise DataError(f"{file}: its categories are empty, or an id or a name occurs twice")
    return categories


def _read_instance(record: dict) -> tuple[int, int, list[float], float | None, bool]:
    area, bbox = record.get("area"), [float(side) for side in record["bbox"]]
    if len(bbox) != 4:
        raise ValueError(f"bbox has {len(bbox)} numbers instead of 4")
    crowd = bool(record.get("iscrowd", 0))
    return int(record["image_id"]), int(record["category_id"]), bbox, None if area is None else float(area), crowd


def _read_split(
    file: Path, content: dict, categories: dict[int, str], folder: Path, keep_unlabelled: bool
) -> dict[str, list]:
    paths: dict[int, str] = {}
    for number, record in enumerate(content["images"]):
        where = f"{file}: images[{number}]"
        image_id, name = read_record(record, where, lambda r: (int(r["id"]), str(r["file_name"])))
        if image_id in paths:
            raise DataError(f"{where}: there is an image with the id {image_id} already")
        paths[image_id] = str(path_inside(folder, name, where))
    repeated = [path for path, count in Counter(paths.values()).items() if count > 1]
    if repeated:
        raise DataError(f"{file}: lists the image {repeated[0]} more than once")
    position = {category: index for index, category in enumerate(categories)}
    labels: dict[int, set[int]] = {image_id: set() for image_id in paths}
    objects = {image_id: {name: [] for name in ("label", "bbox", "area", "crowd")} for image_id in paths}
    num_empty = 0
    for number, record in enumerate(content["annotations"]):
        where = f"{file}: annotations[{number}]"
        image_id, category, (x, y, width, height), area, crowd = read_record(record, where, _read_instance)
        if image_id not in paths:
            raise DataError(f"{where}: its image_id {image_id} is not among the images")
        if category not in position:
            raise DataError(f"{where}: its category_id {category} is not among the categories")
        labels[image_id].add(position[category])
        if not (width > 0 and height > 0):
            num_empty += 1
            continue
        values = (position[category], [x, y, width, height], width * height if area is None else area, crowd)
        for column, value in zip(objects[image_id].values(), values, strict=True):
            column.append(value)
    if num_empty:
        logger.warning(f"{file}: {num_empty} instances have an empty box; they give labels but no objects")
    kept = [image_id for image_id in paths if keep_unlabelled or labels[image_id]]
    unknown = {name: None for name in ("truncated", "difficult", "visible")}
    return {
        "image": [paths[image_id] for image_id in kept],
        "labels": [sorted(labels[image_id]) for image_id in kept],
        "image_id": [str(image_id) for image_id in kept],
        "objects": [
            {**objects[image_id], **{name: [None] * len(objects[image_id]["label"]) for name in unknown}}
            for image_id in kept
        ],
    }
