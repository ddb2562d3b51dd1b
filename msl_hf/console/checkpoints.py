"""Which checkpoints of a training run are complete."""

import json
import zipfile
from pathlib import Path

from safetensors import safe_open
from transformers.trainer import TRAINER_STATE_NAME

from ..training.averaging import FILE as AVERAGE_FILE
from .errors import RunError
from .files import RUN_FILE, read_json

WEIGHTS = ("model.safetensors", "adapter_model.safetensors")  # a checkpoint has one of them
STATES = ("optimizer.pt", "scheduler.pt")


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
