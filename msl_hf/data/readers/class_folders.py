"""A folder for each class: not read, but turned into what is, with two lines of Python."""

from pathlib import Path

from ..files import is_image, split_name, subfolders

NO_CLASSES = {"images", "image", "imgs", "img", "jpegimages", "photos", "data", "labels", "annotations", "xml"}
ANNOTATIONS = {".csv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".txt", ".data", ".names", ".parquet"}


def lines_for_class_folders(root: Path) -> str:
    """For a folder of images for each class: the lines that write their labels down; empty for others."""
    if not root.is_dir():
        return ""
    splits = [folder for folder in subfolders(root) if split_name(folder.name)]
    places = [place for place in splits or [root] if _holds_classes(place)]
    if not places or any(file.suffix.lower() in ANNOTATIONS for file in root.iterdir()):
        return ""
    return (
        f". {places[0]} holds a folder for each class; these two lines of Python write the labels of its images down, "
        "the same image in two folders as one with two labels:\n"
        f"  import collections, hashlib, json, pathlib; root = pathlib.Path({str(places[0])!r}); "
        "found = collections.defaultdict(list); "
        "[found[hashlib.sha1(f.read_bytes()).digest()].append(f) "
        "for f in sorted(root.glob('*/**/*')) if f.is_file()]\n"
        "  (root / 'metadata.jsonl').write_text(''.join(json.dumps({'file_name': f[0].relative_to(root).as_posix(), "
        "'labels': sorted({x.relative_to(root).parts[0] for x in f})}) + '\\n' for f in found.values()))"
        + (f"\nThe same for {', '.join(place.name for place in places[1:])}" if places[1:] else "")
    )


def _holds_classes(place: Path) -> bool:
    """Whether all its folders hold images and nothing that describes them, and are called after classes."""
    folders = subfolders(place)
    if len(folders) < 2 or any(folder.name.casefold() in NO_CLASSES for folder in folders):
        return False
    files = [[file for file in folder.rglob("*") if file.is_file()] for folder in folders]
    return all(any(map(is_image, found)) and not any(file.suffix.lower() in ANNOTATIONS for file in found)
               for found in files)  # fmt: skip
