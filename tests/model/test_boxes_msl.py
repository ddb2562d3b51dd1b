"""Boxes from score maps."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessor, pipeline

from msl_hf.model import boxes_msl
from msl_hf.model.boxes_msl import boxes_of


def corners(box) -> tuple[int, int, int, int]:
    return box["xmin"], box["ymin"], box["xmax"], box["ymax"]


def test_two_parts_of_a_map_are_two_boxes_the_higher_first():
    score_map = torch.zeros(14, 28)
    score_map[2:6, 2:8] = 1.0
    score_map[8:12, 20:26] = 3.0
    score_map[10, 23] = 4.0
    found = [corners(box) for box in boxes_of(score_map, 560, 280, threshold=0.2)]
    # A cell is 20 pixels; the edge lies where the map, drawn through the centres of cells, passes the threshold.
    assert len(found) == 2
    for box, expected in zip(found, [(400, 160, 520, 240), (40, 40, 160, 120)], strict=True):
        assert np.abs(np.subtract(box, expected)).max() <= 12, box
    (highest,) = boxes_of(score_map, 560, 280)  # half of the range, 2, leaves the other one out
    assert np.abs(np.subtract(corners(highest), (400, 160, 520, 240))).max() <= 12


def test_boxes_lie_within_the_image_whatever_its_shape():
    for width, height in ((1, 1), (3000, 2), (5, 700), (640, 427)):
        for seed in range(5):
            score_map = torch.randn(7, 5, generator=torch.Generator().manual_seed(seed))
            boxes = boxes_of(score_map, width, height)
            assert boxes
            for left, top, right, bottom in map(corners, boxes):
                assert 0 <= left < right <= width + 1 and 0 <= top < bottom <= height + 1
    assert [corners(box) for box in boxes_of(torch.ones(4, 4), 60, 40)] == [(0, 0, 60, 40)]


def test_the_pipeline_gives_them_in_pixels_of_the_image(tiny_model, tmp_path):
    model = tiny_model("timm_vit").eval()
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    images = [Image.fromarray(np.random.default_rng(seed).integers(0, 256, (300, 40 + seed, 3), dtype=np.uint8))
              for seed in range(3)]  # fmt: skip
    classify = pipeline("multi-label-image-classification", model=str(tmp_path), threshold=0, boxes=True)
    with torch.no_grad():
        maps = model.score_maps(processor(images, return_tensors="pt")["pixel_values"])
    for options in ({}, {"batch_size": 3}):
        for image, found, image_maps in zip(images, classify(images, **options), maps, strict=True):
            for entry in found:
                assert set(entry) == {"label", "score", "boxes"}
                assert entry["boxes"] == boxes_of(image_maps[model.config.label2id[entry["label"]]], *image.size)
    array = np.asarray(images[1])
    assert classify(array) == classify(images[1])
    tiles = classify(images[0], views="whole@64+1x2", score_maps=True)
    assert tiles[0]["boxes"] == boxes_of(torch.from_numpy(tiles[0]["score_map"]), *images[0].size)


def test_without_scipy_it_is_said(monkeypatch):
    monkeypatch.setattr(boxes_msl, "ndimage", None)
    with pytest.raises(ImportError, match="boxes need SciPy: pip install scipy"):
        boxes_of(torch.zeros(2, 2), 4, 4)
