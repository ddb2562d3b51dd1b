"""Average precision by object size, truncation, overlap and visible fraction, with bootstrap intervals.

The unit is the class-image pair: a positive belongs to a group by the instances of its class in its image (the largest
one, the least hidden one), negatives are all pairs of a class and an image without it. All pairs are ranked together.
"""

from collections.abc import Mapping, Sequence

import numpy as np

SIZE_LIMITS = (32, 96)  # COCO's: small below 32 x 32 pixels, large from 96 x 96 on


def pair_properties(objects: Sequence[Mapping[str, list]], num_labels: int) -> dict[str, np.ndarray]:
    """What the boxes of every image say about every class-image pair.

    Crowds and difficult instances describe no pair.

    Args:
        objects: The `objects` column: for each of N images lists `label`, `bbox`, `area`, `truncated`, ...
        num_labels: C.

    Returns:
        (N, C) arrays, NaN where the data do not say: `size`, the area in pixels of the largest instance;
        `truncation`, 1 where every instance is cut off, else 0; `overlap`, the share of its box that other boxes
        cover, of the instance that they cover least; `visible`, the visible fraction of the most visible instance.
    """
    names = ("size", "truncation", "overlap", "visible")
    properties = {name: np.full((len(objects), num_labels), np.nan) for name in names}
    for row, item in enumerate(objects):
        covered = box_overlaps(item["bbox"])
        single = [i for i in range(len(item["label"])) if not (item["crowd"][i] or item["difficult"][i])]
        for index in single:
            label, truncated, visible = item["label"][index], item["truncated"][index], item["visible"][index]
            for name, value, choose in (
                ("size", item["area"][index], np.fmax),
                ("truncation", None if truncated is None else float(truncated), np.fmin),
                ("overlap", covered[index], np.fmin),
                ("visible", visible, np.fmax),
            ):
                if value is not None:
                    properties[name][row, label] = choose(properties[name][row, label], value)
    return properties


def box_overlaps(boxes: Sequence[Sequence[float]]) -> np.ndarray:
    """The share of each box [x, y, w, h] that the union of the others covers: (n,) in [0, 1]."""
    corners = np.array([[x, y, x + w, y + h] for x, y, w, h in boxes], dtype=np.float64).reshape(-1, 4)
    shares = np.zeros(len(corners))
    for index, box in enumerate(corners):
        others = np.delete(corners, index, axis=0)
        low, high = np.maximum(others[:, :2], box[:2]), np.minimum(others[:, 2:], box[2:])
        inside = (high > low).all(axis=1)
        if not inside.any():
            continue
        low, high = low[inside], high[inside]
        # The edges of the other boxes cut this one into cells that are covered as a whole or not at all.
        x, y = (np.unique(np.concatenate([low[:, axis], high[:, axis]])) for axis in (0, 1))
        in_x = (low[:, :1] <= x[:-1]) & (x[1:] <= high[:, :1])
        in_y = (low[:, 1:] <= y[:-1]) & (y[1:] <= high[:, 1:])
        cells = np.einsum("nx,ny->xy", in_x.astype(int), in_y.astype(int)) > 0
        covered = (cells * np.outer(np.diff(x), np.diff(y))).sum()
        shares[index] = covered / ((box[2] - box[0]) * (box[3] - box[1]))
    return shares


def groups_of(size_limits: tuple[float, float] = SIZE_LIMITS) -> dict[str, dict[str, tuple[float, float]]]:
    """Property -> group -> half-open interval of its values."""
    small, large = size_limits[0] ** 2, size_limits[1] ** 2
    return {
        "size": {"small": (0, small), "medium": (small, large), "large": (large, np.inf)},
        "truncation": {"whole": (0, 0.5), "truncated": (0.5, np.inf)},
        "overlap": {"below 10 %": (0, 0.1), "10 to 50 %": (0.1, 0.5), "50 % and more": (0.5, np.inf)},
        "visible": {"below 25 %": (0, 0.25), "25 to 50 %": (0.25, 0.5), "50 to 75 %": (0.5, 0.75),
                    "75 % and more": (0.75, np.inf)},
    }  # fmt: skip


def resample_counts(num_images: int, num_resamples: int, seed: int = 0) -> np.ndarray:
    """How often each image occurs in each bootstrap sample: (num_resamples, num_images).

    Whole images are drawn, because the pairs of an image are not independent.
    """
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=num_resamples)


