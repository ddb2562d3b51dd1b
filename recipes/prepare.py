r"""Labelled images of any format that is read -> parquet files that stream, for disk or for the Hub.

    python recipes/prepare.py --data_dir data/coco --output_dir data/coco-parquet
    accelerate launch recipes/train_folder.py --data_dir data/coco-parquet --streaming true --max_steps 50000 ...

--hub_dataset_id me/coco uploads them. The image files are copied as they are; no label, box or ignored entry is lost.
"""

import sys

from msl_hf.runs.arguments import parse_flags
from msl_hf.runs.prepare import PrepareArguments, prepare
from msl_hf.runs.train import main

if __name__ == "__main__":
    main(lambda: prepare(*parse_flags(sys.argv[1:], __doc__, PrepareArguments)))
