"""MS-COCO's JSON, of the official data set and as annotation tools export it -> the schema."""

import math
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from transformers.utils import logging

from ..files import (
    by_folders,
    listed,
    path_inside,
    read_json_lists,
    read_record,
)
from ..image_finder import ImageFinder
from ..schema import DataError, make_features
from .coco_files import KEYS, OFFICIAL, find_coco_files, folders_of, image_folders, named_split
from .samples import is_box

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
        keep_unlabelled: Keep the images without any label, which the literature leaves out; their number is logged.

    Returns:
        `datasets.DatasetDict` with those of the splits train and validation that exist. `objects.bbox` is
        [x, y, w, h] and `objects.area` that of the segmentation, both in pixels; `crowd` marks boxes around groups.
        Instances whose box is empty give a label but no object; their number is logged.

    Raises:
        DataError: naming the file and the record at fault.
    """
    root = Path(root)
    files = {name: root / "annotations" / f"instances_{part}{year}.json" for name, part in SPLITS.items()}
    files = {name: file for name, file in files.items() if file.is_file()}
    if not files:
        raise DataError(f"{root / 'annotations'}: holds no instances_train{year}.json, no instances_val{year}.json; "
                        "root must be the folder that holds annotations/ (is the year right?)")  # fmt: skip
    folders = {name: [root / f"{SPLITS[name]}{year}", root / "images" / f"{SPLITS[name]}{year}"] for name in files}
    return _load(files, folders, None, keep_unlabelled)


def read_coco(
    path: str | os.PathLike,
    year: int | None = None,
    keep_unlabelled: bool | None = None,
    train_json: str | None = None,
    val_json: str | None = None,
    image_dir: str | None = None,
):
    """Read COCO's JSON wherever tools put it.

    The official trees, `annotations/instances_*.json` beside `images/` (CVAT), `<split>/_annotations.coco.json`
    (Roboflow), `result.json` (Label Studio), one file of any name, or the files that the arguments name.

    Args:
        path: The folder, or the JSON file itself.
        year: Of an official tree that holds several.
        keep_unlabelled: Keep images without any label. None leaves them out of the official data sets, as the
            literature does, and keeps them elsewhere: what users export has its negatives on purpose.
        train_json: Annotations of the training images, instead of those that are found.
        val_json: Annotations of the validation images.
        image_dir: Where the images lie, instead of where they are found.

    Returns, Raises:
        As `load_coco`.
    """
    path = Path(path)
    root = path if path.is_dir() else path.parent
    if train_json or val_json:
        files = {name: Path(file) for name, file in (("train", train_json), ("validation", val_json)) if file}
    else:
        files = find_coco_files(path, year)
        if not files:
            raise DataError(f"{path}: holds no COCO annotations; name them with --train_json and --val_json")
    official = all(OFFICIAL.fullmatch(file.name) for file in files.values())
    keep = not official if keep_unlabelled is None else keep_unlabelled
    if image_dir is not None:
        root = Path(image_dir)
        if not root.is_dir():
            raise DataError(f"{root}: no such folder of images")
        folders = {name: [*folders_of(root, name), root] for name in files}
    else:
        folders = {name: image_folders(root, name, file) for name, file in files.items()}
    return _load(files, folders, root, keep, divide=not (train_json or val_json))


def _load(
    files: Mapping[str, Path],
    folders: Mapping[str, Sequence[Path]],
    root: Path | None,
    keep_unlabelled: bool,
    divide: bool = False,
):
    """Annotation files -> `DatasetDict`; one file at a time is in memory."""
    from datasets import Dataset, DatasetDict

    result, pending, num_left_out = DatasetDict(), {}, 0
    first: tuple[Path, dict[int | str, str]] | None = None
    for name, file in files.items():
        content = read_json_lists(file, *KEYS)
        categories = _read_categories(file, content)
        if first is None:
            first, groups = (file, categories), _groups(content, categories)
            has_unknown = any("neg_category_ids" in record for record in content["images"] if isinstance(record, dict))
            features = make_features(list(categories.values()), ignored=has_unknown, objects=True)
        if categories != first[1]:
            raise DataError(f"{file}: its categories differ from those of {first[0]}")
        is_of_all = divide and len(files) == 1 and not named_split(file)
        paths = _image_paths(None if is_of_all else name, file, content["images"], folders[name], root)
        columns, left_out = _read_split(file, content, categories, paths, keep_unlabelled)
        del content
        num_left_out += left_out
        parts = {name: columns}
        if is_of_all:  # its images may lie in folders of splits
            parts = _divided(name, columns, root, file)
        if groups:
            pending.update(parts)
        else:
            result.update({split: Dataset.from_dict(part, features=features) for split, part in parts.items()})
    if num_left_out:
        logger.warning(f"{num_left_out} images without any label are left out (--keep_unlabelled true keeps them)")
    if groups:
        names = _leave_out_groups(first[0], list(categories.values()), groups, pending.values())
        features = make_features(names, ignored=has_unknown, objects=True)
        result.update({name: Dataset.from_dict(columns, features=features) for name, columns in pending.items()})
    return result


def _divided(name: str, columns: dict[str, list], root: Path, file: Path) -> dict[str, dict[str, list]]:
    """The columns of each split, by the folders of splits that the images lie in."""
    splits = by_folders(columns["image"], root, file)
    if len(set(splits)) < 2:
        return {name: columns}
    return {
        split: {key: [value for value, other in zip(values, splits, strict=True) if other == split]
                for key, values in columns.items()}
        for split in dict.fromkeys(splits)
    }  # fmt: skip


def _groups(content: dict, categories: Mapping[int | str, str]) -> list[str]:
    """Categories that others have for a supercategory: Roboflow writes the data set itself as one."""
    pairs = [(record.get("supercategory"), str(record["name"]).strip()) for record in content["categories"]]
    parents = [parent for parent, name in pairs if isinstance(parent, str) and parent != name]
    own_parents = [name for parent, name in pairs if parent == name]  # COCO's person belongs to person
    return [name for name in categories.values() if name in parents and name not in own_parents]


def _leave_out_groups(file: Path, names: list[str], groups: list[str], splits: Collection[dict]) -> list[str]:
    """The class names without groups that no object of any split has; label indices in `splits` are moved up."""
    used = {label for columns in splits for labels in columns["labels"] for label in labels}
    kept = [index for index, name in enumerate(names) if name not in groups or index in used]
    if len(kept) == len(names):
        return names
    left_out = [name for index, name in enumerate(names) if index not in kept]
    logger.warning(f"{file}: {listed(left_out)}: the group of other categories, and no object's own; left out of the "
                   "classes")  # fmt: skip
    position = {old: new for new, old in enumerate(kept)}
    for columns in splits:
        for key in {"labels", "ignored"} & set(columns):
            columns[key] = [[position[label] for label in labels if label in position] for labels in columns[key]]
        for objects in columns["objects"]:
            objects["label"] = [position[label] for label in objects["label"]]
    return [names[index] for index in kept]


def _read_categories(file: Path, content: dict) -> dict[int | str, str]:
    """Category id -> name, in the order of the ids."""
    pairs = []
    for number, record in enumerate(content["categories"]):
        where = f"{file}: categories[{number}]"
        pairs.append(read_record(record, where, lambda r: (entry_id(r["id"]), str(r["name"]).strip())))
    if not pairs:
        raise DataError(f"{file}: has no categories")
    for kind, values in (("id", [pair[0] for pair in pairs]), ("name", [pair[1] for pair in pairs])):
        repeated = [value for value, count in Counter(values).items() if count > 1]
        if repeated:
            raise DataError(f"{file}: two categories have the {kind} {repeated[0]!r}; rename or merge them")
    return dict(sorted(pairs, key=lambda pair: (isinstance(pair[0], str), pair[0])))


def entry_id(value) -> int | str:
    """An id, which tools write as a number, as a number in quotes, or as a text of their own."""
    if type(value) is int:
        return value
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and (value[0] != "0" or value == "0") else value
    if isinstance(value, bool) or value is None:
        raise TypeError(f"{value!r} is no id")
    return int(value)


def _read_instance(record: dict) -> tuple[int | str, int | str, list[float] | None, float | None, bool]:
    area, bbox = record.get("area"), [float(side) for side in record.get("bbox") or []]
    if bbox and len(bbox) != 4:
        raise ValueError(f"bbox has {len(bbox)} numbers instead of 4")
    crowd = bool(record.get("iscrowd", 0))
    ids = entry_id(record["image_id"]), entry_id(record["category_id"])
    return *ids, bbox or None, None if area is None else float(area), crowd


def _read_split(
    file: Path,
    content: dict,
    categories: dict[int | str, str],
    paths: dict[int | str, str],
    keep_unlabelled: bool,
) -> tuple[dict[str, list], int]:
    """The columns of a split, and the number of images without labels that are left out."""
    position = {category: index for index, category in enumerate(categories)}
    labels: dict[int | str, set[int]] = {image_id: set() for image_id in paths}
    objects = {image_id: {name: [] for name in ("label", "bbox", "area", "crowd")} for image_id in paths}
    num_empty = 0
    for number, record in enumerate(content["annotations"]):
        where = f"{file}: annotations[{number}]"
        image_id, category, bbox, area, crowd = read_record(record, where, _read_instance)
        if image_id not in paths:
            raise DataError(f"{where}: its image_id {image_id} is not among the images")
        if category not in position:
            raise DataError(f"{where}: its category_id {category} is not among the categories")
        labels[image_id].add(position[category])
        if bbox is None:
            continue  # an image's label
        if not is_box(bbox):
            num_empty += 1
            continue
        if area is None or not math.isfinite(area):
            area = bbox[2] * bbox[3]
        values = (position[category], bbox, area, crowd)
        for column, value in zip(objects[image_id].values(), values, strict=True):
            column.append(value)
    if num_empty:
        logger.warning(f"{file}: {num_empty} instances have an empty box; they give labels but no objects")
    kept = [image_id for image_id in paths if keep_unlabelled or labels[image_id]]
    unknown = {name: None for name in ("truncated", "difficult", "visible")}
    known = _verified(file, content["images"], labels, position)
    columns = {
        **({"ignored": [sorted(set(position.values()) - known[image_id]) for image_id in kept]} if known else {}),
        "image": [paths[image_id] for image_id in kept],
        "labels": [sorted(labels[image_id]) for image_id in kept],
        "image_id": [str(image_id) for image_id in kept],
        "objects": [
            {**objects[image_id], **{name: [None] * len(objects[image_id]["label"]) for name in unknown}}
            for image_id in kept
        ],
    }
    return columns, len(paths) - len(kept)


def _verified(
    file: Path, images: list, labels: Mapping[int | str, set[int]], position: Mapping[int | str, int]
) -> dict[int | str, set[int]]:
    """Image id -> classes that were looked for. LVIS says so in `neg_category_ids`; empty for other files."""
    if not any("neg_category_ids" in record for record in images):
        return {}
    known = {}
    for number, record in enumerate(images):
        absent = read_record(record, f"{file}: images[{number}]", _absent_categories)
        image_id = entry_id(record["id"])
        known[image_id] = labels[image_id] | {position[category] for category in absent if category in position}
    return known


def _absent_categories(record: dict) -> list[int | str]:
    return [entry_id(category) for category in record.get("neg_category_ids") or ()]


def _image_paths(
    split: str | None, file: Path, images: list, folders: Sequence[Path], root: Path | None
) -> dict[int | str, str]:
    """Image id -> path. Official images are where they belong; those of exports are looked for."""
    finder = None if root is None else ImageFinder(root, folders)
    paths: dict[int | str, str] = {}
    for number, record in enumerate(images):
        where = f"{file}: images[{number}]"
        image_id, name = read_record(record, where, lambda r: (entry_id(r["id"]), str(r["file_name"])))
        if image_id in paths:
            raise DataError(f"{where}: there is an image with the id {image_id} already")
        if number == 0:
            checked = [folder for folder in folders if os.path.isfile(path_inside(folder, name, where))]
            first = (checked or folders)[0]
        path = path_inside(first, name, where)
        if finder is not None and not os.path.isfile(path):
            path = finder.expect(name, where, split)
        paths[image_id] = str(path)
    if finder is not None:
        finder.report()
    repeated = [path for path, count in Counter(paths.values()).items() if count > 1]
    if repeated:
        raise DataError(f"{file}: lists the image {repeated[0]} more than once")
    return paths
