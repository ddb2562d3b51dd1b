"""What a step of MSL and inference cost on this machine: `msl-hf benchmark`.

python recipes/benchmark.py --quick true --output outputs/bench.json
"""

from msl_hf.cli import main

if __name__ == "__main__":
    main("benchmark")
