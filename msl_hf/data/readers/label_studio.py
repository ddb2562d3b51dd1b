"""Label Studio: its JSON and JSON-MIN exports, with choices or regions -> the schema."""

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from transformers.utils import logging

from ..files import (
    add_split,
    json_holds,
    listed,
    read_json,
    read_record,
    split_in_name,
    split_name,
    subfolders,
    with_ending,
)
from ..image_finder import ImageFinder
from ..schema import DataError
from .samples import Sample, class_names_of_samples, to_datasets

logger = logging.get_logger(__name__)

REGIONS = ("rectanglelabels", "polygonlabels", "ellipselabels", "brushlabels", "keypointlabels", "labels")
MIN_KEYS = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time"}  # of JSON-MIN, beside labels


def read_label_studio(path: str | os.PathLike, keep_unlabelled: bool | None = None):
    """Read images that were labelled with Label Studio.

    Choices give labels; rectangles and polygons give labels and boxes, other regions labels alone. Where several
    people annotated an image, it has the labels of all. Images are looked for by the name that they were uploaded
    under, with and without the eight letters that Label Studio puts before it.

    Args:
        path: The folder that holds the export and the images, or the export itself.
        keep_unlabelled: Keep the tasks that nobody has annotated, as images without labels; otherwise they are left
            out and counted. A task that was submitted without any label is kept in any case.

    Returns:
        `datasets.DatasetDict` of the schema; `objects.bbox` is [x, y, w, h] in pixels.

    Raises:
        DataError: naming the file and the task at fault.
    """
    path = Path(path)
    root = path if path.is_dir() else path.parent
    files = find_exports(path)
    if not files:
        raise DataError(f"{path}: holds no JSON export of Label Studio")
    splits = {split: _read_export(file, root, bool(keep_unlabelled)) for split, file in files.items()}
    return to_datasets(splits, class_names_of_samples(root, splits, are_names=True))


def find_exports(path: Path) -> dict[str, Path]:
    """Split -> export, in a folder or its sub-folders of splits; or the file itself."""
    files: dict[str, Path] = {}
    if path.is_file():
        return {_split_of(path): path} if _is_export(path) else {}
    for folder in (path, *(folder for folder in subfolders(path) if split_name(folder.name))):
        for file in with_ending(folder, ".json"):
            if _is_export(file):
                add_split(files, _split_of(file), file, file)
    return files


def _split_of(file: Path) -> str:
    return split_in_name(file.stem) or split_name(file.parent.name) or "train"


def _is_export(file: Path) -> bool:
    """Whether a JSON file is a list of tasks."""
    return any(json_holds(file, b"[", *keys) for keys in (("data", "annotations"), ("annotation_id",), ("annotator",)))


def _read_export(file: Path, root: Path, keep_unlabelled: bool) -> list[Sample]:
    tasks = read_json(file)
    if not isinstance(tasks, list):
        raise DataError(f"{file}: is no list of tasks")
    finder = ImageFinder(root, [file.parent, file.parent / "images"])
    samples: dict[str, Sample] = {}
    left_out: Counter[str] = Counter()
    questions: dict[str, set[str]] = {}  # which labels each control of choices gives
    for number, task in enumerate(tasks):
        where = f"{file}: task {number}"
        image, results = read_record(task, where, _task)
        if results is None and not keep_unlabelled:
            left_out["tasks nobody has annotated"] += 1
            continue
        path = str(_find(finder, image, where))
        sample = samples.setdefault(path, Sample(path, Path(path).name, where))
        for kind, value in results or ():
            if kind == "choices":
                chosen = read_record(value, where, lambda value: value["choices"])
                asked = questions.setdefault(str(value.get("from_name")), set())
                asked.update([chosen] if isinstance(chosen, str) else map(str, chosen))
            if not read_record(value, where, lambda value, s=sample, k=kind: _add(s, k, value)):
                left_out[f"results of the kind {kind!r}"] += 1
    _refuse_shared_answers(file, questions)
    for what, count in left_out.items():
        logger.warning(f"{file}: {count} {what} are left out")
    several = len(tasks) - sum(left_out[what] for what in left_out if what.startswith("tasks")) - len(samples)
    if several:
        logger.warning(f"{file}: {several} tasks are of images that came before; an image has the labels of all")
    return list(samples.values())


