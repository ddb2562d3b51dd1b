import numpy as np
import pytest

from msl_hf.evaluation.thresholds import tune_thresholds


def f1(scores, truths, threshold):
    hits = sum(1 for s, t in zip(scores, truths, strict=True) if s >= threshold and t == 1)
    predicted, positive = sum(s >= threshold for s in scores), sum(t == 1 for t in truths)
    return 2 * hits / (predicted + positive)


@pytest.mark.parametrize("seed", range(6))
def test_no_threshold_is_better(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(1, 10, (40, 5)) / 10 if seed % 2 else rng.random((40, 5))
    targets = rng.choice([0, 1, -100], (40, 5), p=[0.5, 0.4, 0.1])
    thresholds = tune_thresholds(scores, targets)
    assert ((thresholds > 0) & (thresholds < 1)).all()
    for label in range(5):
        valid = targets[:, label] != -100
        values = scores[valid, label], targets[valid, label]
        best = max(f1(*values, threshold) for threshold in np.arange(0, 1.0, 0.001))
        assert f1(*values, thresholds[label]) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(4))
def test_a_recall_that_is_asked_for_is_reached_with_the_best_f1(seed):
    rng = np.random.default_rng(seed)
    scores, targets = rng.random((40, 3)), rng.choice([0, 1, -100], (40, 3), p=[0.6, 0.3, 0.1])
    thresholds = tune_thresholds(scores, targets, {1: 0.9})
    assert thresholds[[0, 2]] == pytest.approx(tune_thresholds(scores, targets)[[0, 2]])
    values = scores[targets[:, 1] != -100, 1], targets[targets[:, 1] != -100, 1]

    def recall(threshold):
        return (values[0][values[1] == 1] >= threshold).mean()

    enough = [threshold for threshold in np.arange(0, 1.0, 0.001) if recall(threshold) >= 0.9]
    assert recall(thresholds[1]) >= 0.9
    assert f1(*values, thresholds[1]) == pytest.approx(max(f1(*values, threshold) for threshold in enough))


def test_halfway_between_scores_and_near_a_half():
    scores, targets = np.array([[0.9], [0.7], [0.3], [0.1]]), np.array([[1], [1], [0], [0]])
    assert tune_thresholds(scores, targets) == pytest.approx([0.5])
    assert tune_thresholds(np.array([[0.4], [0.2]]), np.array([[0], [0]])) == pytest.approx([0.5])


def test_everything_positive_with_a_score_of_zero():
    assert 0 < tune_thresholds(np.zeros((3, 1)), np.ones((3, 1)))[0] < 1e-3
