"""Which images a figure shows, chosen by rule from the boxes (Figures 2 and 4 to 7)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .breakdown import box_overlaps

NEARLY_ALL, NEARLY_NOTHING = 0.9, 0.1  # share of an object's box that the mask removes


@dataclass(frozen=True)
class Example:
    """An image, the class that it was chosen for, the instance's box [x, y, w, h] in pixels, and the rule's value."""

    index: int
    label: int
    bbox: tuple[float, ...]
    value: float


def single_instances(objects: Sequence[Mapping[str, list]], targets: np.ndarray) -> list[tuple[int, int, int]]:
    """(image, class, position among its objects) of instances of positive classes; no crowds, no difficult ones."""
    return [
        (row, item["label"][index], index)
        for row, item in enumerate(objects)
        for index in range(len(item["label"]))
        if not (item["crowd"][index] or item["difficult"][index]) and targets[row, item["label"][index]] == 1
    ]


def smallest_objects(objects: Sequence[Mapping[str, list]], targets: np.ndarray, count: int) -> list[Example]:
    """Pairs of an image and a class whose largest instance is smallest; the value is its area in pixels."""
    largest: dict[tuple[int, int], Example] = {}
    for row, label, index in single_instances(objects, targets):
        found = Example(row, label, tuple(objects[row]["bbox"][index]), float(objects[row]["area"][index]))
        largest[row, label] = max(largest.get((row, label), found), found, key=lambda example: example.value)
    return _choose(sorted(largest.values(), key=lambda example: example.value), count)


def most_hidden_objects(objects: Sequence[Mapping[str, list]], targets: np.ndarray, count: int) -> list[Example]:
    """Pairs of an image and a class whose least hidden instance is hidden most.

    The value is the hidden share of the object where the data know it, else the share of its box that other boxes
    cover.
    """
    least: dict[tuple[int, int], Example] = {}
    overlaps = [box_overlaps(item["bbox"]) for item in objects]
    for row, label, index in single_instances(objects, targets):
        visible = objects[row]["visible"][index]
        hidden = float(overlaps[row][index]) if visible is None else 1 - visible
        found = Example(row, label, tuple(objects[row]["bbox"][index]), hidden)
        least[row, label] = min(least.get((row, label), found), found, key=lambda example: example.value)
    return _choose(sorted(least.values(), key=lambda example: -example.value), count)


def masked_objects(
    objects: Sequence[Mapping[str, list]],
    targets: np.ndarray,
    keeps: Sequence[torch.Tensor],
    image_sizes: Sequence[tuple[int, int]],
    count: int,
    nearly_all: bool,
) -> list[Example]:
    """The largest objects that a mask removes nearly all of, or leaves nearly whole; the value is the removed share.

    Args:
        objects: The `objects` column.
        targets: (N, C).
        keeps: The mask of each image, (h, w) bool, True = keep; it lies over the image whatever its size.
        image_sizes: (width, height) of each image in pixels of its boxes.
        count: How many.
        nearly_all: True: at least 90 % of the box removed, the only instance of its class. False: at most 10 %.
    """
    found = []
    instances = single_instances(objects, targets)
    number = Counter((row, label) for row, label, _ in instances)
    for row, label, index in instances:
        removed = _removed_share(keeps[row], objects[row]["bbox"][index], image_sizes[row])
        wanted = removed >= NEARLY_ALL if nearly_all else removed <= NEARLY_NOTHING
        if wanted and (not nearly_all or number[row, label] == 1):
            area = objects[row]["bbox"][index][2] * objects[row]["bbox"][index][3]
            example = Example(row, label, tuple(objects[row]["bbox"][index]), removed)
            found.append((area / np.prod(image_sizes[row]), example))
    return _choose([example for _, example in sorted(found, key=lambda pair: -pair[0])], count)


def _removed_share(keep: torch.Tensor, bbox: Sequence[float], image_size: tuple[int, int]) -> float:
    height, width = keep.shape
    x, y, w, h = bbox
    left, right = x * width / image_size[0], (x + w) * width / image_size[0]
    top, bottom = y * height / image_size[1], (y + h) * height / image_size[1]
    rows = slice(max(int(top), 0), max(round(bottom), int(top) + 1))
    columns = slice(max(int(left), 0), max(round(right), int(left) + 1))
    return 1 - keep[rows, columns].float().mean().item()


def _choose(ranked: Sequence[Example], count: int) -> list[Example]:
    """The first ones, each image and each class once, as long as there are other classes."""
    chosen: list[Example] = []
    for fresh_class in (True, False):
        for example in ranked:
            images, classes = {item.index for item in chosen}, {item.label for item in chosen}
            if len(chosen) < count and example.index not in images and not (fresh_class and example.label in classes):
                chosen.append(example)
    return chosen
