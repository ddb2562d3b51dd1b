"""Files as users have them: which are images, where those of an annotation lie, text line by line."""

import contextlib
import functools
import json
import mmap
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

from PIL import Image
from transformers.utils import logging

from .schema import DataError

logger = logging.get_logger(__name__)

HEIF_ENDINGS = (".heic", ".heif", ".hif")
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # Pillow knows them, and leaves decoding to others
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev", "eval"),
    "test": ("test", "testing"),
    "trainval": ("trainval",),
}


def split_name(name: str) -> str | None:
    """What a split is called here: train, validation, test or trainval; None for no name of a split.

    Examples:
        >>> [split_name(name) for name in ("Train", "valid", "dev", "photos")]
        ['train', 'validation', 'validation', None]
    """
    return next((split for split, names in SPLIT_NAMES.items() if name.casefold() in names), None)


def split_in_name(name: str) -> str | None:
    """The first word of a file's name that is one of a split, such as `oidv7-val-annotations`."""
    words = re.split(r"[^a-z]+", name.casefold())
    return next((split for word in words if (split := split_name(word))), None)


def split_of_path(path: str | os.PathLike, root: Path) -> str | None:
    """The split whose folder a file below `root` lies in, such as `images/train/a.jpg`; None in none."""
    parts = Path(os.path.relpath(path, root)).parts[:-1]
    return next((split for part in parts if (split := split_name(part))), None)


def by_folders(paths: Sequence[str | os.PathLike], root: Path, source: str | os.PathLike) -> list[str | None]:
    """The split of each file, by the folders of splits that they lie in; None for all where none does.

    Raises:
        DataError: where some lie in such folders and others do not.
    """
    splits = [split_of_path(path, root) for path in paths]
    if any(splits) and not all(splits):
        raise DataError(f"{source}: {paths[splits.index(None)]} lies in no folder of a split, but others do; move it "
                        "into train/, validation/ or test/")  # fmt: skip
    return splits


def add_split(splits: dict, name: str, content, source) -> None:
    """Put `content` under what the split is called here, which no other source may have taken.

    Raises:
        DataError: naming both sources, such as the folders `val` and `valid`.
    """
    split = split_name(name) or name
    if split in splits:
        raise DataError(f"{source}: there is a split {split!r} already; val, valid, dev and eval all mean validation")
    splits[split] = content


@functools.cache
def image_endings() -> frozenset[str]:
    """Endings of the files that Pillow opens, such as `.jpg`; of HEIF too, which it opens with pillow-heif."""
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.init()
    opened = {e for e, name in Image.registered_extensions().items() if name in Image.OPEN and name not in NOT_DECODED}
    return frozenset(opened | set(HEIF_ENDINGS))


def is_image(path: str | os.PathLike) -> bool:
    """Whether the ending is that of an image."""
    return os.path.splitext(path)[1].lower() in image_endings()


def walk(folder: str | os.PathLike) -> Iterator[Path]:
    """All files below a folder, sorted; linked folders are followed, each folder once, and hidden ones left out."""
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # a link to a folder above, or to one that was there already
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        yield from (Path(here, name) for name in sorted(names) if not name.startswith("."))


def images_below(folder: str | os.PathLike) -> tuple[list[Path], Counter[str]]:
    """The images below a folder, and the number of other files by their ending."""
    images, others = [], Counter()
    for file in walk(folder):
        if is_image(file):
            images.append(file)
        else:
            others[file.suffix.lower() or "no ending"] += 1
    return images, others


def unlisted_images(folder: Path, listed: Collection[str], lack: str, keep: bool | None = None) -> list[Path]:
    """The images below a folder that no annotation speaks of; their number, and what becomes of them, is logged.

    Args:
        folder: Is searched.
        listed: Paths of the images that have annotations.
        lack: What the others lack, such as `XML file`.
        keep: Whether they are kept as images without labels; None where no flag does so.
    """
    rest = [image for image in images_below(folder)[0] if str(image) not in listed]
    if rest:
        become = "are images without labels" if keep else "are left out"
        become += " (--keep_unlabelled true keeps them)" if keep is False else ""
        logger.warning(f"{folder}: {len(rest)} images have no {lack}, such as {rest[0]}; they {become}")
    return rest


def with_ending(folder: Path, *endings: str) -> list[Path]:
    """The files of a folder with one of these endings, in whatever case, sorted."""
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in endings and file.is_file())


def json_holds(file: Path, opening: bytes, *keys: str) -> bool:
    """Whether a JSON file opens with `{` or `[` and holds all of the keys somewhere, without parsing it."""
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if not content[: 2**10].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(opening):
                return False
            return all(content.find(f'"{key}"'.encode()) >= 0 for key in keys)
    except (OSError, ValueError):  # an empty file cannot be mapped
        return False


