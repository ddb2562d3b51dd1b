"""A trained model for machines without PyTorch: `msl-hf export`.

python recipes/export.py --model outputs/photos --format onnx --output_dir outputs/photos-onnx
"""

from msl_hf.cli import main

if __name__ == "__main__":
    main("export")
