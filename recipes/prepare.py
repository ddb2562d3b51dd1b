"""Labelled images of any format as parquet files that stream: `msl-hf prepare`.

python recipes/prepare.py --data_dir data/coco --output_dir data/coco-parquet
"""

from msl_hf.cli import main

if __name__ == "__main__":
    main("prepare")
