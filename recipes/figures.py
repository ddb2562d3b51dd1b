"""Contact sheets of what models see, with images chosen by rule: `msl-hf figures`.

python recipes/figures.py --model outputs/demo --output_dir outputs/figures
"""

from msl_hf.cli import main

if __name__ == "__main__":
    main("figures")
