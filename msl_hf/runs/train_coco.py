r"""Train a multi-label classifier on MS-COCO 2014 or 2017, or any data set stored as COCO is.

    msl-hf train-coco --config coco_resnet101 --data_dir data/coco --output_dir outputs/coco-resnet101

data/coco holds train2014/, val2014/ and annotations/instances_{train,val}2014.json, as cocodataset.org offers them.
"""

from dataclasses import dataclass, field

from ..console.errors import RunError
from ..data import load_coco
from .arguments import parse_arguments
from .train import train


@dataclass
class COCOArguments:
    """COCO's own flags."""

    year: int = field(default=2014, metadata={"help": "2014 or 2017: which folders and annotation files."})
    keep_unlabelled: bool = field(default=False, metadata={"help": "Keep images without any label."})


def run(argv: list[str]) -> None:
    """`msl-hf train-coco` with these flags."""
    arguments, coco = parse_arguments(argv, __doc__, COCOArguments)
    if arguments.data.data_dir is None:
        raise RunError("say where COCO is: --data_dir FOLDER (it holds annotations/)")
    train(arguments, lambda data: load_coco(data.data_dir, coco.year, coco.keep_unlabelled))
