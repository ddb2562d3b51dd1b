"""The output folder: one run each, complete checkpoints, metrics.json."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from .arguments import Arguments, RunError

RUN_FILE = "run.json"
CHECKPOINT_FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt")

# What may differ between the two halves of an interrupted run without making it a different run.
FREE_SETTINGS = ("check_images", "cpu_threads", "dataset_name", "download", "license", "robustness_curve")


def check_output_dir(arguments: Arguments) -> None:
    """Refuse an output folder that holds a different run, or a model that no run of ours made.

    Raises:
        RunError: naming the settings that differ.
    """
    folder = Path(arguments.training.output_dir)
    if (folder / RUN_FILE).is_file():
        earlier, settings = read_json(folder / RUN_FILE), run_settings(arguments)
        differing = sorted(key for key in settings.keys() | earlier.keys() if settings.get(key) != earlier.get(key))
        if differing:
            changes = ", ".join(f"{key} {earlier.get(key)!r} -> {settings.get(key)!r}" for key in differing[:5])
            raise RunError(f"{folder} already holds a different run ({changes}); choose another --output_dir, and "
                           f"--model {folder} with it to train on from this one's weights")  # fmt: skip
    elif (folder / "config.json").is_file() or any(folder.glob("checkpoint-*")):
        raise RunError(f"{folder} already holds a model or checkpoints of something else; choose another --output_dir")


def claim_output_dir(arguments: Arguments) -> None:
    """Make the output folder and note in it the settings of this run."""
    folder = Path(arguments.training.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RUN_FILE, run_settings(arguments))


def run_settings(arguments: Arguments) -> dict:
    """The settings that make a run what it is, as plain JSON values."""
    ours = arguments.training.what_makes_a_run()
    settings = {**arguments.given, **ours}
    return json.loads(json.dumps({key: value for key, value in settings.items() if key not in FREE_SETTINGS}))


def find_checkpoint(output_dir: str, resume: str | None) -> str | None:
    """The checkpoint that `--resume_from_checkpoint` means.

    Args:
        output_dir: Folder of the run.
        resume: None or "false": none. "true": the last complete one (none is an error). Else a path.
    """
    if resume is None or resume.lower() == "false":
        return None
    if resume.lower() != "true":
        problem = incompleteness(Path(resume))
        if problem:
            raise RunError(f"{resume}: {problem}")
        return resume
    folders = sorted(
        (folder for folder in Path(output_dir).glob("checkpoint-*") if folder.name.split("-")[-1].isdigit()),
        key=lambda folder: int(folder.name.split("-")[-1]),
        reverse=True,
    )
    for folder in folders:
        problem = incompleteness(folder)
        if problem is None:
            return str(folder)
        print(f"Skipping {folder}: {problem}")
    raise RunError(f"{output_dir}: holds no complete checkpoint; leave out --resume_from_checkpoint to start anew")


def incompleteness(checkpoint: Path) -> str | None:
    """What a checkpoint lacks, None if it is complete. `trainer_state.json` is the last file that Trainer writes."""
    if not checkpoint.is_dir():
        return "no such checkpoint folder"
    missing = [name for name in CHECKPOINT_FILES if not (checkpoint / name).is_file()]
    if missing:
        return f"half-written checkpoint, lacks {', '.join(missing)}"
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return "half-written checkpoint, trainer_state.json is missing or cut off"
    return None


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


def read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise RunError(f"{path}: is not valid JSON ({error})") from error


def write_json(path: Path, content: dict) -> None:
    """Write whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)
