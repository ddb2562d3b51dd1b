"""The embedded default: generated scenes with objects that overlap, small objects and classes that co-occur.

Written as a VOCdevkit tree, so that they go through the same loader as real photographs. Unlike in photographs, the
visible fraction of every object is known exactly.
"""

import colorsys
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image, ImageDraw

from .schema import DataError

CLASS_NAMES = ("arrow", "ball", "box", "cone", "cross", "flower", "heart", "moon", "ring", "star")
DONE_FILE = "scenes.txt"  # written last: a tree without it was interrupted
DIFFICULT_BELOW = 0.15  # an object of which less is visible is "difficult", as VOC calls it
DROPPED_BELOW = 0.03  # and one of which less than this is visible is not annotated
HUE_SPREAD = 0.7  # of an object's hue, in steps between the hues of two classes
_ANGLES = np.linspace(0, 2 * np.pi, 60, endpoint=False)


def make_scenes(
    path: str | os.PathLike,
    num_train: int = 2000,
    num_val: int = 500,
    num_test: int = 2000,
    image_size: int = 96,
    seed: int = 0,
) -> Path:
    """Write generated scenes as a VOCdevkit tree for `load_voc`. A tree with the same settings is left as it is.

    Ten classes told apart by shape; the hue of each varies widely about one of its own, so that colour helps. One to
    six objects each scene, 12 to 66 % of the image wide, later ones in front of earlier ones. Every XML object has,
    beside VOC's fields, `visible`: the share of its area that neither other objects nor the image border hide.

    Args:
        path: Becomes the `VOCdevkit` folder; holds `VOC2007/` in the end.
        num_train: Images of split train.
        num_val: Images of split val; trainval is both.
        num_test: Images of split test.
        image_size: Side of the images in pixels.
        seed: Image `i` of a split depends on the seed, the split and `i` alone.

    Returns:
        `path`.

    Raises:
        DataError: where `path` holds something else.
    """
    path = Path(path)
    settings = f"seed {seed}, train {num_train}, val {num_val}, test {num_test}, {image_size} px\n"
    done = path / DONE_FILE
    if done.is_file() and done.read_text() == settings:
        return path
    if path.exists() and any(path.iterdir()):
        raise DataError(f"{path}: already holds other files; choose an empty folder for the generated scenes")
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=path.parent, prefix=".scenes-"))
    try:
        folder = work / "VOC2007"
        for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (folder / name).mkdir(parents=True)
        states: dict[str, dict[str, list[int]]] = {}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for number, (split, count) in enumerate((("train", num_train), ("val", num_val), ("test", num_test))):
                jobs = [(folder, f"{number}{index:05d}", [seed, number, index], image_size) for index in range(count)]
                states[split] = dict(pool.map(lambda job: _write_scene(*job), jobs))
        states["trainval"] = {**states["train"], **states["val"]}
        for split, images in states.items():
            _write_image_sets(folder / "ImageSets" / "Main", split, images)
        (work / DONE_FILE).write_text(settings)
        try:
            if path.exists():
                path.rmdir()  # empty, as checked above
            os.replace(work, path)
        except OSError:
            if not done.is_file() or done.read_text() != settings:
                raise  # else another process has just written the same scenes
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return path


def _write_image_sets(folder: Path, split: str, images: dict[str, list[int]]) -> None:
    (folder / f"{split}.txt").write_text("".join(f"{image_id}\n" for image_id in images))
    for index, name in enumerate(CLASS_NAMES):
        lines = (f"{image_id} {states[index]:2d}\n" for image_id, states in images.items())
        (folder / f"{name}_{split}.txt").write_text("".join(lines))


def _write_scene(folder: Path, image_id: str, seed: list[int], size: int) -> tuple[str, list[int]]:
    """Draw one scene; returns its id and, for every class, 1 (present), 0 (only difficult instances) or -1."""
    rng = np.random.default_rng(seed)
    image, objects = _draw_scene(rng, size)
    image.save(folder / "JPEGImages" / f"{image_id}.jpg", quality=90)
    states = [-1] * len(CLASS_NAMES)
    lines = []
    for item in objects:
        difficult = item["visible"] < DIFFICULT_BELOW
        states[item["label"]] = max(states[item["label"]], 0 if difficult else 1)
        xmin, ymin, xmax, ymax = item["box"]
        lines.append(
            f"\t<object>\n\t\t<name>{escape(CLASS_NAMES[item['label']])}</name>\n\t\t<pose>Unspecified</pose>\n"
            f"\t\t<truncated>{int(item['truncated'])}</truncated>\n\t\t<difficult>{int(difficult)}</difficult>\n"
            f"\t\t<visible>{item['visible']:.4f}</visible>\n"
            f"\t\t<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>\n"
            "\t</object>\n"
        )
    (folder / "Annotations" / f"{image_id}.xml").write_text(
        f"<annotation>\n\t<folder>VOC2007</folder>\n\t<filename>{image_id}.jpg</filename>\n"
        "\t<source><database>msl_hf generated scenes</database></source>\n"
        f"\t<size><width>{size}</width><height>{size}</height><depth>3</depth></size>\n\t<segmented>0</segmented>\n"
        f"{''.join(lines)}</annotation>\n"
    )
    return image_id, states