def pooled_average_precision(
    scores: np.ndarray, positive: np.ndarray, negative: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Average precision over all class-image pairs at once; pairs that are neither positive nor negative are left out.

    Args:
        scores: (N, C).
        positive: (N, C) bool.
        negative: (N, C) bool.
        weights: (R, N), how often each image counts in each of R weightings.

    Returns:
        (R,) fractions of 1; NaN where no positive has weight. Tied scores share a threshold, as in scikit-learn.
    """
    rows, columns = np.nonzero(positive | negative)
    order = np.argsort(-scores[rows, columns], kind="stable")
    rows, ranked = rows[order], scores[rows, columns][order]
    hits = positive[rows, columns[order]]
    ends = np.flatnonzero(np.append(np.diff(ranked) != 0, True))  # the last of each run of tied scores
    result = np.full(len(weights), np.nan)
    for index, weight in enumerate(weights):
        pair_weight = weight[rows].astype(np.float64)
        true, predicted = (pair_weight * hits).cumsum()[ends], pair_weight.cumsum()[ends]
        if len(ends) and true[-1] > 0:
            precision = true / np.maximum(predicted, 1e-12)
            result[index] = (np.diff(true, prepend=0.0) * precision).sum() / true[-1]
    return result


def mean_average_precisions(scores: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """mAP of each of R weightings of the images: (R,) fractions of 1.

    Classes without a positive of weight are left out, as `multilabel_metrics` does.

    Args:
        scores: (N, C).
        targets: (N, C) of 1, 0 and -100 (ignored).
        weights: (R, N), how often each image counts.
    """
    by_class = [
        pooled_average_precision(
            scores[:, [label]], targets[:, [label]] == 1, targets[:, [label]] == 0, weights
        )
        for label in range(targets.shape[1])
    ]  # fmt: skip
    known = [values for values in by_class if not np.isnan(values).all()]
    return np.nanmean(known, axis=0)


def breakdown(
    scores: np.ndarray,
    targets: np.ndarray,
    objects: Sequence[Mapping[str, list]] | None,
    size_limits: tuple[float, float] = SIZE_LIMITS,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict:
    """Pooled average precision in every group, with 95 % bootstrap intervals.

    Args:
        scores: (N, C) probabilities.
        targets: (N, C) of 1, 0 and -100 (ignored).
        objects: The `objects` column, None where the data have no boxes. An image that has labels but no boxes is left
            out and counted.
        size_limits: Sides in pixels of the squares that divide small, medium and large.
        num_resamples: Bootstrap samples of images.
        seed: Seed of the bootstrap; the same for two models makes their samples comparable one by one.

    Returns:
        `num_images`, `num_images_without_boxes`, and under each property that the data know
        `{group: {"AP", "interval", "positives", "samples"}}`; `samples` are the bootstrap values.
    """
    is_positive = targets == 1
    if objects is None:
        return {"num_images": 0, "num_images_without_boxes": len(targets)}
    has_boxes = np.array([len(item["label"]) > 0 for item in objects], dtype=bool)
    usable = has_boxes | (targets == 0).all(axis=1)
    result: dict = {"num_images": int(usable.sum()), "num_images_without_boxes": int((~usable).sum())}
    if not has_boxes.any():
        return result
    objects = [item for item, use in zip(objects, usable, strict=True) if use]
    scores, is_positive, is_negative = scores[usable], is_positive[usable], targets[usable] == 0
    properties = pair_properties(objects, targets.shape[1])
    weights = np.concatenate([np.ones((1, len(scores))), resample_counts(len(scores), num_resamples, seed)])
    for name, groups in groups_of(size_limits).items():
        values = properties[name]
        if np.isnan(values[is_positive]).all():
            continue  # the data know nothing of it
        result[name] = {}
        for group, (low, high) in groups.items():
            positive = is_positive & (values >= low) & (values < high)
            count = int(positive.sum())
            value, *samples = pooled_average_precision(scores, positive, is_negative, weights) if count else [None]
            interval = np.nanpercentile(samples, [2.5, 97.5]).tolist() if count else None
            result[name][group] = {
                "AP": None if value is None else float(value),
                "interval": interval,
                "positives": count,
                "samples": samples,
            }
    return result
