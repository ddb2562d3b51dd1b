"""XML files of VOC as annotation tools write them, with and without VOC's folders -> the schema."""

import os
from pathlib import Path

from transformers.utils import logging

from ..files import by_folders, image_endings, split_of_path, unlisted_images
from ..image_finder import ImageFinder
from ..schema import DataError
from .samples import Sample, class_names_of_samples, to_datasets
from .voc import load_image_sets, load_voc
from .voc_xml import annotated_sample, annotation_files, image_root, read_annotation, report_boxes

logger = logging.get_logger(__name__)


def read_voc(path: str | os.PathLike, year: int | None = None, keep_unlabelled: bool | None = None):
    """Read VOC's XML wherever tools put it.

    A VOCdevkit tree, one of its `VOC<year>` folders, or folders of XML without `ImageSets/Main` (LabelImg, CVAT,
    Roboflow): images and XML side by side, or in `Annotations/` and another folder, in the root or in a folder for
    each split.

    Args:
        path: The folder.
        year: Of a VOCdevkit tree that holds several.
        keep_unlabelled: Keep images without an XML file, as images without labels; otherwise they are left out, and
            counted, because tools write an XML file for every image that was looked at.

    Returns, Raises:
        As `load_voc`.
    """
    root = Path(path)
    years = sorted(folder for folder in root.glob("VOC*") if (folder / "ImageSets" / "Main").is_dir())
    if year is not None and years:
        return load_voc(root, year)
    if len(years) > 1:
        raise DataError(f"{root}: holds {' and '.join(folder.name for folder in years)}; say which with --year")
    for folder in (*years, root):
        if (folder / "ImageSets" / "Main").is_dir():
            return load_image_sets(folder)
    files = annotation_files(root)
    if not files:
        raise DataError(f"{root}: holds no XML files of VOC")
    samples = _read_files(root, files, bool(keep_unlabelled))
    splits: dict[str, list[Sample]] = {}
    for sample, split in zip(samples, by_folders([sample.where for sample in samples], root, root), strict=True):
        splits.setdefault(split or "train", []).append(sample)
    return to_datasets(splits, class_names_of_samples(root, splits, are_names=True))


def is_voc(root: Path) -> bool:
    """Whether a folder holds what `read_voc` reads."""
    trees = (root, *root.glob("VOC*"))
    return any((tree / "ImageSets" / "Main").is_dir() for tree in trees) or bool(annotation_files(root))


def _read_files(root: Path, files: list[Path], keep_unlabelled: bool) -> list[Sample]:
    """Every XML file with its image, and, where asked for, the images without one."""
    finder = ImageFinder(image_root(root), dict.fromkeys(file.parent for file in files))
    samples, num_bad = [], 0
    for file in files:
        filename, objects, bad = read_annotation(file)
        num_bad += bad
        samples.append(annotated_sample(str(_image_of(file, filename, root, finder)), file.stem, str(file), objects))
    annotated = {sample.image for sample in samples}
    rest = unlisted_images(image_root(root), annotated, "XML file", keep_unlabelled)
    if keep_unlabelled:
        samples += [Sample(str(image), image.relative_to(root).as_posix(), str(image)) for image in rest]
    report_boxes(root, num_bad)
    return samples


def _image_of(file: Path, filename: str, root: Path, finder: ImageFinder) -> Path:
    """The image of an XML file: beside it as it writes, if that is of its own name, else of its own name, else as it
    writes, else elsewhere. Files are renamed, and names come from other machines."""
    if Path(filename).stem == file.stem and os.path.isfile(file.parent / filename):
        return file.parent / filename
    for ending in sorted(image_endings()):
        for beside in (file.with_suffix(ending), file.with_suffix(ending.upper())):
            if os.path.isfile(beside):
                return beside
    if filename and os.path.isfile(file.parent / filename):
        return file.parent / filename
    split = split_of_path(file, root)
    found = finder.find(filename, str(file), split) if filename else None
    if found is None or found.stem != file.stem:
        found = finder.find(file.stem, str(file), split) or found
    return found or file.parent / (filename or f"{file.stem}.jpg")
