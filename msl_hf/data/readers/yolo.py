"""YOLO: `data.yaml`, or the lists of darknet, and a text file of boxes for each image -> the schema."""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from transformers.utils import logging

from ..files import images_below, read_text, split_name, text_lines, with_ending
from ..image_finder import ImageFinder
from ..images import image_size
from ..schema import DataError
from .samples import Sample, to_datasets

logger = logging.get_logger(__name__)

SPLIT_KEYS = ("train", "val", "valid", "validation", "test")
TOLERANCE = 0.01  # a box may leave the image by this share of its side


def read_yolo(path: str | os.PathLike):
    """Read a YOLO data set (Ultralytics, Roboflow, CVAT, LabelImg, Label Studio).

    `data.yaml` names the classes (a list, or a map from numbers) and, for each split, a folder of images, a text file
    that lists them, or several of these. Without it, `obj.data` and `obj.names` do the same (CVAT's YOLO 1.1), or
    `classes.txt` names the classes of all images (LabelImg, Label Studio). Each image of `images/` has its boxes in a
    text file of `labels/`, others beside them: a line `class x y width height` in shares of the image's sides, or
    `class x1 y1 x2 y2 x3 y3 ...` for an outline, whose box is taken. An empty or missing text file is an image without
    labels.

    Args:
        path: The folder, or its `data.yaml`.

    Returns:
        `datasets.DatasetDict` of the schema; `objects.bbox` is [x, y, w, h] in pixels of the upright image. Boxes that
        are empty, or leave the image, give labels but no objects; their number is logged.

    Raises:
        DataError: naming the file and line at fault.
    """
    path = Path(path)
    file = path if path.is_file() else settings_file(path)
    if file is None:
        raise DataError(f"{path}: holds no data.yaml, no obj.data and no classes.txt")
    settings = _read_settings(file)
    names = _class_names(file, settings["names"])
    splits: dict[str, list[Sample]] = {}
    for key in SPLIT_KEYS:
        if settings.get(key):
            split = split_name(key)
            if split in splits:
                raise DataError(f"{file}: names split {split!r} more than once")
            splits[split] = _read_split(file, settings, key, names)
    splits = {split: samples for split, samples in splits.items() if samples}
    if not splits:
        entries = ", ".join(f"{key}: {settings[key]}" for key in SPLIT_KEYS if settings.get(key))
        fault = f"{entries} is no folder, and no text file, of images with labels" if entries else "names no images"
        raise DataError(f"{file}: {fault}; it needs train, val or test, as they lie below {file.parent}")
    return to_datasets(splits, list(names.values()))


def settings_file(folder: Path) -> Path | None:
    """The file of a data set that names classes and splits: `data.yaml`, `obj.data`, or `classes.txt` of boxes."""
    named = [folder / name for name in ("data.yaml", "data.yml", "dataset.yaml")]
    for file in (*named, *with_ending(folder, ".yaml", ".yml")):
        if file.is_file():
            settings = _read_yaml(file)
            if settings and "names" in settings and any(settings.get(key) for key in SPLIT_KEYS):
                return file
    if (folder / "obj.data").is_file():
        return folder / "obj.data"
    for file in (folder / "classes.txt", folder / "labels" / "classes.txt"):
        if file.is_file() and any(map(_holds_boxes, with_ending(file.parent, ".txt") or [])):
            return file
        if file.is_file() and any(map(_holds_boxes, with_ending(folder / "labels", ".txt"))):
            return file
    return None


def _holds_boxes(file: Path) -> bool:
    """Whether the first line of a text file is that of a box."""
    with file.open("rb") as stream:
        cells = stream.readline(2**10).split()
    try:
        return len(cells) >= 5 and cells[0].isdigit() and all(0 <= float(cell) <= 1 for cell in cells[1:5])
    except ValueError:
        return False


