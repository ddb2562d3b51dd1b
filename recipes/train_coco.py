r"""Train a multi-label classifier on MS-COCO 2014 or 2017, or any data set stored as COCO is: `msl-hf train-coco`.

    accelerate launch recipes/train_coco.py --config recipes/configs/coco_resnet101.yaml --data_dir data/coco \
        --output_dir outputs/coco-resnet101
"""

from msl_hf.cli import main

if __name__ == "__main__":
    main("train-coco")
