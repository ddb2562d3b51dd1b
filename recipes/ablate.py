"""Ablations: every row of a grid with several seeds, tables and figures: `msl-hf ablate`.

python recipes/ablate.py --grid recipes/ablations/table_3.yaml --output_dir outputs/ablations --jobs 2
"""

from msl_hf.cli import main

if __name__ == "__main__":
    main("ablate")
