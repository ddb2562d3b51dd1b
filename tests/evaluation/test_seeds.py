import numpy as np
import pytest

from msl_hf.evaluation.seeds import common_name, mean_over_seeds


def test_means_by_hand():
    same = {"positives": 4, "missing": None, "kind": "x"}
    first = {**same, "mAP": 0.5, "rows": [{"covered": 0.5, "AP": 0.2}], "path": "a", "thresholds": [0.1, 0.2]}
    second = {**same, "mAP": 0.7, "rows": [{"covered": 0.5, "AP": 0.4}], "path": "b", "own": 1}
    mean = mean_over_seeds([first, second])
    rows = [{"covered": 0.5, "AP": pytest.approx(0.3)}]
    assert mean == {**same, "mAP": pytest.approx(0.6), "rows": rows}
    assert isinstance(mean["positives"], int)
    assert mean_over_seeds([{"AP": None}, {"AP": 0.5}]) == mean_over_seeds([{"AP": 0.5}, {"AP": None}]) == {"AP": None}


def test_the_interval_is_that_of_the_mean_samples():
    rng = np.random.default_rng(0)
    samples = rng.random((3, 200))
    seeds = [
        {"AP": 0.5, "interval": np.percentile(row, [2.5, 97.5]).tolist(), "samples": row.tolist()} for row in samples
    ]
    mean = mean_over_seeds(seeds)
    np.testing.assert_allclose(mean["interval"], np.percentile(samples.mean(axis=0), [2.5, 97.5]))
    # Independent samples: the mean of three varies less than each of them.
    assert np.ptp(mean["interval"]) < min(np.ptp(seed["interval"]) for seed in seeds)


@pytest.mark.parametrize(
    ("names", "common"),
    [(["plus-1", "plus-2"], "plus"), (["out/plus_1", "out/plus_2"], "out/plus"), (["a", "b"], "a"), (["x1"], "x1")],
)
def test_names(names, common):
    assert common_name(names) == common
