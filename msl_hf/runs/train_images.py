r"""Train a multi-label classifier on your own images, whichever way their labels are written down.

    msl-hf train                                                # generated scenes: nothing to download
    msl-hf train --data_dir photos --backbone timm/resnet50.a1_in1k --output_dir outputs/photos
    accelerate launch -m msl_hf train --data_dir photos ...     # on several GPUs or machines

photos/train/metadata.jsonl has a line for each image: {"file_name": "a.jpg", "labels": ["cat", "dog"]}. Tables with a
column for each class, exports of Roboflow, CVAT, Label Studio, labelme, LabelImg, YOLO, COCO, VOC and OpenImages, and
Hub data sets are recognised, too; --format says which one it is where several fit. Without a validation split,
--validation_fraction 0.1 holds a tenth of the training images out to choose the best epoch.

--config NAME takes the settings of a configuration that comes with the package (paper: those of the paper), --config
FILE.yaml those of one of yours; flags override them. --streaming true --max_steps N reads a Hub data set or parquet
files while training.
"""

from dataclasses import dataclass, field

from ..console.errors import RunError
from ..data.readers import FORMATS
from .arguments import DataArguments, parse_arguments
from .reading import ReadingArguments, data_source, format_of, generated_scenes, read_data
from .train import train


@dataclass
class OwnImagesArguments(ReadingArguments):
    """How the images are stored."""

    format: str = field(
        default="auto", metadata={"help": "How the data are stored; auto finds out.", "choices": list(FORMATS)}
    )
    streaming: bool = field(default=False, metadata={"help": "Stream the Hub data set; needs --max_steps."})


def run(argv: list[str]) -> None:
    """`msl-hf train` with these flags."""
    arguments, own = parse_arguments(argv, __doc__, OwnImagesArguments, without_data="demo")
    source = data_source(arguments.data.data_dir, own)
    if source is None and any(flag.split("=")[0] in ("--backbone", "--model") for flag in argv):
        raise RunError("say where your images are: --data_dir FOLDER (or the id of a Hub data set); without data, the "
                       "demo trains a network of its own on generated scenes")  # fmt: skip

    def load(data: DataArguments):
        if source is None:
            data.ignored_as = "negative"
            return generated_scenes(arguments.training.output_dir, "training on")
        format = format_of(source, own.format, own)
        if format in ("voc", "wider"):
            data.ignored_as = data.ignored_as or "negative"  # as in the reference
        return read_data(source, format, own, own.streaming)

    train(arguments, load)
