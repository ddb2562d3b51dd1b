"""Files that commands write: whole or not at all, by one process at a time, never over those of another command."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import RunError

RUN_FILE = "run.json"  # the settings of a training run, in its folder


def check_folder(folder: str | os.PathLike) -> None:
    """Make sure that a folder can be written to before any work is done for it; nothing is made yet.

    Raises:
        RunError: naming the file in its place, or the folder without permission.
    """
    place = Path(folder).absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise RunError(f"{folder}: cannot be a folder, because {place} is a file")
    if not os.access(place, os.W_OK | os.X_OK):
        raise RunError(f"{folder}: no permission to write into {place}")


def check_results_folder(folder: str | os.PathLike, own: str) -> None:
    """`check_folder`, and refuse a folder whose `metrics.json` is that of a training run or another command.

    Args:
        folder: Where results go.
        own: A key that the `metrics.json` of this command has, which may be replaced.
    """
    check_folder(folder)
    folder = Path(folder)
    if (folder / RUN_FILE).is_file() or (folder / "config.json").is_file():
        raise RunError(f"{folder} holds a trained model, whose metrics.json would be overwritten; choose another "
                       "--output_dir")  # fmt: skip
    if (folder / "metrics.json").is_file() and own not in read_json(folder / "metrics.json"):
        raise RunError(f"{folder} holds the metrics.json of another command; choose another --output_dir")


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Within: no other process is within with the same file, which makes its folder; the lock dies with its process.

    Raises:
        RunError: where another process is.
    """
    lock = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise RunError(f"{file.parent}: another process is writing here (it holds {file.name}); wait for it, or "
                       "choose another output") from error  # fmt: skip
    except OSError as error:
        raise RunError(f"{file.parent}: cannot be written to ({error})") from error
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()


def draw(plot: Callable, *arguments) -> bool:
    """Call a function that draws a figure; what it cannot draw costs the figure, and never the results beside it.

    Returns:
        False where there is no figure: none was to be drawn, or it failed, which is printed.
    """
    try:
        return plot(*arguments) is not False
    except Exception as error:  # fonts, colours, sizes: matplotlib raises whatever its parts raise
        print(f"Warning: no {Path(arguments[-1]).name}: {type(error).__name__}: {error}")
        return False


def read_json(path: Path, kinds: type | tuple[type, ...] = dict):
    """What a JSON file holds, which has to be an object unless `kinds` say otherwise."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: is not valid JSON ({error})") from error
    if not isinstance(content, kinds):
        raise RunError(f"{path}: holds a JSON value of the wrong kind ({type(content).__name__})")
    return content


def write_json(path: Path, content: dict) -> None:
    """Write whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)
