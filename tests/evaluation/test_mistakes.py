import numpy as np

from msl_hf.evaluation.mistakes import Mistake, worst_mistakes


def test_by_hand():
    scores = np.array([[0.9, 0.2], [0.1, 0.8], [0.3, 0.4], [0.05, 0.5]])
    targets = np.array([[1, 1], [1, 0], [0, 0], [-100, 1]])
    missed, seen = worst_mistakes(scores, targets, 20)
    assert missed == [Mistake(1, 0, 0.1), Mistake(0, 1, 0.2), Mistake(3, 1, 0.5)]  # 3 knows nothing of class 0
    assert seen == [Mistake(1, 1, 0.8), Mistake(2, 1, 0.4)]
    assert worst_mistakes(scores, targets, 1) == ([Mistake(1, 0, 0.1)], [Mistake(1, 1, 0.8)])


def test_brute_force():
    rng = np.random.default_rng(0)
    scores, targets = rng.random((30, 5)), rng.choice([0, 1, -100], (30, 5))
    for value, found in zip((1, 0), worst_mistakes(scores, targets, 7), strict=True):
        errors = [max((abs(value - scores[i, c]) for c in range(5) if targets[i, c] == value), default=-1)
                  for i in range(30)]  # fmt: skip
        assert [abs(value - mistake.score) for mistake in found] == sorted(errors, reverse=True)[:7]
        assert all(targets[mistake.index, mistake.label] == value for mistake in found)
        assert all(scores[mistake.index, mistake.label] == mistake.score for mistake in found)
