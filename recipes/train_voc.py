r"""Train a multi-label classifier on PASCAL VOC, or any data set stored as VOC is: `msl-hf train-voc`.

    accelerate launch recipes/train_voc.py                      # generated scenes: nothing to download
    accelerate launch recipes/train_voc.py --config recipes/configs/voc_resnet101.yaml \
        --data_dir data/VOCdevkit --download true --output_dir outputs/voc-resnet101
"""

from msl_hf.cli import main

if __name__ == "__main__":
    main("train-voc")
