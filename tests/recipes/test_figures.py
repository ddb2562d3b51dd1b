import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from trees import ATTRIBUTES, make_coco, make_wider

from msl_hf import MaskBank
from msl_hf.data import build_processor, load_voc
from msl_hf.data.scenes import CLASS_NAMES
from msl_hf.evaluation.sheets import RIGHT, WRONG, Panel, Row, draw_sheet
from msl_hf.masks import counter_generator

RECIPE = str(Path(__file__).parents[2] / "recipes" / "figures.py")


@pytest.fixture
def run(monkeypatch, tmp_path, tiny_model):
    """Runs the recipe on two tiny models: class names and flags -> metrics.json."""

    def run(label_names, *flags):
        folders = []
        for name in ("plain", "msl"):
            model = tiny_model("timm_vit", label_names=list(label_names))
            torch.nn.init.normal_(model.head.weight)
            folders.append(str(tmp_path / name))
            model.save_pretrained(folders[-1])
            build_processor(None, 32).save_pretrained(folders[-1])
        command = [RECIPE, "--output_dir", str(tmp_path / "out"), "--disable_tqdm", "true", "--cpu_threads", "1",
                   "--num_examples", "2", "--model", *folders, *(str(flag) for flag in flags)]  # fmt: skip
        monkeypatch.setattr(sys, "argv", command)
        runpy.run_path(RECIPE, run_name="__main__")
        return json.loads((tmp_path / "out" / "metrics.json").read_text())

    return run


def test_sheets_of_scenes(run, scenes, tmp_path, monkeypatch):
    bank = MaskBank.generate(8, (0.5, 0.6)).split(0.5)[1]
    monkeypatch.setattr("msl_hf.runs.figures.held_out_masks", lambda *_: bank)
    sheets = run(CLASS_NAMES, "--data_dir", scenes, "--seed", 4)["sheets"]
    data = {row["image_id"]: (index, row) for index, row in enumerate(load_voc(scenes)["test"])}
    assert {"small_objects", "occluded_objects", "visible_objects"} <= set(sheets)
    for name, examples in sheets.items():
        image = Image.open(tmp_path / "out" / f"{name}.png")
        assert image.width > 500 and image.height > 300
        for example in examples:
            _, row = data[example["image_id"]]
            assert CLASS_NAMES.index(example["class"]) in row["labels"]
            assert len(example["plain"]) == len(example["msl"]) == 3
    areas = sorted(
        max(
            area
            for area, label in zip(row["objects"]["area"], row["objects"]["label"], strict=True)
            if label == chosen
        )
        for _, row in data.values()
        for chosen in row["labels"]
    )
    assert sheets["small_objects"][0]["value"] == areas[0]
    # The mask of a chosen image is the one that evaluation lays over it.
    index, row = data[sheets["visible_objects"][0]["image_id"]]
    keep = bank.sample(1, (32, 32), generator=counter_generator(4, index))[0, 0].numpy()
    shares = [1 - keep[int(y) : int(y + h), int(x) : int(x + w)].mean() for x, y, w, h in row["objects"]["bbox"]]
    assert min(abs(share - sheets["visible_objects"][0]["value"]) for share in shares) < 1e-6


def test_coco(run, tmp_path):
    report = run(["person", "dog", "toothbrush"], "--dataset", "coco", "--data_dir", make_coco(tmp_path / "coco"),
                 "--masks", "patches")  # fmt: skip
    assert report["split"] == "validation" and "small_objects" in report["sheets"]


def test_data_without_boxes(run, tmp_path):
    wider = make_wider(tmp_path / "wider")
    with pytest.raises(SystemExit, match="split 'test' has no boxes"):
        run(ATTRIBUTES, "--dataset", "wider", "--data_dir", wider)


def test_right_predictions_are_green_and_wrong_ones_red(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    written = []
    text = Axes.text

    def recorded(self, x, y, s, **kwargs):
        written.append((s, kwargs.get("color")))
        return text(self, x, y, s, **kwargs)

    monkeypatch.setattr(Axes, "text", recorded)
    panel = Panel("m", np.arange(4.0).reshape(2, 2), [], np.array([0.9, 0.1, 0.8, 0.3]))
    row = Row(Image.new("RGB", (30, 20)), [2, 2, 9, 9], 0, {0, 3}, "9 pixels", [panel])
    draw_sheet([row], ["a", "b", "c", "d"], "title", tmp_path / "sheet.png")
    assert [entry for entry in written if entry[1]] == [("a 0.90", RIGHT), ("c 0.80", WRONG), ("d 0.30", RIGHT)]
