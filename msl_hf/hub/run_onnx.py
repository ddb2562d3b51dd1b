"""Labels of photographs from model.onnx, with onnxruntime, NumPy and Pillow alone.

python run_onnx.py photo.jpg other.jpg
python run_onnx.py --model model_int8.onnx photo.jpg
python run_onnx.py --views whole@256+2x2 photo.jpg    # look closer: larger, and at four tiles
"""

import argparse
import json
import re
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


def boxes(width: int, height: int, rows: int, columns: int) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of the tiles of an image, row by row, which overlap by a quarter."""

    def intervals(count: int, length: int) -> list[tuple[int, int]]:
        side = min(length, max(1, round(length / (count - 0.25 * (count - 1)))))
        starts = [round(number * (length - side) / max(1, count - 1)) for number in range(count)]
        return [(start, start + side) for start in starts]

    if rows > height or columns > width:
        raise ValueError(f"{rows} x {columns} tiles are more than an image of {width} x {height} pixels has")
    return [(x, y, right, bottom) for y, bottom in intervals(rows, height) for x, right in intervals(columns, width)]


class Classifier:
    """An exported model.

    Args:
        file: `model.onnx` or `model_int8.onnx`, with `model.json` beside it.
        views: How images are looked at: `whole`, `mirror` or ROWSxCOLUMNS tiles that overlap by a quarter, each
            perhaps with `@SIDE` in pixels, joined by `+`. None is what `model.json` says.

    Raises:
        ValueError: for other views, and sizes that the network does not take.
    """

    def __init__(self, file: str | Path, views: str | None = None):
        self.session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        self.description = json.loads(Path(file).with_name("model.json").read_text(encoding="utf-8"))
        self.parts = [self._part(name) for name in (views or self.description["views"]).split("+")]

    def _part(self, name: str) -> tuple[int, int, bool, int, int]:
        """(rows, columns, is mirrored, height, width) of a part of a view."""
        match = re.fullmatch(r"(?:(whole|mirror)|([1-9]\d*)x([1-9]\d*))(?:@([1-9]\d*))?", name.strip())
        if match is None:
            raise ValueError(f"{name!r} is none of whole, mirror or ROWSxCOLUMNS such as 2x2, perhaps with @SIDE")
        height, width = self.description["height"], self.description["width"]
        side = int(match[4] or height)
        if side != height and not self.description["any_size"]:
            raise ValueError(f"{name!r}: the network takes images of {height} x {width} pixels alone")
        return int(match[2] or 1), int(match[3] or 1), match[1] == "mirror", side, round(side * width / height)

    def pixel_values(self, image: Image.Image, height: int, width: int) -> np.ndarray:
        """An upright image -> (3, H, W) float32, resized and normalised as in training."""
        about = self.description
        image = image.resize((width, height), Image.Resampling[about["resample"].upper()])
        pixels = np.asarray(image, dtype=np.float32) / 255
        mean, std = (np.array(about[name], dtype=np.float32) for name in ("mean", "std"))
        return ((pixels - mean) / std).transpose(2, 0, 1)

    def logits(self, images: list[Image.Image]) -> np.ndarray:
        """(B, C): the mean over the parts, of tiles the greatest of each class.

        Raises:
            ValueError: for an image that is smaller than the tiles are many.
        """
        images, parts = [upright_rgb(image) for image in images], []
        for rows, columns, is_mirrored, height, width in self.parts:
            tiles = []
            for cut in zip(*(boxes(image.width, image.height, rows, columns) for image in images), strict=True):
                crops = [image.crop(box) for image, box in zip(images, cut, strict=True)]
                batch = np.stack([self.pixel_values(crop, height, width) for crop in crops])
                batch = np.ascontiguousarray(batch[..., ::-1]) if is_mirrored else batch
                tiles.append(self.session.run(["logits"], {"pixel_values": batch})[0])
            parts.append(np.max(tiles, axis=0))
        return np.mean(parts, axis=0)

    def __call__(self, images: list[Image.Image]) -> list[dict[str, float]]:
        """Images -> for each of them the labels above their thresholds, with their scores, highest first."""
        logits = self.logits(images)
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
    parser.add_argument("--views", help="how images are looked at; default: what model.json says")
    arguments = parser.parse_args()
    classify = Classifier(arguments.model, arguments.views)
    for file in arguments.images:
        with Image.open(file) as image:
            labels = classify([image])[0]
        print(f"{file}: " + (", ".join(f"{label} {score:.2f}" for label, score in labels.items()) or "nothing"))


if __name__ == "__main__":
    main()