def read_text(file: Path) -> str:
    """The UTF-8 text of a file, with or without a byte order mark."""
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is no UTF-8 text ({error})") from error


def is_utf8(name: str) -> bool:
    """Whether a file name can be written into a text file; those of other encodings come as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(name: str) -> str:
    """A file name with what is no UTF-8 as `\\xff`; every other name itself."""
    return name if is_utf8(name) else os.fsencode(name).decode(errors="backslashreplace")


def text_lines(text: str) -> list[str]:
    """Lines of a text, divided at line feeds alone: other characters that `str.splitlines` divides at are content."""
    return [line.removesuffix("\r") for line in text.split("\n")]


def read_json(file: Path):
    """The content of a JSON file."""
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: is not valid JSON ({error})") from error


def read_json_lists(file: Path, *keys: str) -> dict:
    """An annotation file: a JSON object that holds a list under each of the keys."""
    content = read_json(file)
    for key in keys:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{file}: has no list {key!r}")
    return content


def read_record(record, where: str, read: Callable):
    """`read(record)`; what it lacks, or holds of the wrong kind, is an error that says where."""
    try:
        return read(record)
    except DataError:
        raise
    except KeyError as error:
        raise DataError(f"{where}: has no {error}") from error
    except (TypeError, ValueError, AttributeError, OverflowError, IndexError) as error:
        raise DataError(f"{where}: cannot be used ({error})") from error


def path_inside(folder: Path, name: str, where: str, common: str | None = None) -> Path:
    r"""`folder / name`, for a name that is written as one within the folder; where a link leads is its owner's affair.

    A backslash is a separator, as Windows writes it, unless there is a file of just that name. `common` is what the
    lines that convert absolute names cut off; None cuts off all before the file.
    """
    if "\0" in name:
        raise DataError(f"{where}: file_name {name!r} holds a zero byte")
    written = name
    if "\\" in name and not os.path.exists(folder / name):
        name = name.replace("\\", "/")
    if name and not name.startswith(("/", ".")) and "/." not in name and ":" not in name:
        return folder / name  # nearly all names are that plain
    path = PurePosixPath(name)
    if path.is_absolute() or name[1:3] == ":/":
        lines = _lines_without_prefix(folder, written, where, common)
        raise DataError(f"{where}: file_name {written!r} is absolute, and leads out of the folder; write it relative "
                        f"to {folder}, with two lines of Python:\n{lines}")  # fmt: skip
    if not path.parts:
        raise DataError(f"{where}: file_name {written!r} names no file")
    if ".." in path.parts:
        raise DataError(f"{where}: file_name {written!r} leads out of the folder")
    return folder / name


def refuse_absolute(names: Sequence[str], folder: Path, where: str) -> None:
    """Refuse absolute names, with lines that cut off what all of them have in common."""
    absolute = [name for name in names if name.startswith("/")]
    if absolute:
        common = os.path.commonpath([os.path.dirname(name) for name in absolute])
        path_inside(folder, absolute[0], where, None if common == "/" else f"{common}/")


def _lines_without_prefix(folder: Path, written: str, where: str, common: str | None) -> str:
    """Two lines that take what comes before the names of images out of a file of annotations."""
    prefix = f"{folder.absolute()}/"
    if not written.startswith(prefix):
        prefix = common or written[: len(written) - len(written.replace("\\", "/").rsplit("/", 1)[1])]
    found = re.match(r"(.*?\.jsonl?)(:|$)", where)
    file = found[1] if found else where.rsplit(":", 1)[0]
    first = f"  import json, pathlib; file = pathlib.Path({file!r}); text = file.read_text(encoding='utf-8')"
    if not found:
        return f"{first}\n  file.write_text(text.replace({prefix!r}, ''), encoding='utf-8')"
    first += (f"; cut = lambda d: {{k: v.replace({prefix!r}, '', 1) if isinstance(v, str) else v "
              "for k, v in d.items()}")  # fmt: skip
    content = "json.dumps(json.loads(text, object_hook=cut))"
    if file.endswith(".jsonl"):
        each = "json.dumps(json.loads(line, object_hook=cut)) + '\\n'"
        content = f"''.join({each} for line in text.split('\\n') if line.strip())"
    return f"{first}\n  file.write_text({content}, encoding='utf-8')"


def subfolders(root: Path) -> list[Path]:
    """Folders in a folder, sorted, without hidden ones."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def listed(names: Sequence[str], limit: int = 5) -> str:
    """The first of several names, for a message."""
    return ", ".join(names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")
