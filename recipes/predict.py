r"""Labels of your images into a file.

    python recipes/predict.py --model outputs/photos --images holiday/ 'archive/*.jpg' --output labels.csv
    accelerate launch --num_processes 2 recipes/predict.py --model outputs/photos \
        --dataset me/photographs --split train --streaming true --output labels.parquet

Run again after an interruption, or with more images, it does what is missing. Images that cannot be read are listed at
the end.
"""

import sys

from msl_hf.runs.arguments import parse_flags
from msl_hf.runs.predict import PredictArguments, predict
from msl_hf.runs.train import main

if __name__ == "__main__":
    main(lambda: predict(*parse_flags(sys.argv[1:], __doc__, PredictArguments)))
