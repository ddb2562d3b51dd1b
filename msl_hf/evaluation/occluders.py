"""How well a class is recognised when something lies over its objects, by the share of them that is covered.

Of every class of an image that has boxes a picture is made in which each object of that class, and nothing else, is
covered to an exact share of its box. docs/how-to/small_and_hidden.md defines the measure, beside that of
OccludedPASCAL3D+.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from ..data.images import read_image
from ..data.transforms import resized
from .breakdown import pooled_average_precision, resample_counts
from .examples import single_instances

KINDS = ("black", "noise", "image")
COARSE = 5  # cells, along each side of a box, of the noise that bends the outline of a cover
BEND = 0.7  # how far, as a share of the box
NOISE_CELLS = 160  # of noise along the longer side of an image, so that networks of any input size see it


@dataclass(frozen=True)
class Picture:
    """An image in which every object of a class is to be covered.

    Attributes:
        index: Of the image in its data set.
        label: The class.
        boxes: (left, top, right, bottom) of its objects in pixels, crowds and difficult ones, too.
        other: Index of the image that lies over them, where an image does.
    """

    index: int
    label: int
    boxes: tuple[tuple[float, float, float, float], ...]
    other: int


def find_pictures(
    objects: Sequence[Mapping[str, list]], targets: np.ndarray, seed: int = 0, most: int | None = None
) -> list[Picture]:
    """All pairs of an image and a class of it that has boxes there.

    Args:
        objects: The `objects` column: for each of N images lists `label`, `bbox`, ...
        targets: (N, C) of 1, 0 and -100 (ignored).
        seed: Of the choice of the images that lie over others: of those without the class, where there are some.
        most: At most so many pictures, drawn at random; None for all.
    """
    pairs = sorted({(index, label) for index, label, _ in single_instances(objects, targets)})
    if most is not None and len(pairs) > most:
        chosen = np.random.default_rng([seed, len(pairs)]).choice(len(pairs), most, replace=False)
        pairs = [pairs[number] for number in sorted(chosen)]
    pictures = []
    for index, label in pairs:
        item, rng = objects[index], np.random.default_rng([seed, index, label])
        boxes = [box for box, own in zip(item["bbox"], item["label"], strict=True) if own == label]
        others = [row for row in np.flatnonzero(targets[:, label] == 0) if row != index]
        others = others or [row for row in range(len(targets)) if row != index]
        corners = tuple((x, y, x + w, y + h) for x, y, w, h in boxes)
        pictures.append(Picture(index, label, corners, int(rng.choice(others)) if others else index))
    return pictures


def cover(height: int, width: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """(height, width) bool: a random blob of exactly `round(share * height * width)` pixels.

    It grows from a random point; what a smaller share covers, a larger one of the same generator state covers, too.
    """
    point = rng.random(2)
    coarse = Image.fromarray(rng.random((COARSE, COARSE)).astype(np.float32))
    bends = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    rows = (np.arange(height)[:, None] + 0.5) / height - point[0]
    columns = (np.arange(width)[None] + 0.5) / width - point[1]
    order = np.argsort((np.hypot(rows, columns) + BEND * bends).ravel(), kind="stable")
    covered = np.zeros(height * width, dtype=bool)
    covered[order[: round(share * height * width)]] = True
    return covered.reshape(height, width)


def covered_pixels(picture: Picture, height: int, width: int, share: float, seed: int = 0) -> np.ndarray:
    """(height, width) bool: where the objects of a picture are covered, each to the share of its box.

    Where boxes of the class overlap, the cover of one may hide more of another.
    """
    result = np.zeros((height, width), dtype=bool)
    for number, (left, top, right, bottom) in enumerate(picture.boxes):
        left, top = (min(max(int(start), 0), end - 1) for start, end in ((left, width), (top, height)))
        right, bottom = min(max(round(right), left + 1), width), min(max(round(bottom), top + 1), height)
        rng = np.random.default_rng([seed, picture.index, picture.label, number])
        result[top:bottom, left:right] |= cover(bottom - top, right - left, share, rng)
    return result


class CoveredObjects(Dataset):
    """The pictures with their objects covered, as a network is given them.

    Args:
        dataset: Undecoded rows of the schema.
        processor: The model's image processor.
        pictures: Of `find_pictures`.
        kind: What lies over the objects: `"black"`; `"noise"`, coloured cells, 160 along the longer side of the image;
            `"image"`, the same place of another photograph of the data set.
        share: Of each object's box, in [0, 1].
        seed: Of the outlines and of the noise.
    """

    def __init__(self, dataset, processor, pictures: Sequence[Picture], kind: str, share: float, seed: int = 0):
        if kind not in KINDS:
            raise ValueError(f"an occluder is one of {', '.join(KINDS)}, got {kind!r}")
        if not 0 <= share <= 1:
            raise ValueError(f"the covered share must lie in [0, 1], got {share}")
        self.dataset, self.processor, self.pictures = dataset, processor, pictures
        self.kind, self.share, self.seed = kind, share, seed

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        row = self.dataset[self.pictures[number].index]
        known = {name: row.get(name) for name in ("labels", "ignored", "image_id")}
        return {"pixel_values": resized(self.image(number), self.processor), **known}

    def image(self, number: int) -> Image.Image:
        """Picture `number`, in the size that its image is stored in."""
        picture = self.pictures[number]
        image = read_image(self.dataset[picture.index])
        if not self.share:
            return image
        pixels = np.array(image)
        height, width = pixels.shape[:2]
        covered = covered_pixels(picture, height, width, self.share, self.seed)
        pixels[covered] = self._occluder(picture, height, width)[covered]
        return Image.fromarray(pixels)

    def _occluder(self, picture: Picture, height: int, width: int) -> np.ndarray:
        """(height, width, 3) uint8."""
        if self.kind == "black":
            return np.zeros((height, width, 3), dtype=np.uint8)
        if self.kind == "image":
            other = read_image(self.dataset[picture.other])
            return np.asarray(other.resize((width, height), Image.Resampling.BILINEAR))
        rng = np.random.default_rng([self.seed, picture.index, picture.label, len(picture.boxes)])
        scale = max(1.0, max(height, width) / NOISE_CELLS)
        cells = rng.integers(0, 256, (round(height / scale) or 1, round(width / scale) or 1, 3), dtype=np.uint8)
        return np.asarray(Image.fromarray(cells).resize((width, height), Image.Resampling.NEAREST))


def measure_occluders(
    predict: Callable[[Dataset], np.ndarray],
    dataset,
    processor,
    pictures: Sequence[Picture],
    targets: np.ndarray,
    kinds: Sequence[str],
    shares: Sequence[float],
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, list[dict]]:
    """`covered_average_precision` by what lies over the objects, a row for each share.

    Args:
        predict: `CoveredObjects` -> (P, C) probabilities.
        dataset: Undecoded rows of the schema.
        processor: The model's image processor.
        pictures: Of `find_pictures`.
        targets: (N, C) of the images.
        kinds: What lies over the objects.
        shares: Of each object's box.
        num_resamples: Bootstrap samples of images.
        seed: Of outlines, noise and bootstrap.

    Returns:
        Kind -> rows with `covered`; `nothing` is that of the same objects uncovered.
    """
    rows: dict[str, list[dict]] = {}
    for kind, share in [("nothing", 0.0), *itertools.product(kinds, shares)]:
        covers = KINDS[0] if kind == "nothing" else kind
        scores = predict(CoveredObjects(dataset, processor, pictures, covers, share, seed))
        found = covered_average_precision(scores, pictures, targets, kind, num_resamples, seed)
        rows.setdefault(kind, []).append({"covered": share, **found})
    return rows


def covered_average_precision(
    scores: np.ndarray,
    pictures: Sequence[Picture],
    targets: np.ndarray,
    kind: str,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict:
    """Average precision over all pictures at once, with its 95 % bootstrap interval.

    A picture gives one positive, the class that is covered, and as negatives the classes that its image is known not
    to have, but for those of the photograph that lies over it.

    Args:
        scores: (P, C) probabilities of the pictures.
        pictures: P of them.
        targets: (N, C) of the images.
        kind: What lay over the objects.
        num_resamples: Bootstrap samples of images.
        seed: Seed of the bootstrap; the same for two models makes their samples comparable one by one.

    Returns:
        `AP`, `interval`, `positives` and `samples`, the bootstrap values.
    """
    rows = [picture.index for picture in pictures]
    positive = np.zeros(scores.shape, dtype=bool)
    positive[range(len(pictures)), [picture.label for picture in pictures]] = True
    negative = targets[rows] == 0
    if kind == "image":
        negative &= targets[[picture.other for picture in pictures]] != 1
    counts = resample_counts(len(targets), num_resamples, seed)
    weights = np.concatenate([np.ones((1, len(pictures))), counts[:, rows]])
    value, *samples = pooled_average_precision(scores, positive, negative, weights)
    return {
        "AP": float(value),
        "interval": np.nanpercentile(samples, [2.5, 97.5]).tolist(),
        "positives": len(pictures),
        "samples": samples,
    }
