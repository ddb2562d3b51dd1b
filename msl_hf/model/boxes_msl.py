"""Boxes around where the evidence for a class lies, from its score map.

No `from __future__ import annotations` here, as in the other files of the repository.
"""

import torch
from torch.nn import functional as F

try:
    from scipy import ndimage
except ImportError:  # a stranger who asks for no boxes needs none of it
    ndimage = None

THRESHOLD = 0.5  # of a map's range, from its least to its greatest value, above which it counts
LONGER_SIDE = 224  # to which maps are enlarged, so that boxes are finer than their cells


def boxes_of(score_map: torch.Tensor, width: int, height: int, threshold: float = THRESHOLD) -> list[dict[str, int]]:
    """Boxes around the connected parts of a map that lie above a threshold, the one of the highest peak first.

    Args:
        score_map: (h, w) class score map of a whole image.
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        threshold: Share of the map's range, in (0, 1).

    Returns:
        `{"xmin", "ymin", "xmax", "ymax"}` in pixels of the image; the last two lie just behind the box. A map that is
        the same everywhere gives the whole image.

    Raises:
        ImportError: where SciPy is not installed.
    """
    if ndimage is None:
        raise ImportError("boxes need SciPy: pip install scipy")
    scale = LONGER_SIDE / max(width, height)
    rows, columns = (max(1, round(scale * side)) for side in (height, width))
    enlarged = F.interpolate(
        score_map[None, None].float().cpu(), (rows, columns), mode="bilinear", align_corners=False
    )
    values = enlarged[0, 0].numpy()
    low, high = float(values.min()), float(values.max())
    parts, count = ndimage.label(values >= low + threshold * (high - low))
    peaks = ndimage.maximum(values, parts, range(1, count + 1))
    slices = ndimage.find_objects(parts)
    return [
        {
            "xmin": round(x.start * width / columns),
            "ymin": round(y.start * height / rows),
            "xmax": max(round(x.stop * width / columns), round(x.start * width / columns) + 1),
            "ymax": max(round(y.stop * height / rows), round(y.start * height / rows) + 1),
        }
        for y, x in (slices[number] for number in (-peaks).argsort(kind="stable"))
    ]
