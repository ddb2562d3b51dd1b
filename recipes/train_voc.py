r"""Train a multi-label classifier on PASCAL VOC, or any data set stored as VOC is.

    accelerate launch recipes/train_voc.py                      # generated scenes: nothing to download
    accelerate launch recipes/train_voc.py --config recipes/configs/voc_resnet101.yaml \
        --data_dir data/VOCdevkit --download true --output_dir outputs/voc-resnet101
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from msl_hf.data import load_voc, make_scenes
from msl_hf.data.readers.voc import download_voc
from msl_hf.runs.arguments import DataArguments, parse_arguments
from msl_hf.runs.train import main, train

DEMO = Path(__file__).parent / "configs" / "demo.yaml"


@dataclass
class VOCArguments:
    """VOC's own flags."""

    year: int = field(default=2007, metadata={"help": "Year of the data set: the folder VOC<year>."})
    download: bool = field(default=False, metadata={"help": "Fetch the official archives into --data_dir first."})


def train_voc() -> None:
    arguments, voc = parse_arguments(sys.argv[1:], __doc__, VOCArguments, without_data=DEMO)

    def load(data: DataArguments):
        if data.data_dir is None:
            scenes = Path(arguments.training.output_dir).parent / "scenes"
            print(f"No --data_dir: training on generated scenes instead of photographs, written to {scenes}")
            return load_voc(make_scenes(scenes))
        if voc.download:
            download_voc(data.data_dir, voc.year)
        return load_voc(data.data_dir, voc.year)

    arguments.data.ignored_as = arguments.data.ignored_as or "negative"  # as in the reference
    train(arguments, load)


if __name__ == "__main__":
    main(train_voc)
