"""Train a multi-label classifier on PASCAL VOC, or any data set stored as VOC is.

    accelerate launch recipes/train_voc.py                      # generated scenes, nothing to download
    accelerate launch recipes/train_voc.py --config recipes/configs/voc_resnet101.yaml --data_dir data/VOCdevkit
"""

import sys
from dataclasses import dataclass, field

from msl_hf.data import load_voc
from msl_hf.runs.arguments import parse_arguments
from msl_hf.runs.train import main, train


@dataclass
class VOCArguments:
    """VOC's own flags."""

    year: int = field(default=2007, metadata={"help": "2007 or 2012."})


def train_voc() -> None:
    arguments, voc = parse_arguments(sys.argv[1:], __doc__, VOCArguments)
    train(arguments, lambda data: load_voc(data.data_dir, voc.year))


if __name__ == "__main__":
    main(train_voc)
