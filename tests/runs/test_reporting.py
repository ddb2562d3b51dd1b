import numpy as np
import pytest

from msl_hf.data import build_processor, load_voc
from msl_hf.data.schema import make_targets
from msl_hf.evaluation.mistakes import worst_mistakes
from msl_hf.hub.report import ClassRow
from msl_hf.runs import reporting


def test_rates_of_a_class_by_hand():
    scores, targets = np.array([[0.9], [0.6], [0.4], [0.1]]), np.array([[1], [0], [1], [1]])
    (row,) = reporting._class_rows(["cat"], scores, targets, np.array([0.35]))
    assert (row.name, row.positives, row.ap) == ("cat", 3, pytest.approx((1 + 2 / 3 + 3 / 4) / 3))
    assert row.rates[0] == pytest.approx((0.35, 2 / 3, 2 / 3)) and row.rates[1] == pytest.approx((0.5, 1 / 2, 1 / 3))
    threshold, precision, recall = row.rates[2]  # nine of ten of three are all
    assert 0 < threshold <= 0.1 and (precision, recall) == (pytest.approx(3 / 4), 1)


def test_wrong_images_are_those_of_the_split(scenes, tiny_model, tmp_path, monkeypatch):
    """Each with its file, its labels, what the model returns, and a map as large as the image."""
    data = load_voc(scenes)["test"]
    names, written = data.features["labels"].feature.names, {}
    model = tiny_model("timm_vit", label_names=names)
    model.config.thresholds = [0.3] * len(names)
    scores = np.random.default_rng(0).random((len(data), len(names)))
    keys = ("file", "report", "settings", "split", "classes", "missed", "seen")
    monkeypatch.setattr(reporting, "write_report", lambda *given: written.update(zip(keys, given, strict=True)))
    report = {"test_split": "test", "selection_split": None}
    reporting.report_run(model, build_processor(None, 32), report, {}, data, scores, tmp_path / "report.html")
    assert written["split"] == "test"
    targets = make_targets(list(data), len(names), ignored_as="ignore").numpy()
    missed, seen = worst_mistakes(scores, targets, reporting.NUM_WRONG)
    for mistakes, images in ((missed, written["missed"]), (seen, written["seen"])):
        assert [image.score for image in images] == [mistake.score for mistake in mistakes]
        for mistake, image in zip(mistakes, images, strict=True):
            row = data[mistake.index]
            assert image.label == names[mistake.label] and image.image.size == row["image"].size == image.heat.size
            assert image.name == f"{row['image_id'].split('/')[-1]}.jpg"
            assert image.truth == [names[label] for label in sorted(row["labels"])]
            assert set(image.predicted) == {names[i] for i in np.flatnonzero(scores[mistake.index] >= 0.3)}
    assert [row.name for row in written["classes"]] == names and isinstance(written["classes"][0], ClassRow)
