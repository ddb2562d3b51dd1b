"""Flags of the commands."""

import argparse
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import NoReturn

import torch
from transformers import HfArgumentParser, TrainingArguments

from ..data.files import split_name
from ..data.transforms import INTERPOLATIONS
from ..model.configuration_msl import HEADS
from ..training import MSLTrainingArguments
from .configs import find_yaml, read_yaml
from .errors import RunError

IGNORED_AS_NEGATIVE_HELP = "Count unspecified labels as negative in P and R (reference, WIDER)."
FLAGS_OF_THE_RUN = ("output_dir", "seed", "max_steps", "resume_from_checkpoint", "push_to_hub", "hub_model_id")
WORKERS_HELP = "Processes that read images; default: with an accelerator the usable cores, at most 8, else none."
MAX_PIXELS_HELP = "Let images of so many pixels in; default: 178,956,970, Pillow's own limit."


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
    final_image_size: int | None = field(
        default=None,
        metadata={"help": "Train the last --final_epochs with this larger side, for which the model is made; those "
                          "before with --image_size."},
    )  # fmt: skip
    final_epochs: int = field(default=2, metadata={"help": "Epochs of --final_image_size."})
    output_stride: int | None = field(
        default=None,
        metadata={"help": "16 or 8: finer features of timm CNNs, at more cost; default: the network's own."},
    )
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
    """The run."""

    cpu_threads: int | None = field(default=None, metadata={"help": "Threads of one process; default: usable cores."})
    robustness_curve: bool = field(
        default=True,
        metadata={
            "help": "In the end measure under light and medium masks and of covered objects, too, for the card."
        },
    )
    ignored_as_negative: bool = field(default=False, metadata={"help": IGNORED_AS_NEGATIVE_HELP})
    view_cost: float = field(
        default=4.0,
        metadata={"help": "In the end choose on the selection split how the model looks at images, at most at so many "
                          "times the cost of the plain pass, and its thresholds; 1 leaves out both."},
    )  # fmt: skip
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


def parse_arguments(argv: Sequence[str], description: str, *extra: type, without_data: str | None = None):
    """Parse `--config NAME|FILE` and the flags of a training command; flags override the file.

    Args:
        argv: Command line without the program's name.
        description: Shown by `--help`.
        extra: Further argument dataclasses of the command.
        without_data: Configuration used where neither a configuration nor any data are named.

    Returns:
        `Arguments`, followed by one instance for each of `extra`.

    Raises:
        RunError: for an unknown key or flag, or a value of the wrong kind.
    """
    groups = (DataArguments, *extra, ModelArguments, MaskArguments, RunArguments, MSLTrainingArguments)
    data, *others, model, masks, run, training = parse_flags(argv, description, *groups, without_data=without_data)
    _check(model, data, masks)
    if model.final_image_size is not None and not 0 < model.final_epochs < training.num_train_epochs:
        raise RunError(f"--final_epochs {model.final_epochs} must lie between 0 and --num_train_epochs "
                       f"{training.num_train_epochs:g}, of which those before have --image_size")  # fmt: skip
    if model.final_image_size is not None and training.max_steps > 0:
        raise RunError("--final_image_size counts epochs, and --max_steps steps; leave one of them out")
    if not run.view_cost >= 1:
        raise RunError(f"--view_cost must be at least 1, the cost of a plain pass, got {run.view_cost}")
    if model.from_scratch and training.freeze_batch_norm:
        raise RunError("--freeze_batch_norm keeps the statistics of pretrained weights, and --from_scratch has none")
    if model.from_scratch and (training.freeze_backbone or training.freeze_stages):
        raise RunError("--freeze_backbone and --freeze_stages keep pretrained weights, and --from_scratch has none")
    if run.save_adapter and not training.lora_rank:
        raise RunError("--save_adapter writes the adapters of --lora_rank, which is not set")
    if training.output_dir in (None, "trainer_output"):
        raise RunError("say where the model goes: --output_dir FOLDER")
    if training.model_init_kwargs is not None:
        raise RunError("--model_init_kwargs is for MSLTrainer in Python; here there are --head, --image_size, ...")
    given = {
        item.name: getattr(group, item.name)
        for group in (model, data, masks, run, *others)
        for item in fields(group)
    }  # fmt: skip
    return Arguments(model, data, masks, run, training, given), *others


