"""Per-class thresholds, tuned on images that nothing else is measured on."""

from collections.abc import Mapping

import numpy as np

from ..model.heads_msl import IGNORED


def tune_thresholds(
    scores: np.ndarray, targets: np.ndarray, min_recall: Mapping[int, float] | None = None
) -> np.ndarray:
    """The threshold of every class with the best F1 on held-out images.

    Candidates lie halfway between neighbouring scores, so that a threshold says nothing about the last digit of one.
    Among equally good ones the nearest to 0.5 is taken; a class without a positive keeps 0.5.

    Args:
        scores: (N, C) probabilities.
        targets: (N, C) of 1, 0 and -100 (ignored).
        min_recall: Class index -> recall, in (0, 1], that it has to reach on these images: the best F1 among those
            thresholds that do.

    Returns:
        (C,) thresholds strictly between 0 and 1, as `MSLConfig.thresholds` takes them.
    """
    scores, targets = np.asarray(scores, dtype=np.float64), np.asarray(targets)
    thresholds = np.full(targets.shape[1], 0.5)
    for label in range(targets.shape[1]):
        valid = targets[:, label] != IGNORED
        order = np.argsort(-scores[valid, label], kind="stable")
        ranked, positive = scores[valid, label][order], targets[valid, label][order] == 1
        if not positive.any():
            continue
        f1 = 2 * positive.cumsum() / (np.arange(1, len(ranked) + 1) + positive.sum())  # of predicting the first n
        candidates = (ranked + np.append(ranked[1:], 0.0)) / 2
        possible = ranked > np.append(ranked[1:], -1.0)  # ties are predicted together
        reached = positive.cumsum() / positive.sum()
        possible &= reached >= (min_recall or {}).get(label, 0.0) - 1e-12
        best = possible & (f1 >= f1[possible].max() - 1e-12)
        thresholds[label] = min(candidates[best], key=lambda threshold: abs(threshold - 0.5))
    return thresholds.clip(1e-6, 1 - 1e-6)
