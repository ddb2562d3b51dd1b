"""The command `msl-hf`, also `python -m msl_hf`: what a user does, by name."""

import difflib
import importlib
import sys

from .console.errors import RunError
from .data.schema import DataError

# Name -> module, whose `run` takes the flags and whose docstring `--help` shows; what it does.
COMMANDS = {
    "train": ("runs.train_images", "train a classifier on your own images, however their labels are written down"),
    "train-voc": ("runs.train_voc", "... on PASCAL VOC"),
    "train-coco": ("runs.train_coco", "... on MS-COCO"),
    "train-wider": ("runs.train_wider", "... on WIDER-Attribute"),
    "evaluate": ("runs.evaluate", "measure models: metrics, masks, small and hidden objects, speed"),
    "predict": ("runs.predict", "labels of many images into a CSV, JSON Lines or parquet file, or many of them"),
    "figures": ("runs.figures", "contact sheets of what models see in small and hidden objects"),
    "app": ("runs.app", "a page to try models on"),
    "export": ("runs.export", "a model as ONNX, int8 or torch.export program, compared with the original"),
    "convert-checkpoint": ("runs.convert", "a .pth file of the reference code as a model folder"),
    "prepare": ("runs.prepare", "labelled images of any format as parquet files that stream"),
    "ablate": ("studies.ablate", "grids of settings and seeds: runs, tables, figures"),
    "benchmark": ("studies.benchmark", "what training and inference cost on this machine"),
}
OVERVIEW = """Multi-label image classifiers that still recognise objects when they are small or half hidden.

usage: msl-hf COMMAND [flags]            flags of a command: msl-hf COMMAND --help
       accelerate launch -m msl_hf COMMAND [flags]       on several GPUs

{commands}

Where to begin:
  msl-hf train                                             four minutes on generated scenes, nothing to download
  msl-hf train --data_dir photos --backbone timm/resnet50.a1_in1k --validation_fraction 0.1 --output_dir outputs/photos
  msl-hf predict --model outputs/photos --images holiday/ --output labels.csv
"""


def main(*before: str) -> None:
    """Run the command of `sys.argv`; mistakes in what the user asked for end with a message, without a stack trace.

    Args:
        before: Words put before those of the command line, such as the name of the command.
    """
    name, *flags = [*before, *sys.argv[1:]] or ["--help"]
    if name in ("--help", "-h", "help"):
        width = max(map(len, COMMANDS)) + 2
        print(OVERVIEW.format(commands="\n".join(f"  {key:<{width}}{does}" for key, (_, does) in COMMANDS.items())))
        return
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"it is one of {', '.join(COMMANDS)}"
        sys.exit(f"error: there is no command {name!r}; {hint}")
    try:
        importlib.import_module(f".{COMMANDS[name][0]}", __package__).run(flags)
    except (RunError, DataError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(__package__):
            raise
        package = "msl_hf[app]" if error.name == "gradio" else error.name
        sys.exit(f"error: msl-hf {name} needs {error.name}, which is not installed: pip install '{package}'")
