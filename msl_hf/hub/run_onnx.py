"""Labels of photographs from model.onnx, with onnxruntime, NumPy and Pillow alone.

python run_onnx.py photo.jpg other.jpg
python run_onnx.py --model model_int8.onnx photo.jpg
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def upright_rgb(image: Image.Image) -> Image.Image:
    """Upright 8-bit RGB as in training: 16-bit grey levels by their range, 0 to 65,535 -> 0 to 255.

    Raises:
        ValueError: for 32-bit and floating-point images, which have no range of their own.
    """
    is_wide = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    image = ImageOps.exif_transpose(image)
    if is_wide:
        image = Image.fromarray(np.rint(np.asarray(image, dtype=np.float32) / 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of the mode {image.mode!r} have no range; save it with 8 or 16 bits a channel")
    return image.convert("RGB")


class Classifier:
    """An exported model.

    Args:
        file: `model.onnx` or `model_int8.onnx`, with `model.json` beside it.
    """

    def __init__(self, file: str | Path):
        self.session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        self.description = json.loads(Path(file).with_name("model.json").read_text(encoding="utf-8"))

    def pixel_values(self, image: Image.Image) -> np.ndarray:
        """An image -> (3, H, W) float32, resized and normalised as in training."""
        about = self.description
        image = upright_rgb(image)
        image = image.resize((about["width"], about["height"]), Image.Resampling[about["resample"].upper()])
        pixels = np.asarray(image, dtype=np.float32) / 255
        mean, std = (np.array(about[name], dtype=np.float32) for name in ("mean", "std"))
        return ((pixels - mean) / std).transpose(2, 0, 1)

    def __call__(self, images: list[Image.Image]) -> list[dict[str, float]]:
        """Images -> for each of them the labels above their thresholds, with their scores, highest first."""
        batch = np.stack([self.pixel_values(image) for image in images])
        logits = self.session.run(["logits"], {"pixel_values": batch})[0]
        if np.isnan(logits).any():
            raise ValueError("the scores are not numbers (NaN): the model's weights or the image's values are damaged")
        scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
        found = []
        for row in scores:
            labels = zip(self.description["labels"], row.tolist(), self.description["thresholds"], strict=True)
            chosen = {label: score for label, score, threshold in labels if score >= threshold}
            found.append(dict(sorted(chosen.items(), key=lambda item: -item[1])))
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--model", default=str(Path(__file__).with_name("model.onnx")))
    arguments = parser.parse_args()
    classify = Classifier(arguments.model)
    for file in arguments.images:
        with Image.open(file) as image:
            labels = classify([image])[0]
        print(f"{file}: " + (", ".join(f"{label} {score:.2f}" for label, score in labels.items()) or "nothing"))


if __name__ == "__main__":
    main()
