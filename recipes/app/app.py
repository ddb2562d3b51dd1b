"""A page to try models on: `msl-hf app`, and the file that a Space runs.

python recipes/app/app.py --models MSL=outputs/photos plain=outputs/photos-plain
"""

from msl_hf.cli import main

if __name__ == "__main__":
    main("app")
