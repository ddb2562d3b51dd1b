"""PASCAL VOC: a VOCdevkit tree -> the schema."""

import os
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

from .schema import DataError, make_features

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
SPLITS = ("trainval", "train", "val", "test")


def load_voc(root: str | os.PathLike, year: int = 2007):
    """Load the image classification task of VOC2007, VOC2012 or any data set stored as they are.

    Labels come from `ImageSets/Main/<class>_<split>.txt`, where 1 gives `labels`, 0 (only difficult instances) gives
    `ignored`, and -1 neither. Boxes come from `Annotations/*.xml`, for the images that have one.

    Args:
        root: The `VOCdevkit` folder, which holds `VOC<year>/`.
        year: 2007, 2012, or whatever the folder is called.

    Returns:
        `datasets.DatasetDict` with those of the splits trainval, train, val and test that exist. `objects.bbox` is
        [x, y, w, h] in pixels of the annotation; VOC counts pixels from 1 and includes the last one, so that
        x = xmin - 1 and w = xmax - xmin + 1.

    Raises:
        DataError: naming the folder, file or line at fault.
    """
    from datasets import Dataset, DatasetDict

    folder = Path(root) / f"VOC{year}"
    main = folder / "ImageSets" / "Main"
    if not main.is_dir():
        raise DataError(f"{main}: no such folder; root must be the VOCdevkit folder that holds VOC{year}/ "
                        "(pass --download to fetch the official archives)")  # fmt: skip
    splits = [split for split in SPLITS if (main / f"{split}.txt").is_file()]
    if not splits:
        raise DataError(f"{main}: holds none of {', '.join(f'{split}.txt' for split in SPLITS)}")
    class_names = sorted({
        path.name.removesuffix(f"_{split}.txt") for split in splits for path in main.glob(f"*_{split}.txt")
    })  # fmt: skip
    if not class_names:
        raise DataError(f"{main}: holds no <class>_<split>.txt, so there are no class names")
    features = make_features(class_names, ignored=True, objects=True)
    objects: dict[str, dict] = {}  # annotations are shared between trainval and its parts
    return DatasetDict({
        split: Dataset.from_dict(_read_split(folder, split, class_names, objects), features=features)
        for split in splits
    })  # fmt: skip


def _read_split(folder: Path, split: str, class_names: list[str], objects: dict[str, dict]) -> dict[str, list]:
    main = folder / "ImageSets" / "Main"
    ids = [line.split()[0] for line in _read_lines(main / f"{split}.txt") if line.strip()]
    repeated = [image_id for image_id, count in Counter(ids).items() if count > 1]
    if repeated:
        raise DataError(f"{main / f'{split}.txt'}: lists image {repeated[0]} more than once")
    values = {name: _read_class_file(main / f"{name}_{split}.txt") for name in class_names}
    columns: dict[str, list] = {"image": [], "labels": [], "image_id": ids, "ignored": [], "objects": []}
    for image_id in ids:
        states = []
        for name in class_names:
            if image_id not in values[name]:
                raise DataError(f"{main / f'{name}_{split}.txt'}: has no line for image {image_id} of {split}.txt")
            states.append(values[name][image_id])
        columns["image"].append(str(_image_path(folder, image_id)))
        columns["labels"].append([index for index, state in enumerate(states) if state == 1])
        columns["ignored"].append([index for index, state in enumerate(states) if state == 0])
        if image_id not in objects:
            objects[image_id] = _read_objects(folder / "Annotations" / f"{image_id}.xml", class_names)
        columns["objects"].append(objects[image_id])
    return columns


def _image_path(folder: Path, image_id: str) -> Path:
    if "/" in image_id or "\\" in image_id or image_id.startswith("."):
        raise DataError(f"{folder / 'ImageSets' / 'Main'}: {image_id!r} is no image id")
    return folder / "JPEGImages" / f"{image_id}.jpg"


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no text file ({error})") from error


def _read_class_file(path: Path) -> dict[str, int]:
    states = {}
    for number, line in enumerate(_read_lines(path), start=1):
        if not line.strip():
            continue
        parts = line.split()
        if len(parts) != 2 or parts[1] not in ("1", "0", "-1"):
            raise DataError(f"{path}:{number}: expected '<image id> 1|0|-1', got {line.strip()!r}")
        states[parts[0]] = int(parts[1])
    return states


def _read_objects(path: Path, class_names: list[str]) -> dict[str, list]:
    objects: dict[str, list] = {
        "label": [], "bbox": [], "area": [], "truncated": [], "difficult": [], "crowd": [], "visible": []
    }  # fmt: skip
    if not path.is_file():
        return objects
    try:
        annotation = ET.parse(path).getroot()
    except (ET.ParseError, ValueError, LookupError) as error:  # malformed, or in an encoding that does not exist
        raise DataError(f"{path}: is not valid XML ({error})") from error
    for element in annotation.iter("object"):
        name = element.findtext("name", "").strip()
        if name not in class_names:
            raise DataError(f"{path}: class {name!r} is not among the {len(class_names)} classes of ImageSets/Main")
        try:
            box = element.find("bndbox")
            xmin, ymin, xmax, ymax = (float(box.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax"))
            visible = element.findtext("visible")
            visible = None if visible is None else float(visible)
        except (AttributeError, TypeError, ValueError) as error:
            raise DataError(f"{path}: an object {name!r} has no complete bndbox") from error
        width, height = xmax - xmin + 1, ymax - ymin + 1
        if width <= 0 or height <= 0:
            raise DataError(f"{path}: the box of an object {name!r} is empty ({xmin:g} {ymin:g} {xmax:g} {ymax:g})")
        objects["label"].append(class_names.index(name))
        objects["bbox"].append([xmin - 1, ymin - 1, width, height])
        objects["area"].append(width * height)
        objects["truncated"].append(element.findtext("truncated", "0").strip() == "1")
        objects["difficult"].append(element.findtext("difficult", "0").strip() == "1")
        objects["crowd"].append(False)
        objects["visible"].append(visible)
    return objects


def download_voc(root: str | os.PathLike, year: int = 2007) -> None:
    """Fetch and unpack the official archives through torchvision, unless they are there already.

    Args:
        root: Becomes the `VOCdevkit` folder, and has to be called so, because the archives are.
        year: 2007 (trainval and test) or 2012 (trainval; its test labels are not public).
    """
    from torchvision.datasets import VOCDetection

    root = Path(root)
    if root.name != "VOCdevkit":
        raise DataError(f"{root}: the archives unpack into a folder called VOCdevkit; end --data_dir with it")
    for image_set in ("trainval", "test") if year == 2007 else ("trainval",):
        if not (root / f"VOC{year}" / "ImageSets" / "Main" / f"{image_set}.txt").is_file():
            try:
                VOCDetection(root.parent, year=str(year), image_set=image_set, download=True)
            except (OSError, RuntimeError) as error:
                raise DataError(f"VOC{year} {image_set} could not be downloaded ({error})") from error
