r"""Train a multi-label classifier on your own images, whichever way their labels are written down.

    accelerate launch recipes/train_folder.py --data_dir photos --backbone timm/resnet50.a1_in1k \
        --output_dir outputs/photos

photos/train/metadata.jsonl has a line for each image: {"file_name": "a.jpg", "labels": ["cat", "dog"]}. Tables with a
column for each class, exports of Roboflow, CVAT, Label Studio, labelme, LabelImg, YOLO, COCO, VOC and OpenImages, and
Hub data sets are recognised, too; --format says which one it is where several fit. Without a validation split,
--validation_fraction 0.1 holds a tenth of the training images out to choose the best epoch.

--streaming true --max_steps N reads a Hub data set or parquet files while training.
"""

import sys
from dataclasses import dataclass, field

from msl_hf.data.readers import FORMATS
from msl_hf.runs.arguments import DataArguments, RunError, parse_arguments
from msl_hf.runs.reading import ReadingArguments, data_source, format_of, read_data
from msl_hf.runs.train import main, train


@dataclass
class FolderArguments(ReadingArguments):
    """How the labels are written down."""

    format: str = field(
        default="auto", metadata={"help": "How the data are stored; auto finds out.", "choices": list(FORMATS)}
    )
    streaming: bool = field(default=False, metadata={"help": "Stream the Hub data set; needs --max_steps."})


def train_folder() -> None:
    arguments, folder = parse_arguments(sys.argv[1:], __doc__, FolderArguments)
    source = data_source(arguments.data.data_dir, folder)
    if source is None:
        raise RunError("say where your images are: --data_dir FOLDER (or the id of a Hub data set)")

    def load(data: DataArguments):
        format = format_of(source, folder.format, folder)
        if format in ("voc", "wider"):
            data.ignored_as = data.ignored_as or "negative"  # as in the reference
        return read_data(source, format, folder, folder.streaming)

    train(arguments, load)


if __name__ == "__main__":
    main(train_folder)
