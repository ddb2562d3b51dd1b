r"""A trained model for machines without PyTorch.

    python recipes/export.py --model outputs/photos --format onnx --output_dir outputs/photos-onnx
    python outputs/photos-onnx/run_onnx.py photo.jpg      # needs onnxruntime, NumPy and Pillow alone
    python recipes/export.py --model outputs/photos --format onnx int8 --dataset folder --data_dir photos \
        --output_dir outputs/photos-int8

onnx and torch are compared with the model before they are called done; int8 is calibrated and measured on your images.
"""

import sys

from msl_hf.runs.arguments import parse_flags
from msl_hf.runs.export import ExportArguments, export
from msl_hf.runs.train import main

if __name__ == "__main__":
    main(lambda: export(*parse_flags(sys.argv[1:], __doc__, ExportArguments)))
