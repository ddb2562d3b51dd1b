"""The output folder: one run each, complete checkpoints, metrics.json."""

import contextlib
import json
import os
import shlex
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import safe_open
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..training.averaging import FILE as AVERAGE_FILE
from .arguments import Arguments
from .errors import RunError

RUN_FILE = "run.json"
LOCK_FILE = ".lock"
WEIGHTS = ("model.safetensors", "adapter_model.safetensors")  # a checkpoint has one of them
STATES = ("optimizer.pt", "scheduler.pt")

# What may differ between the two halves of an interrupted run without making it a different run.
FREE_SETTINGS = (
    "check_images",
    "cpu_threads",
    "dataset_name",
    "download",
    "license",
    "robustness_curve",
    "view_cost",
    "save_adapter",
)


def check_output_dir(arguments: Arguments) -> None:
    """Refuse an output folder that holds a different run, or a model that no run of ours made.

    Raises:
        RunError: naming the settings that differ.
    """
    folder = Path(arguments.training.output_dir)
    check_folder(folder)
    if (folder / RUN_FILE).is_file():
        changes = _differing(read_json(folder / RUN_FILE), run_settings(arguments))
        if changes:
            raise RunError(f"{folder} already holds a different run ({changes}); choose another --output_dir, and "
                           f"--model {folder} with it to train on from this one's weights")  # fmt: skip
    elif any(next(folder.glob(name), None) for name in ("config.json", "metrics.json", "checkpoint-*")):
        raise RunError(f"{folder} already holds a model, checkpoints or results of something else; choose another "
                       "--output_dir")  # fmt: skip


@contextlib.contextmanager
def claimed_output_dir(arguments: Arguments) -> Iterator[None]:
    """Within: the output folder is this run's alone, whose settings are noted in it.

    A run that fails before it leaves anything behind leaves no note, either: the mended command may use the folder.

    Raises:
        RunError: where another process trains into it.
    """
    folder = Path(arguments.training.output_dir)
    with locked(folder / LOCK_FILE):
        check_output_dir(arguments)  # a run that began since the first look
        write_json(folder / RUN_FILE, run_settings(arguments))
        try:
            yield
        except BaseException:
            if {file.name for file in folder.iterdir()} <= {RUN_FILE, LOCK_FILE}:
                (folder / RUN_FILE).unlink()
            raise


class NoteRun(TrainerCallback):
    """Put the settings of the run into every checkpoint, as its last file.

    Args:
        settings: Of `run_settings`.
    """

    def __init__(self, settings: dict):
        self.settings = settings

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            write_json(
                Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" / RUN_FILE, self.settings
            )


def command_line() -> str:
    """The command of this process as one would type it."""
    program, *flags = sys.argv
    name = Path(program).name
    if name == "__main__.py":
        return shlex.join(["accelerate", "launch", "-m", "msl_hf", *flags])
    return shlex.join([name, *flags] if name == "msl-hf" else ["accelerate", "launch", program, *flags])


def run_settings(arguments: Arguments) -> dict:
    """The settings that make a run what it is, as plain JSON values."""
    ours = arguments.training.what_makes_a_run()
    settings = {**arguments.given, **ours}
    if arguments.given.get("streaming"):  # whose order hangs on who reads it
        settings["dataloader_num_workers"] = arguments.training.dataloader_num_workers
        settings["processes"] = arguments.training.world_size
    return json.loads(json.dumps({key: value for key, value in settings.items() if key not in FREE_SETTINGS}))


def find_checkpoint(output_dir: str, resume: str | None, settings: dict) -> str | None:
    """The checkpoint that `--resume_from_checkpoint` means.

    Args:
        output_dir: Folder of the run.
        resume: None or "false": none. "true": the last complete one of this run (none is an error). Else a path.
        settings: Of `run_settings`, which a checkpoint has to share.
    """
    if resume is None or resume.lower() == "false":
        return None
    if resume.lower() != "true":
        problem = incompleteness(Path(resume)) or difference(Path(resume), settings)
        if problem:
            raise RunError(f"{resume}: {problem}; to train on from its weights, pass them with --model")
        return resume
    folders = sorted(
        (folder for folder in Path(output_dir).glob("checkpoint-*") if folder.name.split("-")[-1].isdigit()),
        key=lambda folder: int(folder.name.split("-")[-1]),
        reverse=True,
    )
    for folder in folders:
        problem = incompleteness(folder) or difference(folder, settings)
        if problem is None:
            return str(folder)
        print(f"Skipping {folder}: {problem}")
    raise RunError(f"{output_dir}: holds no complete checkpoint; leave out --resume_from_checkpoint to start anew")


def incompleteness(checkpoint: Path) -> str | None:
    """What a checkpoint lacks, None if it is complete. The settings of its run are the last file that is written."""
    if not checkpoint.is_dir():
        return "no such checkpoint folder"
    missing = [name for name in (*STATES, RUN_FILE) if not (checkpoint / name).is_file()]
    weights = [name for name in WEIGHTS if (checkpoint / name).is_file()]
    missing = missing if weights else [WEIGHTS[0], *missing]
    if missing:
        return f"half-written checkpoint, lacks {', '.join(missing)}"
    try:
        is_averaged = read_json(checkpoint / RUN_FILE).get("ema_decay")
    except RunError as error:
        return f"half-written checkpoint, {error}"
    needed = [*weights, *STATES, TRAINER_STATE_NAME, *([AVERAGE_FILE] if is_averaged else [])]
    others = sorted(file.name for file in checkpoint.iterdir() if file.suffix == ".json" and file.name not in needed)
    for name in (*needed, *others):
        try:
            _open(checkpoint / name)
        except Exception as error:  # safetensors, zipfile and json each have their own
            return f"half-written checkpoint, {name} is missing or cut off ({error})"
    return None


def _open(file: Path) -> None:
    """Raise an error for a file of a checkpoint that is not whole, as far as it can be known without loading it."""
    if file.suffix == ".safetensors":
        with safe_open(file, "pt"):
            pass
    elif file.suffix == ".pt":
        with zipfile.ZipFile(file) as archive:  # which has a checksum for each part
            if archive.testzip() is not None:
                raise ValueError(f"{archive.testzip()} is damaged")
    elif not isinstance(json.loads(file.read_text(encoding="utf-8")), dict):
        raise ValueError("it holds no object")


def difference(checkpoint: Path, settings: dict) -> str | None:
    """How the run that wrote a checkpoint differs from this one; None where it does not."""
    differing = _differing(read_json(checkpoint / RUN_FILE), settings)
    return f"is of another run ({differing})" if differing else None


def _differing(earlier: dict, settings: dict) -> str:
    names = sorted(key for key in settings.keys() | earlier.keys() if settings.get(key) != earlier.get(key))
    return ", ".join(f"{name} {earlier.get(name)!r} -> {settings.get(name)!r}" for name in names[:5])


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
