"""Measure trained models, side by side: `msl-hf evaluate`.

accelerate launch recipes/evaluate.py --model outputs/demo --output_dir outputs/evaluation
"""

from msl_hf.cli import main

if __name__ == "__main__":
    main("evaluate")
