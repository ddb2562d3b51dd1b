"""Drawing irregular masks: random streaks and holes of arbitrary shape until the wanted share is removed."""

import numpy as np
from PIL import Image, ImageDraw

RESOLUTION = 512  # side of a stored mask in pixels; that of the NVIDIA irregular masks
GENERATOR_VERSION = 1  # part of the cache's file name: raise it whenever the drawing changes


def draw_irregular_mask(seed: list[int], low: float, high: float) -> np.ndarray:
    """One bit-packed keep mask (512, 64) uint8 whose hole ratio lies in [low, high]."""
    rng = np.random.default_rng(seed)
    target = rng.uniform(low, high)
    # Half of NVIDIA's masks leave the border alone; a frame wider than the interval allows would never be filled.
    margin = int(rng.integers(8, 25)) if rng.random() < 0.5 and high < 0.75 else 0
    image = Image.new("L", (RESOLUTION, RESOLUTION), 0)
    scale = max(high, 0.05) ** 0.5
    ratio = 0.0
    while ratio < max(low, min(target, high - 2e-4)):
        candidate = image.copy()
        if rng.random() < 0.75:
            _draw_streak(ImageDraw.Draw(candidate), rng, scale)
        else:
            _draw_hole(ImageDraw.Draw(candidate), rng, scale)
        if margin:
            frame = ImageDraw.Draw(candidate)
            frame.rectangle((0, 0, RESOLUTION - 1, RESOLUTION - 1), outline=0, width=margin)
        new_ratio = np.count_nonzero(np.asarray(candidate)) / RESOLUTION**2
        if new_ratio <= high:
            image, ratio = candidate, new_ratio
        else:
            scale = max(scale * 0.7, 0.01)  # overshot: try again with a smaller brush
    return np.packbits(np.asarray(image) == 0, axis=1)


def _draw_streak(draw: ImageDraw.ImageDraw, rng: np.random.Generator, scale: float) -> None:
    """A brush stroke with round joints that wanders across the image."""
    width = max(2, scale * rng.uniform(30, 130))
    point = rng.uniform(0, RESOLUTION, 2)
    angle = rng.uniform(0, 2 * np.pi)
    for _ in range(rng.integers(1, 7)):
        angle += rng.normal(0, 0.8)
        end = point + scale * rng.uniform(40, 200) * np.array([np.cos(angle), np.sin(angle)])
        draw.line((*point, *end), fill=255, width=max(1, round(width)))
        radius = width / 2
        for x, y in (point, end):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        point, width = end, width * rng.uniform(0.75, 1.25)


def _draw_hole(draw: ImageDraw.ImageDraw, rng: np.random.Generator, scale: float) -> None:
    """A hole of arbitrary shape: a polygon whose radius varies around its centre."""
    corners = int(rng.integers(5, 14))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = scale * rng.uniform(30, 130) * rng.uniform(0.5, 1.5, corners)
    centre = rng.uniform(0, RESOLUTION, 2)
    draw.polygon([(centre[0] + r * np.cos(a), centre[1] + r * np.sin(a)) for r, a in zip(radii, angles, strict=True)],
                 fill=255)  # fmt: skip
