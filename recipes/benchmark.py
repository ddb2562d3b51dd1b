r"""What a step of MSL costs against plain training and against the published step, and what inference costs.

    python recipes/benchmark.py --quick true --output outputs/bench.json
    python recipes/benchmark.py --networks resnet101_448 --variants plain ours --output outputs/bench.json

Variants take turns (A B A B); medians and spreads of images per second, peak memory in a process of its own for each.
"""

import sys

from msl_hf.runs.arguments import parse_flags
from msl_hf.runs.benchmark import BenchmarkArguments, benchmark
from msl_hf.runs.train import main

if __name__ == "__main__":
    main(lambda: benchmark(*parse_flags(sys.argv[1:], __doc__, BenchmarkArguments)))
