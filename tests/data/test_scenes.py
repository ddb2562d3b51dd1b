import numpy as np
import pytest

from msl_hf.data import load_voc, make_scenes
from msl_hf.data.scenes import CLASS_NAMES, DROPPED_BELOW, _draw_scene
from msl_hf.data.schema import DataError


def test_tree_is_deterministic_and_loads(tmp_path, scenes):
    again = make_scenes(tmp_path / "VOCdevkit", num_train=24, num_val=10, num_test=11, image_size=32)
    files = sorted(path.relative_to(scenes) for path in scenes.rglob("*") if path.is_file())
    assert all((scenes / file).read_bytes() == (again / file).read_bytes() for file in files)
    data = load_voc(scenes)
    assert {split: len(d) for split, d in data.items()} == {"trainval": 34, "train": 24, "val": 10, "test": 11}
    assert tuple(data["train"].features["labels"].feature.names) == CLASS_NAMES
    assert data["train"][0]["image"].size == (32, 32)


def test_existing_trees_are_kept_and_other_files_never_touched(tmp_path, scenes):
    file = scenes / "VOC2007/JPEGImages/000000.jpg"
    before = file.stat().st_mtime_ns
    make_scenes(scenes, num_train=24, num_val=10, num_test=11, image_size=32)
    assert file.stat().st_mtime_ns == before
    with pytest.raises(DataError, match="already holds other files"):
        make_scenes(scenes, num_train=5, num_val=1, num_test=1)


def test_labels_agree_with_the_objects(scenes):
    for row in load_voc(scenes)["trainval"]:
        pairs = zip(row["objects"]["label"], row["objects"]["difficult"], strict=True)
        clear = {label for label, hard in pairs if not hard}
        assert set(row["labels"]) == clear
        assert set(row["ignored"]) == set(row["objects"]["label"]) - clear


def test_only_what_is_in_front_or_beyond_the_border_hides():
    """Objects are listed from back to front: one that nothing later reaches is wholly visible, and so is the last."""
    free = hidden = 0
    for seed in range(150):
        _, objects = _draw_scene(np.random.default_rng(seed), 64)
        for index, item in enumerate(objects):
            xmin, ymin, xmax, ymax = item["box"]
            assert 1 <= xmin <= xmax <= 64 and 1 <= ymin <= ymax <= 64
            assert DROPPED_BELOW <= item["visible"] <= 1
            if item["truncated"]:
                assert item["visible"] < 1 and (xmin == 1 or ymin == 1 or xmax == 64 or ymax == 64)
            elif index == len(objects) - 1:
                assert item["visible"] == 1
            hidden += item["visible"] < 1 and not item["truncated"]
            free += item["visible"] == 1
    assert free > 100 and hidden > 30


def test_visible_fraction_is_the_share_of_pixels(monkeypatch):
    """A square 20 pixels wide, the half of which a later one covers: one half is visible, to a row of pixels."""
    places = iter([(-10, 0), (0, 0)])

    def square(draw, label, centre, radius, angle):
        x, y = next(places)
        draw.rectangle((64 + x, 64 + y, 64 + x + 19, 64 + y + 19), fill=1)

    monkeypatch.setattr("msl_hf.data.scenes._draw_shape", square)
    monkeypatch.setattr("msl_hf.data.scenes._choose_labels", lambda rng: [0, 1])
    _, (back, front) = _draw_scene(np.random.default_rng(0), 64)
    assert (back["visible"], front["visible"]) == (0.5, 1.0)
    assert back["box"] == (23, 33, 42, 52) and front["box"] == (33, 33, 52, 52)


def test_scenes_have_what_they_are_for():
    scenes = [_draw_scene(np.random.default_rng(seed), 96)[1] for seed in range(300)]
    objects = [item for scene in scenes for item in scene]
    visible = np.array([item["visible"] for item in objects])
    widths = np.array([item["box"][2] - item["box"][0] + 1 for item in objects])
    assert 0.05 < (visible < 0.5).mean() < 0.5  # hidden by more than half
    assert (widths < 16).mean() > 0.1 and (widths > 40).mean() > 0.05  # small and large
    together = np.zeros((10, 10))
    for scene in scenes:
        present = {item["label"] for item in scene}
        for a in present:
            for b in present - {a}:
                together[a, b] += 1
    assert together[0, 1] > 2 * together[0, 2:].mean()  # neighbours co-occur
    assert np.bincount([item["label"] for item in objects], minlength=10).min() > 20