def _refuse_shared_answers(file: Path, questions: dict[str, set[str]]) -> None:
    """Answers such as yes and no to several questions are no classes; several questions are named."""
    for one, two in itertools.combinations(questions, 2):
        shared = questions[one] & questions[two]
        if shared:
            raise DataError(f"{file}: {min(shared)!r} answers both {one!r} and {two!r}: the answer is no class; "
                            "export one of the questions, or name the answers apart")  # fmt: skip
    if len(questions) > 1:
        logger.warning(f"{file}: the answers to {listed(sorted(questions))} are all taken for labels")


def _task(task: dict) -> tuple[str, list[tuple[str, dict]] | None]:
    """(image as written, (kind, value) of its results, None where nobody has annotated it) of JSON or JSON-MIN."""
    if "data" not in task:
        image = _image_of({name: value for name, value in task.items() if name not in MIN_KEYS})
        return image, list(_min_results({name: value for name, value in task.items() if value != image}))
    submitted = [entry for entry in task["annotations"] if not entry.get("was_cancelled")]
    kept = ("original_width", "original_height", "from_name")
    results = [(entry["type"], {**entry["value"], **{key: entry[key] for key in kept if key in entry}})
               for annotation in submitted for entry in annotation["result"]]  # fmt: skip
    return _image_of(task["data"]), results if submitted else None


def _image_of(data: dict) -> str:
    """The image of a task's data: the field called so, else the first that looks like a file."""
    texts = {name: value for name, value in data.items() if isinstance(value, str)}
    named = [texts[name] for name in ("image", "img", "image_url", "url") if name in texts]
    files = named or [value for value in texts.values() if re.search(r"\.\w{3,5}($|\?)", value)]
    if not files:
        raise KeyError("image")
    return files[0]


def _min_results(task: dict) -> Iterator[tuple[str, dict]]:
    """Results of JSON-MIN: a text or `{"choices": [...]}` for choices, lists of regions.

    They stand between `id`, which the data of the task come before, and `annotator`.
    """
    names = list(task)
    start, end = (names.index(name) if name in names else -1 for name in ("id", "annotator"))
    if -1 < start < end:
        names = names[start + 1 : end]
    for name in names:
        value = task[name]
        if name in MIN_KEYS:
            continue
        if isinstance(value, str):
            yield "choices", {"choices": [value], "from_name": name}
        elif isinstance(value, dict) and "choices" in value:
            yield "choices", {**value, "from_name": name}
        elif isinstance(value, list):
            for region in value:
                kind = next((kind for kind in REGIONS if kind in region), "unknown")
                yield kind, region


def _add(sample: Sample, kind: str, value: dict) -> bool:
    """Add what a result says; False for one of a kind that says nothing about classes."""
    if kind == "choices":
        chosen = value["choices"]
        sample.labels += [chosen] if isinstance(chosen, str) else list(chosen)
        return True
    if kind not in REGIONS:
        return False
    labels = list(value.get(kind) or value.get("labels") or [])
    sample.labels += labels
    box = _box(value)
    sample.objects += [{"label": label, "bbox": box} for label in labels if box is not None]
    return True


def _box(value: dict) -> list[float] | None:
    """[x, y, w, h] in pixels of a rectangle or polygon, which are written in percent of the sides."""
    if "original_width" not in value:
        return None
    width, height = float(value["original_width"]) / 100, float(value["original_height"]) / 100
    if "points" in value:
        xs, ys = zip(*((float(x), float(y)) for x, y in value["points"]), strict=True)
        left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
    elif "width" in value and "height" in value and not value.get("rotation"):
        left, top = float(value["x"]), float(value["y"])
        right, bottom = left + float(value["width"]), top + float(value["height"])
    else:
        return None
    return [left * width, top * height, (right - left) * width, (bottom - top) * height]


def _find(finder: ImageFinder, written: str, where: str) -> Path:
    """The image of a path or URL."""
    found = re.search(r"[?&]d=([^&]*)", written)
    name = found[1] if found else re.sub(r"^\w+://[^/]*|\?.*$", "", written)
    name = unquote(name).replace("\\", "/")
    name = re.sub(r"^([A-Za-z]:)?/+", "", name)
    if not name.rsplit("/", 1)[-1]:
        raise DataError(f"{where}: {written!r} names no image")
    original = re.sub(r"(^|/)[0-9a-f]{8}-([^/]*)$", r"\1\2", name)
    return finder.find(name, where) or finder.find(original, where) or finder.expect(name, where)
