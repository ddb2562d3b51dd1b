r"""Train a multi-label classifier on your own images, however their labels are written down: `msl-hf train`.

    accelerate launch recipes/train_folder.py --data_dir photos --backbone timm/resnet50.a1_in1k \
        --output_dir outputs/photos
"""

from msl_hf.cli import main

if __name__ == "__main__":
    main("train")