def parse_flags(argv: Sequence[str], description: str, *groups: type, without_data: str | None = None) -> list:
    """`--config NAME|FILE`, `--base NAME|FILE` and flags -> one instance of each of the argument dataclasses."""
    argv = [part for flag in argv for part in _spelled(flag)]
    argv = _bare_resume_means_true(argv)
    has_data = {"--data_dir", "--train_json", "--val_json"} & set(argv)
    config = _take("--config", argv) or (None if has_data else without_data)
    base = _take("--base", argv)
    if base and not config:
        raise RunError("--base takes the place of the base of a configuration; name one with --config")
    parser = HfArgumentParser(
        groups, description=description, allow_abbrev=False, usage=argparse.SUPPRESS, formatter_class=_HelpFormatter
    )
    parser.error = _refuse  # without the usage of some two hundred flags
    _sort_help(parser, groups)
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


def _spelled(flag: str) -> list[str]:
    """`--image-size=96` as `--image_size 96`."""
    if not flag.startswith("--"):
        return [flag]
    name, *value = flag.split("=", 1)
    return [name.replace("-", "_").replace("__", "--", 1), *value]


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Flags in one spelling, with the kind of their value; what has no default says none."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34, width=119)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        kind = {int: "N", float: "X", str: "TEXT"}.get(action.type, "true|false" if action.nargs == "?" else "VALUE")
        value = (
            "|".join(map(str, action.choices)) if action.choices else f"{kind} ..." if action.nargs == "+" else kind
        )
        return action.option_strings[0] if action.nargs == 0 else f"{action.option_strings[0]} {value}"

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, []) else super()._get_help_string(action)


def _sort_help(parser: argparse.ArgumentParser, groups: Sequence[type]) -> None:
    """Have `--help` list flags under the words of the class that declares them; Trainer's two hundred last."""
    classes = [cls for group in groups for cls in group.__mro__ if is_dataclass(cls)]
    classes.sort(key=lambda cls: cls is TrainingArguments)
    declared = {name: cls for cls in reversed(classes) for name in inspect.get_annotations(cls)}
    declared.update(dict.fromkeys(FLAGS_OF_THE_RUN, RunArguments) if RunArguments in classes else {})
    everything = parser._optionals._group_actions
    parser._action_groups.clear()
    for cls in dict.fromkeys(classes):
        is_ours = cls is not TrainingArguments
        title = cls.__doc__.split(".\n")[0].rstrip(".") if is_ours else "All other flags of `TrainingArguments`"
        section = parser.add_argument_group(title)
        section._group_actions = [action for action in everything if declared.get(action.dest) is cls]
    section = parser.add_argument_group("Beside them")
    section.add_argument(
        "--config", default=argparse.SUPPRESS, help="FILE.yaml, or the name of a shipped configuration."
    )
    section.add_argument("--base", default=argparse.SUPPRESS, help="Another file or name in place of its `base`.")
    section._group_actions += [action for action in everything if action.dest == "help"]
    for action in parser._actions:
        if action.option_strings[0].startswith("--no_"):
            action.help = argparse.SUPPRESS  # what `--flag false` says


def _take(flag: str, argv: list[str]) -> str | None:
    """What follows a flag; both are taken out of the command line."""
    if flag not in argv:
        return None
    at = argv.index(flag)
    if at + 1 >= len(argv):
        raise RunError(f"{flag} needs a YAML file, or the name of a configuration that comes with the package")
    given = argv[at + 1]
    del argv[at : at + 2]
    return given


def _refuse(message: str) -> NoReturn:
    raise RunError(f"{message} (see --help)")


def _default_precision(use_cpu: bool) -> list[str]:
    """bfloat16 autocast wherever the hardware computes in it."""
    if torch.accelerator.is_available() and not use_cpu:
        has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        return ["--bf16", "true"] if has_bf16 else []
    # Older versions of torch do not say what the processor has; there it is float32.
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
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


def _yaml_to_flags(config: str, base: str | None, known: set[str]) -> list[str]:
    """The settings of a YAML file as flags, so that both are parsed by the same rules (1e-4 is a number in both)."""
    path = find_yaml(config)
    settings = read_yaml(path, None if base is None else find_yaml(base))
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
