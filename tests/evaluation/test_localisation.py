"""Whether score maps lie on objects."""

import numpy as np
import pytest
import torch

from msl_hf.data import ImageDataset, build_processor, load_voc
from msl_hf.data.schema import column, make_targets
from msl_hf.evaluation.localisation import find_hits, intersection_over_union, is_correct, localisation, points_at
from msl_hf.model.boxes_msl import boxes_of
from msl_hf.model.views_msl import Views, resized_by


def test_the_greatest_value_has_to_lie_in_a_box():
    score_map = torch.zeros(4, 8)
    score_map[1, 6] = 1.0  # its centre is at (130, 30) of 160 x 80 pixels
    assert points_at(score_map, [[120, 20, 20, 20]], 160, 80)
    assert points_at(score_map, [[0, 0, 5, 5], [130, 30, 1, 1]], 160, 80)
    assert not points_at(score_map, [[0, 0, 129, 80], [131, 0, 20, 80]], 160, 80)


def test_intersection_over_union_by_hand():
    found = {"xmin": 10, "ymin": 10, "xmax": 30, "ymax": 20}  # 200 pixels
    assert intersection_over_union(found, [20, 10, 20, 10]) == pytest.approx(100 / 300)
    assert intersection_over_union(found, [10, 10, 20, 10]) == 1
    assert intersection_over_union(found, [30, 10, 5, 5]) == 0 == intersection_over_union(found, [0, 0, 5, 5])


def test_the_first_box_has_to_fit_an_object():
    score_map = torch.zeros(14, 14)
    score_map[4:8, 4:10] = 1.0
    assert is_correct(score_map, [[0, 0, 3, 3], [40, 40, 60, 40]], 140, 140)
    assert not is_correct(score_map, [[40, 40, 25, 40]], 140, 140)


def test_shares_by_the_size_of_the_largest_object():
    objects = [
        {"label": [0, 0, 1], "bbox": [[0, 0, 10, 10]] * 3, "area": [100.0, 5000.0, 100.0], "truncated": [None] * 3,
         "difficult": [None] * 3, "crowd": [None] * 3, "visible": [None] * 3},
        {"label": [1], "bbox": [[0, 0, 10, 10]], "area": [20000.0], "truncated": [None], "difficult": [None],
         "crowd": [None], "visible": [None]},
    ]  # fmt: skip
    hits = {(0, 0): (True, False), (0, 1): (True, True), (1, 1): (False, False)}
    found = localisation(hits, objects, 2)
    assert found["all"] == {"pointing": pytest.approx(2 / 3), "CorLoc": pytest.approx(1 / 3), "pairs": 3}
    assert found["medium"] == {"pointing": 1.0, "CorLoc": 0.0, "pairs": 1}
    assert found["small"] == {"pointing": 1.0, "CorLoc": 1.0, "pairs": 1}
    assert found["large"] == {"pointing": 0.0, "CorLoc": 0.0, "pairs": 1}
    assert localisation({}, objects, 2)["all"] == {"pointing": None, "CorLoc": None, "pairs": 0}


@pytest.mark.parametrize("views", ["whole", "whole@64+2x2@32"])
def test_hits_are_those_of_each_image_alone(views, scenes, tiny_model):
    dataset = load_voc(scenes)["test"]
    objects, targets = column(dataset, "objects"), make_targets(list(dataset), 10, ignored_as="ignore").numpy()
    names = dataset.features["labels"].feature.names
    model = tiny_model("timm_vit", label_names=["other", *names]).eval()
    processor = build_processor(None, 32)
    images = ImageDataset(dataset, processor)
    hits = find_hits(model, images, Views.parse(views), objects, targets, range(1, 11), range(len(dataset)))
    pairs = {(row, label) for row, item in enumerate(objects) for label in item["label"] if targets[row, label] == 1}
    assert set(hits) <= pairs and len(hits) > 10
    for row, label in list(hits)[:12]:
        image = dataset[row]["image"].convert("RGB")
        crops = Views.parse(views).crops(image, resized_by(processor))
        with torch.no_grad():
            score_map = Views.parse(views).score_maps(model, [crop[None] for crop in crops])[0, label + 1]
        boxes = [box for box, own in zip(objects[row]["bbox"], objects[row]["label"], strict=True) if own == label]
        y, x = np.unravel_index(score_map.argmax().item(), score_map.shape)
        point = (x + 0.5) * image.width / score_map.shape[1], (y + 0.5) * image.height / score_map.shape[0]
        inside = any(a <= point[0] <= a + w and b <= point[1] <= b + h for a, b, w, h in boxes)
        first = boxes_of(score_map, *image.size)[0]
        fits = any(intersection_over_union(first, box) >= 0.5 for box in boxes)
        assert hits[row, label] == (inside, fits)
    half = find_hits(model, images, Views.parse(views), objects, targets, range(1, 11), range(0, len(dataset), 2))
    assert half == {pair: hit for pair, hit in hits.items() if pair[0] % 2 == 0}
