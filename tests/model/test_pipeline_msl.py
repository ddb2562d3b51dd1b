import functools
import http.server
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from msl_hf.data import build_processor

TASK = "multi-label-image-classification"


@pytest.fixture
def folder(tiny_model, tmp_path):
    """A saved model of three classes, an image file, and the scores of the image."""
    model = tiny_model("timm_vit").eval()
    processor = build_processor(None, 32)
    image = Image.effect_noise((40, 30), 80).convert("RGB")
    image.save(tmp_path / "photo.png")
    with torch.no_grad():
        scores = model(**processor(image, return_tensors="pt")).logits.sigmoid()[0]
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path, image, dict(zip(model.config.id2label.values(), scores.tolist(), strict=True))


def classifier(folder, **options):
    return pipeline(TASK, model=str(folder[0] / "model"), **options)


def test_labels_above_the_threshold_highest_first(folder):
    path, image, scores = folder
    ranked = sorted(scores.items(), key=lambda item: -item[1])
    classify = classifier(folder)
    assert [(found["label"], pytest.approx(found["score"])) for found in classify(image, threshold=0)] == ranked
    between = (ranked[0][1] + ranked[1][1]) / 2
    assert [found["label"] for found in classify(image, threshold=between)] == [ranked[0][0]]
    assert classify(image, threshold=1.0) == []
    assert [found["label"] for found in classify(image, threshold=0, top_k=2)] == [name for name, _ in ranked[:2]]
    assert [found["label"] for found in classifier(folder, threshold=0, top_k=1)(image)] == [ranked[0][0]]
    assert [found["label"] for found in classify(image)] == [name for name, score in ranked if score >= 0.5]


def test_thresholds_of_the_model(folder):
    path, image, scores = folder
    classify = classifier(folder)
    names = list(scores)
    thresholds = [0.999] * len(names)
    thresholds[2] = 0.001
    classify.model.config.thresholds = thresholds
    assert [found["label"] for found in classify(image)] == [names[2]]
    assert len(classify(image, threshold=0)) == len(names)


def test_every_kind_of_input_gives_the_same(folder):
    path, image, scores = folder
    classify = classifier(folder, threshold=0)
    expected = classify(image)
    array = np.asarray(image)
    for given in (str(path / "photo.png"), path / "photo.png", array, array.transpose(2, 0, 1), torch.tensor(array)):
        found = classify(given)
        assert [entry["label"] for entry in found] == [entry["label"] for entry in expected]
        assert [entry["score"] for entry in found] == pytest.approx([entry["score"] for entry in expected], abs=2e-3)
    gray = classify(np.asarray(image.convert("L")))
    same = classify(image.convert("L"))
    assert [entry["score"] for entry in gray] == pytest.approx([entry["score"] for entry in same], abs=2e-3)


def test_url(folder):
    path, image, scores = folder
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = classifier(folder, threshold=0)(f"http://127.0.0.1:{server.server_port}/photo.png", timeout=10)
        server.shutdown()
    assert found == classifier(folder, threshold=0)(image)


def test_batches_and_generators(folder):
    path, image, scores = folder
    classify = classifier(folder, threshold=0)
    images = [image, image.rotate(90), image.resize((50, 70))]
    one_by_one = [classify(each) for each in images]
    assert all(a[0]["label"] == b[0]["label"] for a, b in zip(classify(images, batch_size=2), one_by_one, strict=True))
    streamed = list(classify((each for each in images), batch_size=3))
    scores = [[entry["score"] for entry in found] for found in streamed]
    expected = [[entry["score"] for entry in found] for found in one_by_one]
    assert [row == pytest.approx(other, abs=1e-5) for row, other in zip(scores, expected, strict=True)] == [True] * 3


def test_score_maps(folder):
    path, image, scores = folder
    classify = classifier(folder, threshold=0)
    maps = {found["label"]: found["score_map"] for found in classify([image, image], score_maps=True, batch_size=2)[1]}
    with torch.no_grad():
        expected = classify.model.score_maps(**classify.image_processor(image, return_tensors="pt"))[0]
    for index, label in classify.model.config.id2label.items():
        np.testing.assert_allclose(maps[label], expected[index], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), {}, r"8-bit values.*float32 \(4, 4, 3\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), {}, "8-bit values"),
        (None, {"threshold": 50}, r"threshold is a score in \[0, 1\], got 50"),
        (None, {"top_k": 0}, "top_k must be at least 1"),
    ],
)
def test_wrong_input(given, options, message, folder):
    with pytest.raises(ValueError, match=message):
        classifier(folder)(folder[1] if given is None else given, **options)


def test_saved_again(folder):
    path, image, scores = folder
    classify = classifier(folder, threshold=0)
    classify.save_pretrained(path / "again")
    assert {"pipeline_msl.py", "modeling_msl.py", "config.json"} <= {file.name for file in (path / "again").iterdir()}
    assert pipeline(TASK, model=str(path / "again"), threshold=0)(image) == classify(image)


def test_scores_that_are_no_numbers_are_an_error(tiny_model):
    model = tiny_model()
    with torch.no_grad():
        model.head.weight[:, 1] = float("nan")
    classify = pipeline(TASK, model=model, image_processor=build_processor(None, 32))
    with pytest.raises(ValueError, match="the scores are not numbers"):
        classify(Image.new("RGB", (40, 30)))
