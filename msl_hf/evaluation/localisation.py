"""Whether score maps lie on the objects: the pointing game and CorLoc, by object size."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from ..data.images import read_image
from ..data.transforms import ImageDataset, normalized, resize_by
from ..model.boxes_msl import boxes_of
from ..model.views_msl import Views
from .breakdown import SIZE_LIMITS, groups_of, pair_properties
from .examples import single_instances

IOU = 0.5  # with an object, from which on a box counts as correct


def points_at(score_map: torch.Tensor, boxes: Sequence[Sequence[float]], width: int, height: int) -> bool:
    """The pointing game: whether the greatest value of the map lies in a box of the class.

    Args:
        score_map: (h, w) class score map of a whole image.
        boxes: [x, y, w, h] in pixels.
        width: Of the image, in pixels.
        height: Of the image, in pixels.
    """
    rows, columns = score_map.shape
    row, column = divmod(int(score_map.argmax()), columns)
    x, y = (column + 0.5) * width / columns, (row + 0.5) * height / rows
    return any(left <= x <= left + w and top <= y <= top + h for left, top, w, h in boxes)


def is_correct(score_map: torch.Tensor, boxes: Sequence[Sequence[float]], width: int, height: int) -> bool:
    """CorLoc: whether the first box of the map has an intersection over union of 0.5 with a box of the class."""
    found = boxes_of(score_map, width, height)[0]
    return any(intersection_over_union(found, box) >= IOU for box in boxes)


def intersection_over_union(found: Mapping[str, float], box: Sequence[float]) -> float:
    """Of `{"xmin", "ymin", "xmax", "ymax"}` and [x, y, w, h]."""
    left, top, width, height = box
    across = min(found["xmax"], left + width) - max(found["xmin"], left)
    down = min(found["ymax"], top + height) - max(found["ymin"], top)
    intersection = max(0.0, across) * max(0.0, down)
    area = (found["xmax"] - found["xmin"]) * (found["ymax"] - found["ymin"])
    return intersection / (area + width * height - intersection)


@torch.inference_mode()
def find_hits(
    network,
    images: ImageDataset,
    views: Views,
    objects: Sequence[Mapping[str, list]],
    targets: np.ndarray,
    columns: Sequence[int],
    rows: Iterable[int],
) -> dict[tuple[int, int], tuple[bool, bool]]:
    """What `points_at` and `is_correct` say of the class-image pairs that have boxes.

    Args:
        network: The model, in evaluation mode.
        images: Rows and image processor.
        views: How images are looked at; maps of tiles are joined.
        objects: The `objects` column.
        targets: (N, C) of 1, 0 and -100 (ignored).
        columns: Which of the model's classes the C ones are.
        rows: The images to look at.
    """
    statistics = images.processor.image_mean, images.processor.image_std
    labels_of: dict[int, set[int]] = {}
    for row, label, _ in single_instances(objects, targets):
        labels_of.setdefault(row, set()).add(label)
    hits = {}
    for row in rows:
        if row not in labels_of:
            continue
        image = read_image(images.dataset[row])
        crops = [normalized(crop[None], *statistics) for crop in views.crops(image, resize_by(images.processor))]
        maps = views.score_maps(network, [crop.to(network.device) for crop in crops])[0]
        for label in sorted(labels_of[row]):
            boxes = [box for box, own in zip(objects[row]["bbox"], objects[row]["label"], strict=True) if own == label]
            found = maps[columns[label]], boxes, *image.size
            hits[row, label] = points_at(*found), is_correct(*found)
    return hits


def localisation(
    hits: Mapping[tuple[int, int], tuple[bool, bool]],
    objects: Sequence[Mapping[str, list]],
    num_labels: int,
    size_limits: tuple[float, float] = SIZE_LIMITS,
) -> dict[str, dict[str, float | int | None]]:
    """The share of pairs that are right, of all and by the size of the class's largest object.

    Args:
        hits: (image, class) -> (what `points_at` says, what `is_correct` says).
        objects: The `objects` column.
        num_labels: C.
        size_limits: Sides in pixels of the squares that divide small, medium and large.

    Returns:
        Group -> `pointing`, `CorLoc` (fractions of 1, None without pairs) and `pairs`.
    """
    sizes = pair_properties(objects, num_labels)["size"]
    groups = {"all": (-np.inf, np.inf), **groups_of(size_limits)["size"]}
    result = {}
    for group, (low, high) in groups.items():
        chosen = [hit for pair, hit in hits.items() if low <= sizes[pair] < high]
        shares = np.mean(chosen, axis=0).tolist() if chosen else [None, None]
        result[group] = {"pointing": shares[0], "CorLoc": shares[1], "pairs": len(chosen)}
    return result
