"""WIDER-Attribute: photographs of people and two JSON files -> one sample for each person."""

import os
from pathlib import Path

from transformers.utils import logging

from ..files import path_inside, read_json_lists, read_record
from ..images import crop_box, upright_rgb
from ..schema import DataError, make_features
from .samples import is_box

logger = logging.get_logger(__name__)

SPLITS = {"train": "trainval", "test": "test"}  # ours -> WIDER's
CLASSES = (
    "Male", "longHair", "sunglass", "Hat", "Tshirt", "longSleeve", "formal", "shorts", "jeans", "longPants", "skirt",
    "faceMask", "logo", "stripe",
)  # fmt: skip


def load_wider(root: str | os.PathLike):
    """Load WIDER-Attribute: every person box is a sample, cut out of its photograph without a margin.

    Attribute 1 gives `labels`, 0 (unspecified) gives `ignored`, and -1 neither. What of a box lies outside the
    photograph is black. Persons whose box is empty are left out, and their number is logged.

    Args:
        root: Holds `Image/` and `wider_attribute_trainval.json`, `wider_attribute_test.json`, or the folder
            `wider_attribute_annotation/` with them.

    Returns:
        `datasets.DatasetDict` with those of the splits train (the official trainval) and test that exist. `image` is
        the person; `crop` the box [x, y, w, h] in pixels of the photograph; `image_id` the photograph and the
        person's number in it.

    Raises:
        DataError: naming the file and the record at fault.
    """
    from datasets import Dataset, DatasetDict

    root = Path(root)
    result, first = DatasetDict(), None
    for name, file in wider_files(root).items():
        content = read_json_lists(file, "images")
        class_names = _read_class_names(file, content)
        first = first or (file, class_names)
        if class_names != first[1]:
            raise DataError(f"{file}: its attributes differ from those of {first[0]}")
        columns = _read_split(file, content, len(class_names), root / "Image")
        dataset = Dataset.from_dict(columns, features=make_features(class_names, ignored=True, crop=True))
        result[name] = dataset.with_transform(_cut_out)
    if not result:
        raise DataError(f"{root}: holds neither wider_attribute_trainval.json nor wider_attribute_test.json")
    return result


def wider_files(root: Path) -> dict[str, Path]:
    """Split -> annotation file, of those that are there."""
    files = {}
    for name, official in SPLITS.items():
        places = (root, root / "wider_attribute_annotation", root / "Annotations")
        file = next((file for place in places if (file := place / f"wider_attribute_{official}.json").is_file()), None)
        if file is not None:
            files[name] = file
    return files


def _cut_out(batch: dict[str, list]) -> dict[str, list]:
    if "image" in batch and "crop" in batch:
        pairs = zip(batch["image"], batch["crop"], strict=True)
        batch["image"] = [crop_box(upright_rgb(image), crop) for image, crop in pairs]
    return batch


def _read_class_names(file: Path, content: dict) -> list[str]:
    """Attribute names in the order of their ids; the official ones where the file has no map."""
    given = content.get("attribute_id_map") or dict(enumerate(CLASSES))
    where = f"{file}: attribute_id_map"
    names = read_record(given, where, lambda r: [str(r[key]) for key in sorted(r, key=int)])
    if len(set(names)) != len(names):
        raise DataError(f"{where}: names an attribute twice")
    return names


def _read_split(file: Path, content: dict, num_attributes: int, folder: Path) -> dict[str, list]:
    columns: dict[str, list] = {"image": [], "labels": [], "image_id": [], "ignored": [], "crop": []}
    seen: set[str] = set()
    num_empty = 0
    for number, record in enumerate(content["images"]):
        where = f"{file}: images[{number}]"
        name, persons = read_record(record, where, lambda r: (str(r["file_name"]), list(r["targets"])))
        path = str(path_inside(folder, name, where))
        if name in seen:
            raise DataError(f"{where}: lists the image {name} a second time")
        seen.add(name)
        for person, target in enumerate(persons):
            here = f"{where}.targets[{person}]"
            bbox, states = read_record(target, here, _read_person)
            if len(bbox) != 4:
                raise DataError(f"{here}: bbox must be [x, y, w, h], got {bbox}")
            if len(states) != num_attributes or not set(states) <= {1, 0, -1}:
                raise DataError(f"{here}: attribute must be {num_attributes} times 1, 0 or -1, got {states}")
            if not is_box(bbox):
                num_empty += 1
                continue
            columns["image"].append(path)
            columns["labels"].append([index for index, state in enumerate(states) if state == 1])
            columns["image_id"].append(f"{name}#{person}")
            columns["ignored"].append([index for index, state in enumerate(states) if state == 0])
            columns["crop"].append(bbox)
    if num_empty:
        logger.warning(f"{file}: {num_empty} persons have an empty box; they are left out")
    return columns


def _read_person(target: dict) -> tuple[list[float], list[int]]:
    return [float(side) for side in target["bbox"]], [int(state) for state in target["attribute"]]
