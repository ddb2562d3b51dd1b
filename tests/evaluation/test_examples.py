import numpy as np
import pytest
import torch

from msl_hf.evaluation.examples import masked_objects, most_hidden_objects, smallest_objects


def row(*items):
    """Items (label, bbox[, visible[, crowd]]) -> objects."""
    items = [(*item, None, False)[:4] if len(item) == 2 else (*item, False)[:4] for item in items]
    columns = {name: [item[i] for item in items] for i, name in enumerate(("label", "bbox", "visible", "crowd"))}
    areas = [bbox[2] * bbox[3] for bbox in columns["bbox"]]
    return {**columns, "area": areas, "truncated": [None] * len(items), "difficult": [None] * len(items)}


def targets_of(rows, num_labels=3):
    targets = np.zeros((len(rows), num_labels))
    for target, item in zip(targets, rows, strict=True):
        target[item["label"]] = 1
    return targets


def test_smallest_goes_by_the_largest_instance_and_leaves_crowds_out():
    rows = [
        row((0, [0, 0, 3, 3]), (0, [0, 0, 50, 50])),  # has a large instance, too
        row((0, [0, 0, 5, 5]), (1, [0, 0, 9, 9])),
        row((0, [0, 0, 1, 1], None, True), (2, [0, 0, 20, 20])),
    ]
    chosen = smallest_objects(rows, targets_of(rows), 3)
    assert [(e.index, e.label, e.value) for e in chosen] == [(1, 0, 25), (2, 2, 400), (0, 0, 2500)]


def test_each_image_and_class_once_as_long_as_there_are_others():
    rows = [row((0, [0, 0, side, side])) for side in (4, 5, 6)] + [row((1, [0, 0, 9, 9]))]
    assert [e.index for e in smallest_objects(rows, targets_of(rows), 2)] == [0, 3]
    assert [e.index for e in smallest_objects(rows, targets_of(rows), 3)] == [0, 3, 1]


def test_ignored_classes_are_not_chosen():
    rows = [row((0, [0, 0, 4, 4]))]
    assert smallest_objects(rows, np.full((1, 3), -100.0), 3) == []


def test_most_hidden_goes_by_visible_fraction_else_by_overlap():
    rows = [
        row((0, [0, 0, 10, 10], 0.3), (0, [50, 50, 10, 10], 0.9)),
        row((1, [0, 0, 10, 10], 0.25)),
        row((2, [0, 0, 10, 10]), (0, [5, 0, 10, 10], 1.0)),
    ]
    chosen = most_hidden_objects(rows, targets_of(rows), 3)
    assert [(e.index, e.label) for e in chosen] == [(1, 1), (2, 2), (0, 0)]
    assert [e.value for e in chosen] == pytest.approx([0.75, 0.5, 0.1])


def test_masks_lie_over_the_image_whatever_its_size():
    keep = torch.ones(8, 8, dtype=torch.bool)
    keep[:, 4:] = False  # the right half is removed
    # In an image of 200 x 100 pixels the halves meet at x = 100.
    rows = [row((0, [0, 0, 100, 50]), (1, [100, 0, 100, 100])), row((1, [150, 10, 40, 40])), row((2, [60, 0, 90, 90]))]
    sizes, keeps = [(200, 100)] * 3, [keep] * 3
    hidden = masked_objects(rows, targets_of(rows), keeps, sizes, 5, nearly_all=True)
    assert [(e.index, e.label, e.value) for e in hidden] == [(0, 1, 1.0), (1, 1, 1.0)]
    spared = masked_objects(rows, targets_of(rows), keeps, sizes, 5, nearly_all=False)
    assert [(e.index, e.label, e.value) for e in spared] == [(0, 0, 0.0)]


def test_an_object_with_a_visible_twin_is_not_masked():
    keep = torch.ones(8, 8, dtype=torch.bool)
    keep[:, 4:] = False
    rows = [row((0, [50, 0, 40, 40]), (0, [0, 0, 40, 40]))]
    assert masked_objects(rows, targets_of(rows), [keep], [(100, 100)], 5, nearly_all=True) == []
