"""The metrics of multi-label classification, as the paper and its reference compute them."""

from numbers import Integral

import numpy as np

from ..model.heads_msl import IGNORED

METRIC_NAMES = ("mAP", "CP", "CR", "CF1", "OP", "OR", "OF1")


def average_precisions(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Average precision of every class, NaN where it has no positive.

    The mean, over the positives, of the precision at their rank (not interpolated); tied scores share a threshold.
    Ignored entries are taken out class by class.

    Args:
        scores: (N, C), in any monotonous scale.
        targets: (N, C) of 1, 0 and -100 (ignored).

    Returns:
        (C,) fractions of 1.
    """
    from sklearn.metrics import average_precision_score

    result = np.full(targets.shape[1], np.nan)
    for label in range(targets.shape[1]):
        valid = targets[:, label] != IGNORED
        truth = targets[valid, label]
        if truth.any():
            result[label] = average_precision_score(truth, scores[valid, label])
    return result


def multilabel_metrics(
    scores: np.ndarray,
    targets: np.ndarray,
    threshold: float | np.ndarray = 0.5,
    top_k: int | None = None,
    count_ignored_as: str = "ignore",
) -> dict[str, float]:
    """mAP, and precision, recall and F1 per class (CP, CR, CF1) and overall (OP, OR, OF1).

    Entries whose target is -100 count in nothing, unless `count_ignored_as` says otherwise. Classes without a positive
    are left out of mAP, CP and CR; OP and OR count all entries. A class without a prediction has precision 0.

    Args:
        scores: (N, C) **probabilities**.
        targets: (N, C) of 1, 0 and -100 (ignored).
        threshold: An entry is predicted positive at `score >= threshold`; one number in [0, 1], or one for each class.
        top_k: Predict of these only those among the k best labels of their image, as the literature's top-3 variants
            do (ML-GCN, the reference). All labels take part in the ranking, ignored ones, too; the best one is thus
            predicted only where it reaches the threshold.
        count_ignored_as: `"negative"` counts ignored entries as negative in precision and recall, as the reference
            code does on WIDER-Attribute; average precision ignores them all the same.

    Returns:
        Seven fractions of 1.

    Raises:
        ValueError: for shapes that differ, scores or thresholds outside [0, 1] (logits), NaN, other target values,
            `top_k` that is no whole number from 1, or targets without a single positive.

    Examples:
        >>> multilabel_metrics(np.array([[0.9, 0.2], [0.6, 0.8]]), np.array([[1, 0], [0, 1]]))["mAP"]
        1.0
    """
    scores, targets = np.asarray(scores, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise ValueError(f"scores and targets must both be (N, C), got {scores.shape} and {targets.shape}")
    if np.isnan(scores).any():
        raise ValueError(f"scores hold NaN in {np.isnan(scores).any(axis=1).sum()} of {len(scores)} rows")
    if scores.size and (scores.min() < 0 or scores.max() > 1):
        raise ValueError(f"scores must be probabilities in [0, 1], got {scores.min():.3g} to {scores.max():.3g}; "
                         "apply the sigmoid to logits first")  # fmt: skip
    if not np.isin(targets, (0, 1, IGNORED)).all():
        raise ValueError(f"targets must be 0, 1 or {IGNORED:g} (ignored), got {np.unique(targets)[:8]}")
    if count_ignored_as not in ("ignore", "negative"):
        raise ValueError(f"count_ignored_as must be 'ignore' or 'negative', got {count_ignored_as!r}")
    if not ((np.asarray(threshold) >= 0) & (np.asarray(threshold) <= 1)).all():  # NaN is neither
        raise ValueError(f"threshold is a probability in [0, 1], got {threshold}")
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, Integral) or top_k < 1):
        raise ValueError(f"top_k must be a whole number, at least 1, got {top_k}")
    has_positive = (targets == 1).any(axis=0)
    if not has_positive.any():
        raise ValueError("targets hold no positive at all; no metric is defined")

    valid = (targets != IGNORED) | (count_ignored_as == "negative")
    positive = targets == 1
    predicted = (scores >= threshold) & valid
    if top_k is not None:
        predicted &= scores.argsort(axis=1, kind="stable")[:, ::-1].argsort(axis=1) < top_k
    hits, precision, recall = _hits_precision_recall(predicted, positive)
    class_precision, class_recall = precision[has_positive].mean(), recall[has_positive].mean()
    overall_precision = hits.sum() / max(predicted.sum(), 1)
    overall_recall = hits.sum() / positive.sum()
    values = (
        np.nanmean(average_precisions(scores, targets)),
        class_precision,
        class_recall,
        _f1(class_precision, class_recall),
        overall_precision,
        overall_recall,
        _f1(overall_precision, overall_recall),
    )
    return {name: float(value) for name, value in zip(METRIC_NAMES, values, strict=True)}


def precision_and_recall(
    scores: np.ndarray, targets: np.ndarray, threshold: float | np.ndarray = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of every class; 0 where nothing is predicted, or nothing is there. Ignored entries are out.

    Args:
        scores: (N, C) probabilities.
        targets: (N, C) of 1, 0 and -100 (ignored).
        threshold: An entry is predicted positive at `score >= threshold`; one number, or one for each class.

    Returns:
        (C,) and (C,) fractions of 1.
    """
    return _hits_precision_recall((scores >= threshold) & (targets != IGNORED), targets == 1)[1:]


def metrics_from_logits(prediction, count_ignored_as: str = "ignore") -> dict[str, float]:
    """`multilabel_metrics` of an `EvalPrediction` of logits: what `Trainer` wants as `compute_metrics`."""
    scores = probabilities(prediction.predictions)
    return multilabel_metrics(scores, prediction.label_ids, count_ignored_as=count_ignored_as)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """The sigmoid in its stable form, without overflow at either end."""
    return np.exp(-np.logaddexp(0, -np.asarray(logits, dtype=np.float64)))


def _hits_precision_recall(predicted: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, ...]:
    hits = (predicted & positive).sum(axis=0)
    return hits, hits / np.maximum(predicted.sum(axis=0), 1), hits / np.maximum(positive.sum(axis=0), 1)


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
