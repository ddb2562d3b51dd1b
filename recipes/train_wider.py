r"""Train an attribute classifier on the persons of WIDER-Attribute.

    accelerate launch recipes/train_wider.py --config recipes/configs/wider_msl_l.yaml --data_dir data/wider \
        --output_dir outputs/wider-msl-l

data/wider holds Image/, wider_attribute_trainval.json and wider_attribute_test.json. Unspecified attributes count as
negative in training (the reference's way; --ignored_as ignore leaves them out) and are ignored in every metric.
"""

import sys

from msl_hf.data import load_wider
from msl_hf.runs.arguments import RunError, parse_arguments
from msl_hf.runs.train import main, train


def train_wider() -> None:
    arguments = parse_arguments(sys.argv[1:], __doc__)[0]
    if arguments.data.data_dir is None:
        raise RunError("say where WIDER-Attribute is: --data_dir FOLDER (it holds Image/)")
    arguments.data.ignored_as = arguments.data.ignored_as or "negative"  # as in the reference
    train(arguments, lambda data: load_wider(data.data_dir))


if __name__ == "__main__":
    main(train_wider)
