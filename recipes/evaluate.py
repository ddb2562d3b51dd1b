r"""Measure trained models, side by side: metrics, robustness to masks, AP by object size and occlusion, speed.

    accelerate launch recipes/evaluate.py --model outputs/demo --output_dir outputs/evaluation
    accelerate launch recipes/evaluate.py --model outputs/voc-plain outputs/voc-msl --dataset voc --split test \
        --data_dir data/VOCdevkit --hole_ratio 0.01 0.1 0.1 0.2 0.2 0.3 0.3 0.4 0.4 0.5 0.5 0.6 \
        --output_dir outputs/both

Masks depend on the seed and the position of an image alone: every model sees the same ones, which none was trained
with. --tune_thresholds val finds the best threshold of each class on split val and stores it in the models' config.
"""

import sys

from msl_hf.runs.arguments import parse_flags
from msl_hf.runs.evaluate import EvaluateArguments, evaluate
from msl_hf.runs.train import main

if __name__ == "__main__":
    main(lambda: evaluate(*parse_flags(sys.argv[1:], __doc__, EvaluateArguments)))
