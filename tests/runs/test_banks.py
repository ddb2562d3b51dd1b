import shutil

import numpy as np
import pytest
from PIL import Image

from msl_hf.console.errors import RunError, user_input
from msl_hf.runs.arguments import MaskArguments
from msl_hf.runs.banks import load_masks


def test_evaluation_masks_are_never_training_masks(tmp_path):
    for index in range(6):
        holes = np.zeros((64, 64), np.uint8)
        holes[: 32 + index] = 255
        Image.fromarray(holes).save(tmp_path / f"{index}.png")
    train, test = load_masks(MaskArguments(masks=str(tmp_path)))
    assert not set(train.hole_ratios.tolist()) & set(test.hole_ratios.tolist())
    assert len(train) == len(test) == 3
    generated, same_test = load_masks(MaskArguments(masks="patches", eval_masks=str(tmp_path)))
    assert same_test.hole_ratios.tolist() == test.hole_ratios.tolist()
    # Nothing of a folder is kept from training where its test is none, or comes from elsewhere.
    for more in ({}, {"eval_hole_ratio": [0.54, 0.6]}, {"eval_masks": str(tmp_path)}):
        assert len(load_masks(MaskArguments(masks=str(tmp_path), **more), has_test=False)[0]) == 6
    (tmp_path / "one").mkdir()
    shutil.copy(tmp_path / "1.png", tmp_path / "one" / "1.png")
    single = MaskArguments(masks=str(tmp_path / "one"), eval_masks="generated")
    assert len(load_masks(single)[0]) == 1 and load_masks(single, has_test=False)[0].hole_ratios.numel() == 1
    shutil.rmtree(tmp_path / "one")
    whole, other_test = load_masks(MaskArguments(masks=str(tmp_path), eval_masks="generated"))
    assert len(whole) == 6 and len(other_test) == 1000
    shutil.copytree(tmp_path, copies := tmp_path.parent / f"{tmp_path.name}-copies")
    train, test = load_masks(MaskArguments(masks=str(tmp_path), eval_masks=str(copies)))
    assert len(train) == len(test) == 3 and not set(train.hole_ratios.tolist()) & set(test.hole_ratios.tolist())
    easy, hard = load_masks(MaskArguments(masks=str(tmp_path), hole_ratio=[0.5, 0.6], eval_hole_ratio=[0.54, 0.6]))
    assert not set(easy.hole_ratios.tolist()) & set(hard.hole_ratios.tolist()) and hard.hole_ratios.min() >= 0.54
    with pytest.raises(RunError, match="no such folder of masks"), user_input():
        load_masks(MaskArguments(masks=str(tmp_path / "missing")))
