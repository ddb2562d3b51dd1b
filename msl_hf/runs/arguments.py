"""Flags of the commands."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar

from ..console.errors import RunError
from ..console.flags import parse_flags
from ..data.files import split_name
from ..data.transforms import INTERPOLATIONS
from ..model.configuration_msl import HEADS
from ..training import MSLTrainingArguments

IGNORED_AS_NEGATIVE_HELP = "Count unspecified labels as negative in P and R (reference, WIDER)."
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

    # Those of Trainer that `--help` lists here.
    FLAGS_OF_TRAINER: ClassVar = (
        "output_dir", "seed", "max_steps", "resume_from_checkpoint", "push_to_hub", "hub_model_id",
    )  # fmt: skip
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
