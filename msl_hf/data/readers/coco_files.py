"""Where tools put COCO's JSON, and the images beside it."""

import re
from pathlib import Path

from ..files import add_split, json_holds, split_in_name, split_name, subfolders, with_ending
from ..schema import DataError

KEYS = ("images", "annotations", "categories")
OFFICIAL = re.compile(r"instances_(train|val)(\d{4})\.json")


def find_coco_files(path: Path, year: int | None = None) -> dict[str, Path]:
    """Split -> annotation file, of a folder or of the file itself; empty where there is none.

    Raises:
        DataError: where the files of several years, or several files of one split, may be meant.
    """
    if path.is_file():
        return {_split_of(path): path} if is_coco_file(path) else {}
    official = sorted((path / "annotations").glob("instances_*.json"))
    years = sorted({match[2] for file in official if (match := OFFICIAL.fullmatch(file.name))})
    if years and (str(year) not in years if year is not None else len(years) > 1):
        raise DataError(f"{path}: holds COCO of {' and '.join(years)}; say which with --year")
    if years:
        chosen = str(year or years[0])
        official = [file for file in official if (match := OFFICIAL.fullmatch(file.name)) and match[2] == chosen]
    files: dict[str, Path] = {}
    candidates = [*official, *(folder / "_annotations.coco.json" for folder in (path, *subfolders(path)))]
    if not any(file.is_file() for file in candidates):
        places = (path, path / "annotations", *(folder for folder in subfolders(path) if split_name(folder.name)))
        candidates = [file for place in places for file in with_ending(place, ".json")]
    for file in candidates:
        if file.is_file() and is_coco_file(file):
            add_split(files, _split_of(file), file, file)
    return files


def is_coco_file(file: Path) -> bool:
    """Whether a JSON file is an object with COCO's keys."""
    named = OFFICIAL.fullmatch(file.name) or file.name == "_annotations.coco.json"
    return bool(named) or json_holds(file, b"{", *KEYS)


def named_split(file: Path) -> str | None:
    """From the words of a file's name (`instances_val2017.json`), else its folder."""
    return split_in_name(file.stem) or split_name(file.parent.name)


def _split_of(file: Path) -> str:
    return named_split(file) or "train"


def image_folders(root: Path, split: str, file: Path) -> list[Path]:
    """Where the images of an annotation file may lie, likeliest first."""
    part = re.sub(r"^instances_", "", file.stem)
    places = [root / part, root / "images" / part, file.parent, *folders_of(root / "images", split), root / "images"]
    return [place for place in dict.fromkeys((*places, *folders_of(root, split), root)) if place.is_dir()]


def folders_of(place: Path, split: str) -> list[Path]:
    """The folders of a split in a place."""
    return [folder for folder in subfolders(place) if split_name(folder.name) == split] if place.is_dir() else []
