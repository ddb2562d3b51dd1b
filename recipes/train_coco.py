r"""Train a multi-label classifier on MS-COCO 2014 or 2017, or any data set stored as COCO is.

    accelerate launch recipes/train_coco.py --config recipes/configs/coco_resnet101.yaml --data_dir data/coco \
        --output_dir outputs/coco-resnet101

data/coco holds train2014/, val2014/ and annotations/instances_{train,val}2014.json, as cocodataset.org offers them.
"""

import sys
from dataclasses import dataclass, field

from msl_hf.data import load_coco
from msl_hf.runs.arguments import RunError, parse_arguments
from msl_hf.runs.train import main, train


@dataclass
class COCOArguments:
    """COCO's own flags."""

    year: int = field(default=2014, metadata={"help": "2014 or 2017: which folders and annotation files."})
    keep_unlabelled: bool = field(default=False, metadata={"help": "Keep images without any label."})


def train_coco() -> None:
    arguments, coco = parse_arguments(sys.argv[1:], __doc__, COCOArguments)
    if arguments.data.data_dir is None:
        raise RunError("say where COCO is: --data_dir FOLDER (it holds annotations/)")
    train(arguments, lambda data: load_coco(data.data_dir, coco.year, coco.keep_unlabelled))


if __name__ == "__main__":
    main(train_coco)
