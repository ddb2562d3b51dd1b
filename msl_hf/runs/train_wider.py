r"""Train an attribute classifier on the persons of WIDER-Attribute.

    msl-hf train-wider --config wider_msl_l --data_dir data/wider --output_dir outputs/wider-msl-l

data/wider holds Image/, wider_attribute_trainval.json and wider_attribute_test.json. Unspecified attributes count as
negative in training (the reference's way; --ignored_as ignore leaves them out) and are ignored in every metric.
"""

from ..console.errors import RunError
from ..data import load_wider
from .arguments import parse_arguments
from .train import train


def run(argv: list[str]) -> None:
    """`msl-hf train-wider` with these flags."""
    (arguments,) = parse_arguments(argv, __doc__)
    if arguments.data.data_dir is None:
        raise RunError("say where WIDER-Attribute is: --data_dir FOLDER (it holds Image/)")
    arguments.data.ignored_as = arguments.data.ignored_as or "negative"  # as in the reference
    train(arguments, lambda data: load_wider(data.data_dir))
