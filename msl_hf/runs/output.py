"""The output folder: one run each, complete checkpoints, metrics.json."""

import contextlib
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..console.checkpoints import incompleteness
from ..console.errors import RunError
from ..console.files import RUN_FILE, check_folder, locked, read_json, write_json
from .arguments import Arguments

LOCK_FILE = ".lock"

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


def difference(checkpoint: Path, settings: dict) -> str | None:
    """How the run that wrote a checkpoint differs from this one; None where it does not."""
    differing = _differing(read_json(checkpoint / RUN_FILE), settings)
    return f"is of another run ({differing})" if differing else None


def _differing(earlier: dict, settings: dict) -> str:
    names = sorted(key for key in settings.keys() | earlier.keys() if settings.get(key) != earlier.get(key))
    return ", ".join(f"{name} {earlier.get(name)!r} -> {settings.get(name)!r}" for name in names[:5])
