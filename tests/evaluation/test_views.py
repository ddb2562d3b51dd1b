"""Data sets that are looked at in several ways."""

import numpy as np
import pytest
import torch
from PIL import Image

from msl_hf.data import ImageDataset, build_processor, load_voc
from msl_hf.data.schema import DataError
from msl_hf.data.transforms import normalized
from msl_hf.evaluation.views import PartImages, candidate_views, choose_view, view_scores
from msl_hf.model.views_msl import Views


def test_parts_in_uint8_are_what_the_model_itself_is_shown(scenes, tiny_model):
    images = ImageDataset(load_voc(scenes)["val"], build_processor(None, 32), normalize=False)
    model, processor = tiny_model("timm_vit").eval(), images.processor
    calls = []

    def predict(dataset):
        calls.append(str(dataset.part))
        rows = torch.stack([dataset[index]["pixel_values"] for index in range(len(dataset))])
        assert rows.dtype == torch.uint8
        rows = normalized(rows, processor.image_mean, processor.image_std)
        with torch.no_grad():
            tiles = rows.unbind(1) if rows.dim() == 5 else [rows]
            return torch.stack([model(tile).logits for tile in tiles]).amax(0).numpy()

    views = [Views.parse(text) for text in ("whole", "whole@48+2x2@32", "mirror+2x2@32")]
    found = view_scores(predict, images, views)
    assert sorted(calls) == ["2x2@32", "mirror", "whole", "whole@48"]  # what two views share is computed once
    stored = [row["image"] for row in load_voc(scenes)["val"]]
    for view in views:
        expected = model.view_logits(stored, processor, view).sigmoid().numpy()
        np.testing.assert_allclose(found[str(view)], expected, atol=1e-5)


def test_an_image_that_is_too_small_for_the_tiles_is_named(scenes):
    dataset = load_voc(scenes)["val"]
    small = dataset.map(lambda row: {"image": Image.new("RGB", (3, 9))}, features=dataset.features)
    images = ImageDataset(small, build_processor(None, 32), normalize=False)
    with pytest.raises(DataError, match=r"000\d+: the view 4x4 cuts finer than the image of 3 x 9 pixels"):
        PartImages(images, Views.parse("4x4").parts[0])[0]


def test_the_best_view_is_chosen_and_the_cheapest_of_equals():
    targets = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
    good, bad = targets * 0.6 + 0.2, 0.8 - targets * 0.6
    scores = {"whole": bad, "whole@256": good, "whole@224": good}
    view, rows = choose_view(scores, targets, {"whole": 1.0, "whole@256": 2.56, "whole@224": 1.96})
    assert view == "whole@224" and [row["mAP"] for row in rows][1:] == [1.0, 1.0] and rows[0]["mAP"] < 1


@pytest.mark.parametrize(
    ("backbone", "step"), [("timm_resnet", 32), ("timm_vit", 8), ("hf_vit", 8), ("timm_swin", 32)]
)
def test_candidates_fit_the_network_and_the_limit(backbone, step, tiny_model):
    model, processor = tiny_model(backbone, image_size=64), build_processor(None, 64)
    views = candidate_views(model, processor, 4)
    assert str(views[0]) == "whole" and len(views) > 5 and len(set(map(str, views))) == len(views)
    assert all(view.cost((64, 64)) <= 4 for view in views) and any(len(view.parts) > 1 for view in views)
    assert all(size % step == 0 for view in views for size in view.sizes((64, 64))[0])
    assert [str(view) for view in candidate_views(model, processor, 1)] == ["whole"]
