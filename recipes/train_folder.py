r"""Train a multi-label classifier on your own images: a folder with metadata.jsonl files, or a Hub data set.

    accelerate launch recipes/train_folder.py --data_dir photos --backbone timm/resnet50.a1_in1k \
        --output_dir outputs/photos

photos/train/metadata.jsonl has a line for each image: {"file_name": "a.jpg", "labels": ["cat", "dog"]}. Without a
validation split, --validation_fraction 0.1 holds a tenth of the training images out to choose the best epoch.
"""

import sys

from msl_hf.data import load_image_folder
from msl_hf.runs.arguments import RunError, parse_arguments
from msl_hf.runs.train import main, train


def train_folder() -> None:
    arguments = parse_arguments(sys.argv[1:], __doc__)[0]
    if arguments.data.data_dir is None:
        raise RunError("say where your images are: --data_dir FOLDER (or the id of a Hub data set)")
    train(arguments, lambda data: load_image_folder(data.data_dir))


if __name__ == "__main__":
    main(train_folder)
