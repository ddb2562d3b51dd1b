r"""Ablations: train every row of a grid with several seeds, and make tables and figures of the outcome.

    python recipes/ablate.py --grid recipes/ablations/table_3.yaml --output_dir outputs/ablations --jobs 2

Finished runs are not repeated, interrupted ones go on; results.jsonl gets a line after each run. A grid is a YAML file
with `title`, `config` (settings of all rows), `rows` (name: settings that differ) and `seeds`; see recipes/ablations/.
"""

import sys
from pathlib import Path

from msl_hf.runs.ablate import AblateArguments, ablate
from msl_hf.runs.arguments import parse_flags
from msl_hf.runs.train import main

if __name__ == "__main__":
    main(lambda: ablate(*parse_flags(sys.argv[1:], __doc__, AblateArguments), recipes=Path(__file__).parent))
