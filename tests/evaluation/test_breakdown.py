import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from msl_hf.data import load_voc
from msl_hf.data.schema import column
from msl_hf.evaluation.breakdown import (
    box_overlaps,
    breakdown,
    pair_properties,
    pooled_average_precision,
    resample_counts,
)


def objects(*items, **columns):
    """Rows (label, bbox) with the area of the box, not truncated, unless given."""
    result = {
        "label": [label for label, _ in items],
        "bbox": [bbox for _, bbox in items],
        "area": [bbox[2] * bbox[3] for _, bbox in items],
    }
    for name in ("truncated", "difficult", "crowd", "visible"):
        result[name] = columns.get(name, [None] * len(items))
    return result


@pytest.mark.parametrize("seed", range(5))
def test_overlap_equals_counting_pixels(seed):
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 20, (6, 2))
    boxes = np.concatenate([corners, rng.integers(1, 15, (6, 2))], axis=1)
    expected = []
    for index, (x, y, w, h) in enumerate(boxes):
        covered = np.zeros((40, 40), dtype=bool)
        for other, (ox, oy, ow, oh) in enumerate(boxes):
            covered[oy : oy + oh, ox : ox + ow] |= other != index
        expected.append(covered[y : y + h, x : x + w].mean())
    np.testing.assert_allclose(box_overlaps(boxes.tolist()), expected)


def test_no_box_and_one_box():
    assert box_overlaps([]).shape == (0,) and box_overlaps([[1, 2, 3, 4]]).tolist() == [0.0]


def test_a_pair_is_as_large_and_as_visible_as_its_best_instance():
    image = objects(
        (0, [0, 0, 10, 10]), (0, [5, 0, 10, 40]), (1, [50, 50, 4, 5]), (2, [0, 0, 90, 90]), (3, [70, 70, 5, 5]),
        truncated=[True, False, True, False, False], visible=[0.2, 0.6, 0.9, 1.0, 1.0],
        crowd=[False, False, False, True, False], difficult=[False, False, False, False, True],
    )  # fmt: skip
    values = pair_properties([image, objects()], 5)
    assert values["size"][0, :2].tolist() == [400, 20] and np.isnan(values["size"][0, 2:]).all()
    assert values["truncation"][0, :2].tolist() == [0, 1]
    assert values["visible"][0, :2].tolist() == [0.6, 0.9]
    # The crowd and the difficult instance still hide others: both boxes of class 0 lie within the crowd.
    assert values["overlap"][0, :2].tolist() == [1, 1]
    assert all(np.isnan(array[1]).all() for array in values.values())


@pytest.mark.parametrize("seed", range(4))
def test_pooled_average_precision_equals_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 8, (30, 6)) / 7  # ties
    kind = rng.choice(["positive", "negative", "neither"], (30, 6), p=[0.2, 0.6, 0.2])
    weights = np.concatenate([np.ones((1, 30)), resample_counts(30, 20, seed)])
    found = pooled_average_precision(scores, kind == "positive", kind == "negative", weights)
    used = kind != "neither"
    for value, weight in zip(found, weights, strict=True):
        pair_weight = np.repeat(weight[:, None], 6, axis=1)[used]
        expected = average_precision_score((kind == "positive")[used], scores[used], sample_weight=pair_weight)
        assert value == pytest.approx(expected, rel=1e-9)


def test_no_weight_on_a_positive_is_not_a_number():
    scores, positive = np.array([[0.9], [0.1]]), np.array([[True], [False]])
    values = pooled_average_precision(scores, positive, ~positive, np.array([[1, 1], [0, 2]]))
    assert values[0] == 1 and np.isnan(values[1])


def test_bootstrap_draws_as_many_images_as_there_are():
    counts = resample_counts(50, 200)
    assert counts.shape == (200, 50) and (counts.sum(axis=1) == 50).all() and abs(counts.mean() - 1) < 1e-9
    assert np.array_equal(counts, resample_counts(50, 200)) and (counts.std(axis=0) > 0.5).all()


def test_groups_by_hand():
    small, large = [0, 0, 10, 10], [0, 0, 100, 100]
    rows = [objects((0, small)), objects((0, large)), objects((1, large)), objects(), objects()]
    targets = np.array([[1, 0], [1, 0], [0, 1], [1, 0], [0, 0]])  # image 3 has a label, but nobody drew its box
    scores = np.array([[0.4, 0.1], [0.9, 0.5], [0.2, 0.8], [0.99, 0.0], [0.3, 0.0]])
    result = breakdown(scores, targets, rows, num_resamples=50)
    assert (result["num_images"], result["num_images_without_boxes"]) == (4, 1)
    assert "truncation" not in result and "visible" not in result  # unknown
    # Negatives of images 0, 1, 2, 4: 0.1, 0.5, 0.2, 0.3, 0.0. Small: 0.4 is behind 0.5; large: both ahead of all.
    assert result["size"]["small"]["AP"] == pytest.approx(0.5) and result["size"]["small"]["positives"] == 1
    assert result["size"]["large"]["AP"] == pytest.approx(1.0) and result["size"]["large"]["positives"] == 2
    assert result["size"]["medium"]["AP"] is None and result["size"]["medium"]["positives"] == 0
    low, high = result["size"]["small"]["interval"]
    assert 0 < low <= 0.5 <= high <= 1


def test_ignored_entries_are_neither_positive_nor_negative():
    rows = [objects((0, [0, 0, 9, 9])), objects((0, [0, 0, 9, 9]))]
    targets = np.array([[1, -100], [1, 0]])
    scores = np.array([[0.5, 0.9], [0.6, 0.1]])
    assert breakdown(scores, targets, rows, num_resamples=5)["size"]["small"]["AP"] == 1


def test_generated_scenes_know_everything(scenes):
    data = load_voc(scenes)["test"]
    targets = np.zeros((len(data), 10))
    for row, labels in zip(targets, column(data, "labels"), strict=True):
        row[labels] = 1
    result = breakdown(targets.astype(float), targets, column(data, "objects"), num_resamples=5)
    assert set(result) == {"num_images", "num_images_without_boxes", "size", "truncation", "overlap", "visible"}
    for name in ("size", "truncation", "overlap", "visible"):
        assert sum(group["positives"] for group in result[name].values()) == targets.sum()
        assert all(group["AP"] == 1 for group in result[name].values() if group["positives"])


def test_data_without_boxes():
    targets = np.array([[1, 0]])
    assert breakdown(targets * 0.5, targets, None) == {"num_images": 0, "num_images_without_boxes": 1}
