r"""Train an attribute classifier on the persons of WIDER-Attribute: `msl-hf train-wider`.

    accelerate launch recipes/train_wider.py --config recipes/configs/wider_msl_l.yaml --data_dir data/wider \
        --output_dir outputs/wider-msl-l
"""

from msl_hf.cli import main

if __name__ == "__main__":
    main("train-wider")
