"""Labels of your images into a file: `msl-hf predict`.

python recipes/predict.py --model outputs/photos --images holiday/ 'archive/*.jpg' --output labels.csv
"""

from msl_hf.cli import main

if __name__ == "__main__":
    main("predict")
