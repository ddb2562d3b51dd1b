"""What several seeds of one training have in common: the means of their measurements."""

import os
from collections.abc import Sequence

import numpy as np


def mean_over_seeds(results: Sequence):
    """The mean of measurements of the same form, number by number.

    An `interval` beside `samples`, the bootstrap values, becomes that of the mean samples: what other images would
    have changed; how far seeds lie apart, the measurements themselves say. Whatever is not the same in form or words,
    such as paths or thresholds of other lengths, is left out of dictionaries.

    Args:
        results: One measurement of each seed: dictionaries, lists, numbers, None where one could not be measured.

    Returns:
        One of the same form; None instead of what cannot be averaged.
    """
    first, *others = results
    if isinstance(first, dict):
        keys = [key for key in first if all(key in other for other in others)]
        means = {key: mean_over_seeds([result[key] for result in results]) for key in keys}
        means = {key: value for key, value in means.items()
                 if value is not None or any(result[key] is None for result in results)}  # fmt: skip
        if means.get("interval") and "samples" in means:
            means["interval"] = np.nanpercentile(means["samples"], [2.5, 97.5]).tolist()
        return means
    if any(value is None for value in results):
        return None
    if isinstance(first, str | bool):
        return first if all(value == first for value in others) else None
    if isinstance(first, Sequence | np.ndarray):
        if any(len(value) != len(first) for value in others):
            return None
        return [mean_over_seeds(values) for values in zip(*results, strict=True)]
    return first if all(value == first for value in others) else float(sum(results) / len(results))


def common_name(names: Sequence[str]) -> str:
    """What names begin with in common, without what parts them from the seed: `plus-1`, `plus-2` -> `plus`."""
    return os.path.commonprefix(list(names)).rstrip("-_. /") or names[0]
