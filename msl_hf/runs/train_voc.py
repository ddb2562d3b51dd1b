r"""Train a multi-label classifier on PASCAL VOC, or any data set stored as VOC is.

msl-hf train-voc                                            # generated scenes: nothing to download
msl-hf train-voc --config voc_resnet101 --data_dir data/VOCdevkit --download true --output_dir outputs/voc-resnet101
"""

from dataclasses import dataclass, field

from ..data import load_voc
from ..data.readers.voc import download_voc
from .arguments import DataArguments, parse_arguments
from .reading import generated_scenes
from .train import train


@dataclass
class VOCArguments:
    """VOC's own flags."""

    year: int = field(default=2007, metadata={"help": "Year of the data set: the folder VOC<year>."})
    download: bool = field(default=False, metadata={"help": "Fetch the official archives into --data_dir first."})


def run(argv: list[str]) -> None:
    """`msl-hf train-voc` with these flags."""
    arguments, voc = parse_arguments(argv, __doc__, VOCArguments, without_data="demo")

    def load(data: DataArguments):
        if data.data_dir is None:
            return generated_scenes(arguments.training.output_dir, "training on")
        if voc.download:
            download_voc(data.data_dir, voc.year)
        return load_voc(data.data_dir, voc.year)

    arguments.data.ignored_as = arguments.data.ignored_as or "negative"  # as in the reference
    train(arguments, load)