def _draw_scene(rng: np.random.Generator, size: int) -> tuple[Image.Image, list[dict]]:
    canvas = size * 2  # drawn on a plane twice as wide, so that what lies beyond the border has an area too
    margin = size // 2
    pixels = _background(rng, size)
    owner = np.full((canvas, canvas), -1, dtype=np.int16)
    drawn, previous = [], None
    for index, label in enumerate(_choose_labels(rng)):
        radius = size * np.exp(rng.uniform(np.log(0.06), np.log(0.33)))
        centre = margin + rng.uniform(0, size, 2)
        if index and rng.random() < 0.4:  # in front of the one before
            centre = previous + rng.normal(0, radius, 2)
        previous = centre
        shape = Image.new("1", (canvas, canvas))
        _draw_shape(ImageDraw.Draw(shape), label, centre, radius, rng.uniform(-0.5, 0.5))
        mask = np.asarray(shape)
        owner[mask] = index
        inside = mask[margin : margin + size, margin : margin + size]
        hue = (label + rng.normal(0, HUE_SPREAD)) / len(CLASS_NAMES) % 1
        colour = 255 * np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.5, 1), rng.uniform(0.4, 1)))
        shade = colour + rng.normal(0, 14, (size, size, 1))
        pixels = np.where(inside[..., None], shade, pixels)
        drawn.append((int(label), mask, inside))
    visible_owner = owner[margin : margin + size, margin : margin + size]
    objects = []
    for index, (label, mask, inside) in enumerate(drawn):
        visible = np.count_nonzero(visible_owner == index) / max(np.count_nonzero(mask), 1)
        if visible < DROPPED_BELOW or not inside.any():
            continue
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        objects.append({
            "label": label,
            "box": (columns[0] + 1, rows[0] + 1, columns[-1] + 1, rows[-1] + 1),  # VOC counts pixels from 1
            "truncated": np.count_nonzero(inside) < np.count_nonzero(mask),
            "visible": visible,
        })  # fmt: skip
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), objects


def _choose_labels(rng: np.random.Generator) -> list[int]:
    """One to six objects; a class brings its neighbour along half of the time, so that classes co-occur."""
    labels: list[int] = []
    for _ in range(rng.integers(1, 4)):
        label = int(rng.integers(len(CLASS_NAMES)))
        labels.append(label)
        if rng.random() < 0.5:
            labels.append((label + 1) % len(CLASS_NAMES) if label % 2 == 0 else label - 1)
    return labels


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A coloured gradient with coarse and fine noise, (size, size, 3)."""
    ramp = np.linspace(0, 1, size)
    gradient = rng.uniform(40, 215, 3) + np.multiply.outer(
        np.add.outer(ramp * rng.uniform(-1, 1), ramp * rng.uniform(-1, 1)), rng.uniform(-60, 60, 3)
    )
    coarse = Image.fromarray(rng.integers(0, 255, (6, 6), dtype=np.uint8)).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    return gradient + (np.asarray(coarse, dtype=float)[..., None] - 127) * 0.25 + rng.normal(0, 10, (size, size, 1))


def _draw_shape(draw: ImageDraw.ImageDraw, label: int, centre: np.ndarray, radius: float, angle: float) -> None:
    """Fill the outline of a class, turned by `angle` radians."""
    outline = _OUTLINES[CLASS_NAMES[label]]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    draw.polygon([tuple(point) for point in centre + radius * outline @ turn.T], fill=1)
    if CLASS_NAMES[label] == "ring":
        draw.ellipse((*(centre - 0.55 * radius), *(centre + 0.55 * radius)), fill=0)
    if CLASS_NAMES[label] == "moon":
        bite = centre + radius * turn @ np.array([0.55, 0.0])
        draw.ellipse((*(bite - 0.85 * radius), *(bite + 0.85 * radius)), fill=0)


def _polar(radii: np.ndarray) -> np.ndarray:
    return np.stack([radii * np.sin(_ANGLES), -radii * np.cos(_ANGLES)], axis=1)


_HEART = np.stack([16 * np.sin(_ANGLES) ** 3, -(13 * np.cos(_ANGLES) - 5 * np.cos(2 * _ANGLES)
                   - 2 * np.cos(3 * _ANGLES) - np.cos(4 * _ANGLES))], axis=1) / 17  # fmt: skip
_STAR_ANGLES = np.arange(10) * np.pi / 5
_STAR_RADII = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)

# Outline of each class in the unit disc, y pointing down: (corners, 2).
_OUTLINES = {
    "arrow": np.array([(0, -1), (0.8, 0), (0.3, 0), (0.3, 1), (-0.3, 1), (-0.3, 0), (-0.8, 0)]),
    "ball": _polar(np.full_like(_ANGLES, 0.9)),
    "box": np.array([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]),
    "cone": np.array([(0, -1), (0.85, 0.8), (-0.85, 0.8)]),
    "cross": np.array([(-0.28, -1), (0.28, -1), (0.28, -0.28), (1, -0.28), (1, 0.28), (0.28, 0.28),
                       (0.28, 1), (-0.28, 1), (-0.28, 0.28), (-1, 0.28), (-1, -0.28), (-0.28, -0.28)]),
    "flower": _polar(0.72 + 0.28 * np.cos(5 * _ANGLES)),
    "heart": _HEART,
    "moon": _polar(np.ones_like(_ANGLES)),
    "ring": _polar(np.ones_like(_ANGLES)),
    "star": np.stack([_STAR_RADII * np.sin(_STAR_ANGLES), -_STAR_RADII * np.cos(_STAR_ANGLES)], axis=1),
}  # fmt: skip
