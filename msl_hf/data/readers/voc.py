"""PASCAL VOC: a VOCdevkit tree, or the XML files of annotation tools -> the schema."""

import os
from collections import Counter
from pathlib import Path

from transformers.utils import logging

from ..files import (
    add_split,
    is_image,
    read_text,
    split_name,
    text_lines,
)
from ..image_finder import ImageFinder
from ..schema import DataError, make_features
from .samples import Sample, class_names_of_samples, to_datasets
from .voc_xml import annotated_sample, image_root, read_annotation, report_boxes

logger = logging.get_logger(__name__)

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
SPLITS = ("trainval", "train", "val", "test")
STATES = ("1", "0", "-1")  # present, only difficult instances, absent
PROPERTIES = ("truncated", "difficult", "crowd", "visible")


def load_voc(root: str | os.PathLike, year: int = 2007):
    """Load the image classification task of VOC2007, VOC2012 or any data set stored as they are.

    Labels come from `ImageSets/Main/<class>_<split>.txt`, where 1 gives `labels`, 0 (only difficult instances) gives
    `ignored`, and -1 neither. Boxes come from `Annotations/*.xml`, for the images that have one. Without such class
    files labels come from the XML, too: an object gives `labels`, difficult ones alone give `ignored`.

    Args:
        root: The `VOCdevkit` folder, which holds `VOC<year>/`.
        year: 2007, 2012, or whatever the folder is called.

    Returns:
        `datasets.DatasetDict` with those of the splits trainval, train, val and test that exist. `objects.bbox` is
        [x, y, w, h] in pixels of the annotation; VOC counts pixels from 1 and includes the last one, so that
        x = xmin - 1 and w = xmax - xmin + 1. An object whose box is empty or incomplete has none; their number is
        logged.

    Raises:
        DataError: naming the folder, file or line at fault.
    """
    folder = Path(root) / f"VOC{year}"
    main = folder / "ImageSets" / "Main"
    if not main.is_dir():
        raise DataError(f"{main}: no such folder; root must be the VOCdevkit folder that holds VOC{year}/ "
                        "(pass --download to fetch the official archives)")  # fmt: skip
    return load_image_sets(folder)


def load_image_sets(folder: Path):
    """Splits and labels as `ImageSets/Main` lists them; labels from the XML where there are no class files."""
    from datasets import Dataset, DatasetDict

    main = folder / "ImageSets" / "Main"
    stems = sorted(path.stem for path in main.glob("*.txt"))
    # Tools call their lists as they like; those of a class are called <class>_<list>.
    lists = [stem for stem in stems if not any(stem.endswith(f"_{other}") for other in stems)]
    splits = [split for split in SPLITS if split in lists]
    splits += [stem for stem in lists if stem not in splits and (split_name(stem) or not splits)]
    if not splits:
        raise DataError(f"{main}: holds none of {', '.join(f'{split}.txt' for split in SPLITS)}")
    meant: dict[str, str] = {}
    for stem in splits:
        add_split(meant, _called(stem), stem, main / f"{stem}.txt")
    class_names = sorted({
        path.name.removesuffix(f"_{split}.txt") for split in splits for path in main.glob(f"*_{split}.txt")
    })  # fmt: skip
    finder = ImageFinder(image_root(folder))
    if not class_names:
        samples = {_called(split): _annotated_samples(main / f"{split}.txt", folder, finder) for split in splits}
        return to_datasets(samples, class_names_of_samples(folder, samples, are_names=True))
    features = make_features(class_names, ignored=True, objects=True)
    annotations = _Annotations(class_names)  # shared between trainval and its parts
    result = DatasetDict()
    for split in splits:
        columns = _read_split(folder, split, class_names, annotations, finder)
        result[_called(split)] = Dataset.from_dict(columns, features=features)
    annotations.report(folder)
    return result


def _called(split: str) -> str:
    """What a list of ImageSets/Main is called here; CVAT calls the one that it makes by itself `default`."""
    return split if split in SPLITS else split_name(split) or ("train" if split == "default" else split)


def _image_ids(file: Path) -> list[str]:
    """The images of a list: a line each, without an ending, and without the states that tools write behind them."""
    ids = []
    for line in filter(None, map(str.strip, _read_lines(file))):
        image_id = line.rsplit(None, 1)[0] if line.split()[-1] in STATES and len(line.split()) > 1 else line
        ids.append(image_id.rsplit(".", 1)[0] if is_image(image_id) else image_id)
    repeated = [image_id for image_id, count in Counter(ids).items() if count > 1]
    if repeated:
        raise DataError(f"{file}: lists image {repeated[0]} more than once")
    return ids


