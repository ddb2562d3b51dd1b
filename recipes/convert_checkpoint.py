"""A .pth file of the reference code of MSL or CSRA as a model folder: `msl-hf convert-checkpoint`.

python recipes/convert_checkpoint.py --checkpoint msl_c_voc.pth --csra_lambda 0.1 --output_dir outputs/msl-c-voc
"""

from msl_hf.cli import main

if __name__ == "__main__":
    main("convert-checkpoint")
