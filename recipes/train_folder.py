r"""Train a multi-label classifier on your own images: a folder with metadata.jsonl files, or a Hub data set.

    accelerate launch recipes/train_folder.py --data_dir photos --backbone timm/resnet50.a1_in1k \
        --output_dir outputs/photos

photos/train/metadata.jsonl has a line for each image: {"file_name": "a.jpg", "labels": ["cat", "dog"]}. Without a
validation split, --validation_fraction 0.1 holds a tenth of the training images out to choose the best epoch.

--data_dir may also be the id of a Hub data set whose labels are lists of names or indices, multi-hot vectors, or the
categories of boxes; --streaming true --max_steps N reads it while training.
"""

import sys
from dataclasses import dataclass, field

from msl_hf.data import load_image_folder
from msl_hf.data.labels import read_class_names
from msl_hf.runs.arguments import DataArguments, RunError, parse_arguments
from msl_hf.runs.train import main, train


@dataclass
class FolderArguments:
    """Flags for data that others have written."""

    label_column: str | None = field(
        default=None, metadata={"help": "Column of the labels in a Hub data set, such as objects.category."}
    )
    classes: str | None = field(
        default=None, metadata={"help": "File with the class names: a JSON list, or a name a line."}
    )
    streaming: bool = field(default=False, metadata={"help": "Stream the Hub data set; needs --max_steps."})


def train_folder() -> None:
    arguments, folder = parse_arguments(sys.argv[1:], __doc__, FolderArguments)
    if arguments.data.data_dir is None:
        raise RunError("say where your images are: --data_dir FOLDER (or the id of a Hub data set)")

    def load(data: DataArguments):
        class_names = None if folder.classes is None else read_class_names(folder.classes)
        return load_image_folder(data.data_dir, folder.label_column, class_names, folder.streaming)

    train(arguments, load)


if __name__ == "__main__":
    main(train_folder)