def _read_settings(file: Path) -> dict:
    """`names`, and the images of each split, of any of the files."""
    if file.name == "classes.txt":
        folder = file.parent.parent if file.parent.name == "labels" else file.parent
        images = "images" if (folder / "images").is_dir() else "."
        return {"names": list(filter(None, map(str.strip, text_lines(read_text(file))))), "train": images}
    if file.suffix == ".data":
        lines = (line.split("=", 1) for line in text_lines(read_text(file)) if "=" in line)
        settings: dict = {key.strip(): value.strip() for key, value in lines}
        listing = file.parent / os.path.basename(settings.get("names", "obj.names"))
        settings["names"] = list(filter(None, map(str.strip, text_lines(read_text(listing)))))
        return settings
    settings = _read_yaml(file)
    if settings is None:
        raise DataError(f"{file}: is not valid YAML")
    if "names" not in settings:
        raise DataError(f"{file}: has no 'names' of the classes")
    return settings


def _read_yaml(file: Path) -> dict | None:
    """The settings with all values as they are written: a class may be called no, or 010."""
    import yaml

    try:
        settings = yaml.load(read_text(file), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return None
    return settings if isinstance(settings, dict) else None


def _class_names(file: Path, names) -> dict[int, str]:
    """Number -> name, in the order of the numbers."""
    if isinstance(names, list):
        names = dict(enumerate(names))
    try:
        found = dict(sorted((int(number), str(name).strip()) for number, name in names.items()))
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{file}: 'names' must be a list of the class names, or a map from numbers to them") from error
    repeated = [name for name in found.values() if list(found.values()).count(name) > 1]
    if not found or repeated or not all(found.values()):
        fault = f"names {repeated[0]!r} more than once" if repeated else "names no class, or one with an empty name"
        raise DataError(f"{file}: {fault}")
    return found


def _read_split(file: Path, settings: dict, key: str, names: dict[int, str]) -> list[Sample]:
    entries = settings[key] if isinstance(settings[key], list) else [settings[key]]
    root = file.parent.parent if file.parent.name == "labels" else file.parent
    images = [image for entry in entries for image in _images(file, root, settings, str(entry), key)]
    label_files = [_label_file(image, root) for image in images]
    if not any(map(os.path.isfile, label_files)):
        looked = f", such as {label_files[0]}" if images else ""
        logger.warning(f"{file}, {key}: {settings[key]} has no images with text files of labels{looked}; the split is "
                       "left out")  # fmt: skip
        return []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        sizes = pool.map(lambda pair: _size(pair[0]) if os.path.isfile(pair[1]) else None,
                         zip(images, label_files, strict=True))  # fmt: skip
    samples, num_bad, num_missing = [], 0, 0
    for image, label_file, size in zip(images, label_files, sizes, strict=True):
        image_id = image.relative_to(root).as_posix() if image.is_relative_to(root) else image.name
        sample = Sample(str(image), image_id, str(label_file))
        if os.path.isfile(label_file):
            num_bad += _add_boxes(sample, label_file, size, names, "kpt_shape" in settings)
        else:
            num_missing += 1
        samples.append(sample)
    if num_bad:
        logger.warning(f"{file}, {key}: {num_bad} boxes are empty, leave their images or are of images that cannot "
                       "be read; they give labels but no objects")  # fmt: skip
    if num_missing:
        logger.warning(f"{file}, {key}: {num_missing} images have no text file; they are images without labels")
    return samples


def _images(file: Path, root: Path, settings: dict, entry: str, key: str) -> list[Path]:
    """The images that an entry means; none, and a line that says so, where there is no such folder or list."""
    place = _place(root, settings, entry)
    if place is None:
        logger.warning(f"{file}: {key}: {entry} is no folder and no text file below {root}")
        return []
    if place.is_dir():
        return images_below(place)[0]
    finder = ImageFinder(root, [place.parent])
    lines = (line.strip() for line in text_lines(read_text(place)))
    return [_listed_image(line, place, root, finder, split_name(key)) for line in lines if line]


def _place(root: Path, settings: dict, entry: str) -> Path | None:
    """The folder or list; Roboflow writes `../train/images` for what lies beside the file, CVAT `data/` before it."""
    base = PurePosixPath(str(settings.get("path") or "").replace("\\", "/"))
    written = PurePosixPath(entry.replace("\\", "/"))
    for path in (base / written, written):
        parts = [part for part in path.parts if part not in ("..", ".", "/")]
        inside = [Path(path)] if Path(path).is_relative_to(root.absolute()) else []
        folders = [*inside, *([root.joinpath(*parts)] if parts or entry == "." else [])]
        lists = [*folders, *(root.joinpath(*parts[at:]) for at in range(1, len(parts)))]
        found = [*filter(os.path.isdir, folders), *(p for p in lists if p.suffix == ".txt" and os.path.isfile(p))]
        if found:
            return found[0]
    return None


def _listed_image(name: str, listing: Path, root: Path, finder: ImageFinder, split: str | None) -> Path:
    if Path(name).is_absolute() and Path(name).is_relative_to(root.absolute()):
        return Path(name)
    return finder.expect(name, str(listing), split)


def _label_file(image: Path, root: Path) -> Path:
    """`labels/` in place of the last `images/` below the root, else beside the image."""
    parts = list(image.relative_to(root).parts) if image.is_relative_to(root) else [image.name]
    for at in range(len(parts) - 2, -1, -1):
        if parts[at].casefold() == "images":
            others = [root.joinpath(*parts[:at], name, *parts[at + 1 :]).with_suffix(".txt")
                      for name in ("labels", "Labels")]  # fmt: skip
            beside = image.with_suffix(".txt")
            return next((file for file in (*others, beside) if os.path.isfile(file)), others[0])
    return image.with_suffix(".txt")


def _size(image: Path) -> tuple[int, int] | None:
    try:
        return image_size({"image": {"path": str(image), "bytes": None}})
    except Exception:  # Pillow raises half a dozen types; the check of all images names the file
        return None


def _add_boxes(sample: Sample, file: Path, size, names: dict[int, str], has_keypoints: bool) -> int:
    """Fill in labels and objects from a text file; the number of boxes that cannot be used."""
    num_bad = 0
    for number, line in enumerate(text_lines(read_text(file)), start=1):
        cells = line.split()
        if not cells:
            continue
        where = f"{file}:{number}"
        try:
            label, values = float(cells[0]), [float(cell) for cell in cells[1:]]
        except ValueError as error:
            raise DataError(f"{where}: expected 'class x y width height', got {line.strip()[:80]!r}") from error
        if label not in names:
            raise DataError(f"{where}: class {cells[0]} is none of the {len(names)} of data.yaml")
        name = names[int(label)]
        if name not in sample.labels:
            sample.labels.append(name)
        box = _box(values, has_keypoints)
        if box is None or size is None:
            num_bad += box is None or size is None
            continue
        left, top, right, bottom = (side * scale for side, scale in zip(box, (*size, *size), strict=True))
        sample.objects.append({"label": name, "bbox": [left, top, right - left, bottom - top]})
    return num_bad


def _box(values: list[float], has_keypoints: bool) -> tuple[float, float, float, float] | None:
    """(left, top, right, bottom) in shares of the sides, within the image; None where there is no such box."""
    if len(values) >= 6 and len(values) % 2 == 0 and not has_keypoints:  # an outline
        sides = min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
    elif len(values) >= 4:  # a score or key points may follow
        x, y, width, height = values[:4]
        sides = x - width / 2, y - height / 2, x + width / 2, y + height / 2
    else:
        return None
    if not all(math.isfinite(side) and -TOLERANCE <= side <= 1 + TOLERANCE for side in sides):
        return None
    left, top, right, bottom = (min(max(side, 0.0), 1.0) for side in sides)
    return (left, top, right, bottom) if right > left and bottom > top else None
