"""The images that a model gets most wrong."""

from typing import NamedTuple

import numpy as np


class Mistake(NamedTuple):
    """A wrong prediction: which image, which class, its score."""

    index: int
    label: int
    score: float


def worst_mistakes(scores: np.ndarray, targets: np.ndarray, count: int) -> tuple[list[Mistake], list[Mistake]]:
    """Labels that are missed with the lowest scores, and labels that are seen with the highest where they are not.

    Each image is named once of either kind, with its worst label.

    Args:
        scores: (N, C) probabilities.
        targets: (N, C) of 1, 0 and -100 (ignored).
        count: At most so many of either kind.

    Returns:
        Missed (from the lowest score), and seen (from the highest).
    """
    missed = _worst(np.where(targets == 1, 1 - scores, -np.inf), scores, count)
    seen = _worst(np.where(targets == 0, scores, -np.inf), scores, count)
    return missed, seen


def _worst(errors: np.ndarray, scores: np.ndarray, count: int) -> list[Mistake]:
    labels = errors.argmax(axis=1)
    of_image = errors[np.arange(len(errors)), labels]
    order = np.argsort(-of_image, kind="stable")[:count]
    return [
        Mistake(int(index), int(labels[index]), float(scores[index, labels[index]]))
        for index in order
        if np.isfinite(of_image[index])
    ]