def _read_split(
    folder: Path, split: str, class_names: list[str], annotations: "_Annotations", finder: ImageFinder
) -> dict[str, list]:
    main = folder / "ImageSets" / "Main"
    ids = _image_ids(main / f"{split}.txt")
    values = {name: _read_class_file(main / f"{name}_{split}.txt") for name in class_names}
    columns: dict[str, list] = {"image": [], "labels": [], "image_id": ids, "ignored": [], "objects": []}
    for image_id in ids:
        states = []
        for name in class_names:
            if image_id not in values[name]:
                raise DataError(f"{main / f'{name}_{split}.txt'}: has no line for image {image_id} of {split}.txt")
            states.append(values[name][image_id])
        columns["image"].append(str(_image_path(folder, image_id, finder)))
        columns["labels"].append([index for index, state in enumerate(states) if state == 1])
        columns["ignored"].append([index for index, state in enumerate(states) if state == 0])
        columns["objects"].append(annotations.columns(folder / "Annotations" / f"{image_id}.xml"))
    return columns


def _image_path(folder: Path, image_id: str, finder: ImageFinder, filename: str = "") -> Path:
    """`JPEGImages/<id>.jpg`, else the file that the annotation names, else that of the id with another ending."""
    where = f"{folder / 'ImageSets' / 'Main'}"
    if image_id.startswith((".", "/")) or "\\" in image_id or ".." in Path(image_id).parts:
        raise DataError(f"{where}: {image_id!r} is no image id")
    official = folder / "JPEGImages" / f"{image_id}.jpg"
    if os.path.isfile(official):
        return official
    found = (filename and finder.find(filename, where)) or finder.find(image_id, where)
    return found or official


def _read_lines(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return text_lines(read_text(path))


def _read_class_file(path: Path) -> dict[str, int]:
    states = {}
    for number, line in enumerate(_read_lines(path), start=1):
        if not line.strip():
            continue
        parts = line.rsplit(None, 1)
        if len(parts) != 2 or parts[1] not in STATES:
            raise DataError(f"{path}:{number}: expected '<image id> 1|0|-1', got {line.strip()!r}")
        states[parts[0].strip()] = int(parts[1])
    return states


def _annotated_samples(list_file: Path, folder: Path, finder: ImageFinder) -> list[Sample]:
    """Images of a list, with the labels of their XML files; one without such a file shows nothing."""
    samples, missing, num_bad = [], [], 0
    for image_id in _image_ids(list_file):
        file, filename, objects = folder / "Annotations" / f"{image_id}.xml", "", []
        if os.path.isfile(file):
            filename, objects, bad = read_annotation(file)
            num_bad += bad
        else:
            missing.append(image_id)
        samples.append(
            annotated_sample(str(_image_path(folder, image_id, finder, filename)), image_id, str(file), objects)
        )
    if missing:
        logger.warning(f"{list_file}: {len(missing)} images have no XML file, such as {missing[0]}; they are images "
                       "without labels")  # fmt: skip
    report_boxes(folder, num_bad)
    return samples


class _Annotations:
    """Objects of XML files, each file read once.

    Args:
        class_names: Those of ImageSets/Main.
    """

    def __init__(self, class_names: list[str]):
        self.class_names = class_names
        self.num_bad = 0
        self._read: dict[Path, dict[str, list]] = {}

    def columns(self, path: Path) -> dict[str, list]:
        """The `objects` column of an image."""
        if path not in self._read:
            self._read[path] = self._columns(path)
        return self._read[path]

    def _columns(self, path: Path) -> dict[str, list]:
        columns: dict[str, list] = {name: [] for name in ("label", "bbox", "area", *PROPERTIES)}
        if not os.path.isfile(path):
            return columns
        _, objects, bad = read_annotation(path)
        self.num_bad += bad
        for item in objects:
            if item["label"] not in self.class_names:
                raise DataError(f"{path}: class {item['label']!r} is not among the {len(self.class_names)} classes of "
                                "ImageSets/Main")  # fmt: skip
            if "bbox" in item:
                columns["label"].append(self.class_names.index(item["label"]))
                columns["bbox"].append(item["bbox"])
                columns["area"].append(item["bbox"][2] * item["bbox"][3])
                for name in PROPERTIES:
                    columns[name].append(item[name])
        return columns

    def report(self, folder: Path) -> None:
        """Log how many boxes could not be used."""
        report_boxes(folder, self.num_bad)


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
