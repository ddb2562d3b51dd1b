"""Flags and YAML files of the recipes."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NoReturn

import torch
import yaml
from transformers import HfArgumentParser

from ..data.files import split_name
from ..data.transforms import INTERPOLATIONS
from ..model.configuration_msl import HEADS
from ..training import MSLTrainingArguments

IGNORED_AS_NEGATIVE_HELP = "Count unspecified labels as negative in P and R (reference, WIDER)."
MAX_PIXELS_HELP = "Let images of so many pixels in; default: 178,956,970, Pillow's own limit."


class RunError(Exception):
    """A mistake in what the user asked for; recipes print the message without a stack trace."""


@dataclass
class ModelArguments:
    """Which network to train."""

    backbone: str | None = field(default=None, metadata={"help": "Hub id or folder of a pretrained image backbone."})
    model: str | None = field(default=None, metadata={"help": "Start from this MSL model instead of a backbone."})
    backbone_weights: str | None = field(
        default=None, metadata={"help": "Load the backbone's weights from this .pth file (a CutMix ResNet-101, say)."}
    )
    from_scratch: bool = field(default=False, metadata={"help": "Random weights; --backbone may be a timm name."})
    image_size: int | None = field(default=None, metadata={"help": "Side of the input; default: the backbone's own."})
    head: str = field(default="csra", metadata={"help": "The multi-label head.", "choices": list(HEADS)})
    num_heads: int = field(default=1, metadata={"help": "CSRA heads: 1, 2, 4, 6 or 8."})
    csra_lambda: float = field(default=0.1, metadata={"help": "Weight of the class-specific residual attention."})
    image_mean: list[float] | None = field(default=None, metadata={"help": "Override the backbone's mean (0 0 0)."})
    image_std: list[float] | None = field(default=None, metadata={"help": "Override the backbone's std (1 1 1)."})
    interpolation: str | None = field(
        default=None, metadata={"help": "Override the backbone's interpolation.", "choices": list(INTERPOLATIONS)}
    )


@dataclass
class DataArguments:
    """Which images to train on."""

    data_dir: str | None = field(default=None, metadata={"help": "Where the data lie; default: generated scenes."})
    dataset_name: str | None = field(default=None, metadata={"help": "How the model card calls the data."})
    train_split: str | None = field(default=None, metadata={"help": "Split to train on; default: trainval or train."})
    selection_split: str = field(
        default="none", metadata={"help": "Split that chooses the best epoch; none keeps the last. Never test."}
    )
    validation_fraction: float = field(
        default=0.0, metadata={"help": "Share of the training images to hold out as 'validation' where there is none."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on a random part of this size."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on random parts of this size."})
    drop_bad_images: bool = field(default=False, metadata={"help": "Leave out missing and broken images."})
    max_pixels: int | None = field(default=None, metadata={"help": MAX_PIXELS_HELP})
    check_images: bool = field(
        default=True,
        metadata={"help": "Decode every image before training; false for millions: a broken one stops the run later."},
    )
    crop_scale: list[float] = field(
        default_factory=lambda: [0.7, 1.0], metadata={"help": "Share of the area of a training crop; 1 1 only flips."}
    )
    ignored_as: str | None = field(
        default=None,
        metadata={
            "help": "What an unknown label is in training; default: ignore where the data say unknown, negative for "
            "VOC's difficult and WIDER's unspecified ones, and for the losses ll_r and splc.",
            "choices": ["negative", "ignore"],
        },
    )
    hidden_labels: float = field(
        default=0.0, metadata={"help": "Make this share of the training labels unknown (to study missing labels)."}
    )
    pos_weight: str = field(
        default="none",
        metadata={
            "help": "Weights of positives in the BCE: none, balanced, or a JSON file (a list, or name: weight)."
        },
    )


@dataclass
class MaskArguments:
    """Which masks to lay over them."""

    masks: str = field(default="generated", metadata={"help": "generated, patches, or a folder of mask files."})
    eval_masks: str | None = field(
        default=None,
        metadata={
            "help": "Masks of the masked test; default: the half of --masks that training leaves alone. Another "
            "source leaves the whole of a folder to training."
        },
    )
    mask_hole: str = field(
        default="white", metadata={"help": "Colour of holes in mask files.", "choices": ["white", "black"]}
    )
    hole_ratio: list[float] = field(
        default_factory=lambda: [0.5, 0.6], metadata={"help": "Interval of the share of removed pixels."}
    )
    eval_hole_ratio: list[float] | None = field(
        default=None, metadata={"help": "Interval of the masked test; default: --hole_ratio."}
    )


@dataclass
class RunArguments:
    """What the recipe itself needs beside `MSLTrainingArguments`."""

    cpu_threads: int | None = field(default=None, metadata={"help": "Threads of one process; default: all cores."})
    robustness_curve: bool = field(
        default=True, metadata={"help": "In the end measure under light and medium masks, too, for the card."}
    )
    ignored_as_negative: bool = field(default=False, metadata={"help": IGNORED_AS_NEGATIVE_HELP})
    save_adapter: bool = field(
        default=False, metadata={"help": "With --lora_rank: write the adapters alone, too, into OUTPUT_DIR/adapter."}
    )
    license: str | None = field(
        default=None, metadata={"help": "Licence of the trained model in its card, such as apache-2.0."}
    )


@dataclass
class Arguments:
    """All arguments of a training run, and the settings as given, for the record."""

    model: ModelArguments
    data: DataArguments
    masks: MaskArguments
    run: RunArguments
    training: MSLTrainingArguments
    given: dict


def parse_arguments(argv: Sequence[str], description: str, *extra: type, without_data: Path | None = None):
    """Parse `--config FILE.yaml` and the flags of a training recipe; flags override the file.

    Args:
        argv: Command line without the program's name.
        description: Shown by `--help`.
        extra: Further argument dataclasses of the recipe.
        without_data: YAML file used where neither `--config` nor `--data_dir` is given.

    Returns:
        `Arguments`, followed by one instance for each of `extra`.

    Raises:
        RunError: for an unknown key or flag, or a value of the wrong kind.
    """
    groups = (ModelArguments, DataArguments, MaskArguments, RunArguments, MSLTrainingArguments, *extra)
    model, data, masks, run, training, *others = parse_flags(argv, description, *groups, without_data=without_data)
    _check(model, data, masks)
    if model.from_scratch and training.freeze_batch_norm:
        raise RunError("--freeze_batch_norm keeps the statistics of pretrained weights, and --from_scratch has none")
    if run.save_adapter and not training.lora_rank:
        raise RunError("--save_adapter writes the adapters of --lora_rank, which is not set")
    if training.output_dir in (None, "trainer_output"):
        raise RunError("say where the model goes: --output_dir FOLDER")
    given = {
        item.name: getattr(group, item.name)
        for group in (model, data, masks, run, *others)
        for item in fields(group)
    }  # fmt: skip
    return Arguments(model, data, masks, run, training, given), *others


def parse_flags(argv: Sequence[str], description: str, *groups: type, without_data: Path | None = None) -> list:
    """`--config FILE.yaml`, `--base FILE.yaml` and flags -> one instance of each of the argument dataclasses."""
    argv = [part for flag in argv for part in (flag.split("=", 1) if flag.startswith("--") else [flag])]
    argv = _bare_resume_means_true(argv)
    config = _take_file("--config", argv) or (None if "--data_dir" in argv else without_data)
    base = _take_file("--base", argv)
    if base and not config:
        raise RunError("--base takes the place of the base of a configuration; name one with --config")
    parser = HfArgumentParser(groups, description=description, allow_abbrev=False, prog=Path(sys.argv[0]).name)
    parser.error = _refuse  # without the usage of some two hundred flags
    known = {item.name for group in groups for item in fields(group) if item.init}
    flags = [*(_yaml_to_flags(config, base, known) if config else []), *argv]
    if MSLTrainingArguments in groups and not {"--bf16", "--fp16", "--help"} & set(flags):
        flags = [*_default_precision("--use_cpu" in flags), *flags]
    try:
        *parsed, unknown = parser.parse_args_into_dataclasses(
            args=flags, return_remaining_strings=True, look_for_args_file=False
        )
    except (ValueError, ImportError, OSError) as error:  # a package, or a file, that an argument asks for
        raise RunError(str(error)) from error
    if unknown:
        raise RunError(f"unknown arguments: {' '.join(unknown)} (see --help)")
    return parsed


def _take_file(flag: str, argv: list[str]) -> str | None:
    """The file after a flag; both are taken out of the command line."""
    if flag not in argv:
        return None
    at = argv.index(flag)
    if at + 1 >= len(argv):
        raise RunError(f"{flag} needs a YAML file")
    file = argv[at + 1]
    del argv[at : at + 2]
    return file


def _refuse(message: str) -> NoReturn:
    raise RunError(f"{message} (see --help)")


def _default_precision(use_cpu: bool) -> list[str]:
    """bfloat16 autocast wherever the hardware computes in it."""
    if torch.accelerator.is_available() and not use_cpu:
        has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        return ["--bf16", "true"] if has_bf16 else []
    capabilities = torch.cpu.get_capabilities()
    has_bf16 = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return ["--use_cpu", "true", "--bf16", "true"] if has_bf16 else []


def _check(model: ModelArguments, data: DataArguments, masks: MaskArguments) -> None:
    if model.model and model.backbone:
        raise RunError("--model and --backbone exclude each other: start from an MSL model or from a backbone")
    if split_name(data.selection_split) == "test":
        raise RunError(f"--selection_split {data.selection_split} would choose the model on the test images; use a "
                       "held-out split")  # fmt: skip
    for name in ("hole_ratio", "eval_hole_ratio"):
        interval = getattr(masks, name)
        if interval is not None and len(interval) != 2:
            raise RunError(f"--{name} takes two numbers, got {interval}")
    if len(data.crop_scale) != 2 or not 0 < data.crop_scale[0] <= data.crop_scale[1] <= 1:
        raise RunError(f"--crop_scale takes two numbers in (0, 1], the smaller first, got {data.crop_scale}")
    for name in ("validation_fraction", "hidden_labels"):
        if not 0 <= getattr(data, name) < 1:
            raise RunError(f"--{name} must lie in [0, 1), got {getattr(data, name)}")
    for name, statistics in (("image_mean", model.image_mean), ("image_std", model.image_std)):
        if statistics is not None and len(statistics) != 3:
            raise RunError(f"--{name} takes three numbers, got {statistics}")


def _bare_resume_means_true(argv: list[str]) -> list[str]:
    """`--resume_from_checkpoint` alone means "true": the last complete checkpoint."""
    if "--resume_from_checkpoint" in argv:
        after = argv.index("--resume_from_checkpoint") + 1
        if after == len(argv) or argv[after].startswith("--"):
            argv.insert(after, "true")
    return argv


def _yaml_to_flags(path: str | Path, base: str | None, known: set[str]) -> list[str]:
    """The settings of a YAML file as flags, so that both are parsed by the same rules (1e-4 is a number in both)."""
    settings = read_yaml(path, base)
    unknown = sorted(str(key) for key in settings if key not in known)
    if unknown:
        raise RunError(f"{path}: unknown {'key' if len(unknown) == 1 else 'keys'} {', '.join(unknown)}")
    flags = []
    for key, value in settings.items():
        if value is None:
            continue
        values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        flags += [f"--{key}", *(str(item) for item in values)]
    return flags


def read_yaml(path: str | Path, base: str | Path | None = None, below: Sequence[Path] = ()) -> dict:
    """The settings of a YAML file, over those of the file beside it that `base` names.

    Args:
        path: The file.
        base: Another file in place of the one that the file names.
        below: Files whose base this one is.
    """
    path = Path(path)
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: is not valid YAML ({error})") from error
    if settings is None:
        settings = {}
    if not isinstance(settings, dict):
        raise RunError(f"{path}: must hold 'name: value' lines")
    named, below = settings.pop("base", None), (*below, path.resolve())
    if named is None and base is not None:
        raise RunError(f"{path}: has no base that --base could take the place of")
    if named is None:
        return settings
    if not isinstance(named, str):
        raise RunError(f"{path}: base must name a YAML file, got {named!r}")
    replaced = path.parent / named
    base = replaced if base is None else Path(base)
    if base.resolve() in below:
        raise RunError(f"{path}: its base {base} is the file itself, or is based on it")
    below_it = read_yaml(base, below=below)
    lost = sorted(set(read_yaml(replaced, below=below)) - set(below_it)) if base != replaced else []
    if lost:
        raise RunError(f"--base {base} sets nothing for {', '.join(lost[:5])}, which {replaced} does; write it over "
                       f"that one, with 'base: {replaced.name}'")  # fmt: skip
    return {**below_it, **settings}
