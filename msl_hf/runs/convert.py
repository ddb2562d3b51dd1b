r"""Turn a .pth file of the reference code of MSL or CSRA into a folder that from_pretrained loads.

    msl-hf convert-checkpoint --checkpoint msl_c_voc.pth --csra_lambda 0.1 --output_dir outputs/msl-c-voc

ResNet-50, -101, -152 and ViT with 1 to 8 heads; the number of heads and classes is read from the file. It is read with
weights_only=True: nothing in it is executed.
"""

from dataclasses import dataclass, field
from pathlib import Path

from ..console.errors import RunError, user_input
from ..console.files import check_folder, write_json
from ..console.flags import parse_flags
from ..data.labels import read_class_names
from ..hub.convert import LAMBDAS, convert_checkpoint


@dataclass
class ConvertArguments:
    """What to convert, and what the file does not hold."""

    checkpoint: str | None = field(default=None, metadata={"help": "The .pth file."})
    output_dir: str | None = field(default=None, metadata={"help": "Where the model folder goes."})
    csra_lambda: float | None = field(default=None, metadata={"help": f"Lambda of its training ({LAMBDAS})."})
    labels: str | None = field(default=None, metadata={"help": "Class names: a JSON list, or a name a line."})
    image_size: int | None = field(default=None, metadata={"help": "Side of the input; default 448, or the ViT's."})
    image_mean: list[float] | None = field(default=None, metadata={"help": "Default 0 0 0; 0.5 0.5 0.5 on WIDER."})
    image_std: list[float] | None = field(default=None, metadata={"help": "Default 1 1 1; 0.5 0.5 0.5 on WIDER."})
    seed: int = field(default=0, metadata={"help": "Without effect: nothing here is random."})


def run(argv: list[str]) -> None:
    """`msl-hf convert-checkpoint` with these flags."""
    (arguments,) = parse_flags(argv, __doc__, ConvertArguments)
    if arguments.checkpoint is None or arguments.output_dir is None:
        raise RunError("say what to convert and where it goes: --checkpoint FILE.pth --output_dir FOLDER")
    if arguments.csra_lambda is None:
        raise RunError(f"the file does not say which lambda it was trained with: --csra_lambda ({LAMBDAS})")
    output_dir = Path(arguments.output_dir)
    check_folder(output_dir)
    if (output_dir / "config.json").exists():
        raise RunError(f"{output_dir} already holds a model; choose another --output_dir")
    with user_input():
        labels = None if arguments.labels is None else read_class_names(arguments.labels)
        model, processor = convert_checkpoint(
            arguments.checkpoint,
            arguments.csra_lambda,
            labels,
            arguments.image_size,
            arguments.image_mean,
            arguments.image_std,
        )
    model.save_pretrained(output_dir)
    processor.save_pretrained(output_dir)
    config = model.config
    found = {
        "checkpoint": Path(arguments.checkpoint).name,
        "architecture": config.backbone_config.architecture,
        "num_heads": config.num_heads,
        "csra_lambda": config.csra_lambda,
        "num_labels": config.num_labels,
        "image_size": list(config.image_height_width),
    }
    write_json(output_dir / "metrics.json", found)
    print(f"{found['architecture']}, {config.num_heads} heads, lambda {config.csra_lambda:g}, {config.num_labels} "
          f"classes ({', '.join(list(config.id2label.values())[:3])}, ...)\nModel to use: {output_dir}")  # fmt: skip
