"""A data set looked at in several ways, and what each of them is worth."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from ..data.images import read_image
from ..data.schema import DataError
from ..data.transforms import ImageDataset, resize_by
from ..model.views_msl import Part, Views, combined
from .metrics import multilabel_metrics, probabilities

FACTORS = (1.2, 1.4, 1.6, 2.0)  # of the side that a model was trained with


class PartImages(Dataset):
    """What one part of a view sees of each image: `pixel_values` (3, H, W), of tiles (T, 3, H, W).

    Args:
        images: Rows and image processor.
        part: The part.
    """

    def __init__(self, images: ImageDataset, part: Part):
        self.images, self.part = images, part

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        row = self.images.dataset[index]
        try:
            crops = self.part.crops(read_image(row), resize_by(self.images.processor))
        except ValueError as error:
            raise DataError(f"{row.get('image_id')}: {error}") from error
        known = {name: row.get(name) for name in ("ignored", "image_id")}
        pixel_values = crops[0] if len(crops) == 1 else torch.stack(crops)
        return {"pixel_values": pixel_values, "labels": row["labels"], **known}


def view_scores(
    predict: Callable[[Dataset], np.ndarray], images: ImageDataset, views: Sequence[Views]
) -> dict[str, np.ndarray]:
    """(N, C) probabilities by view; a part that several views have is computed once.

    Args:
        predict: `PartImages` -> (N, C) logits.
        images: Rows and image processor.
        views: The views.
    """
    parts = dict.fromkeys(part for view in views for part in view.parts)
    logits = {part: predict(PartImages(images, part)) for part in parts}
    return {str(view): probabilities(combined([logits[part] for part in view.parts])) for view in views}


def candidate_views(network, processor, most: float) -> list[Views]:
    """The views that are tried where none are named, the plain pass first: those that cost at most `most` of it.

    Args:
        network: The model.
        processor: Its image processor.
        most: Cost limit, as `Views.cost` counts it.
    """
    image_size = network.config.image_height_width
    side, step = image_size[0], network.input_step
    larger = [size for factor in FACTORS if (size := round(side * factor / step) * step) > side]
    middle, smaller = round(side * 1.4 / step) * step, max(step, round(side * 0.7 / step) * step)
    texts = ["whole", *(f"whole@{size}" for size in larger), "whole+mirror", f"whole@{middle}+mirror@{middle}",
             f"whole+2x2@{smaller}", f"whole@{middle}+2x2@{smaller}", f"whole@{middle}+2x2"]  # fmt: skip
    views = [Views.parse(text) for text in dict.fromkeys(texts)]
    views = [view for view in views if view.cost(image_size) <= most]
    possible = []
    for view in views:
        try:
            view.check(network, processor)
        except ValueError:
            continue
        possible.append(view)
    return possible


def choose_view(scores: dict[str, np.ndarray], targets: np.ndarray, costs: dict[str, float]) -> tuple[str, list[dict]]:
    """The view with the best mAP, of equally good ones the cheapest; and what each of them reached.

    Args:
        scores: (N, C) probabilities of a held-out split, by view.
        targets: (N, C) of 1, 0 and -100 (ignored).
        costs: By view.
    """
    rows = [{"view": view, "cost": costs[view], **multilabel_metrics(scores[view], targets)} for view in scores]
    best = max(rows, key=lambda row: (round(row["mAP"], 9), -row["cost"]))
    return best["view"], rows
