"""Exported files compute what the model computes, and need nothing of ours to do so."""

import json
import re
import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessor, pipeline

from msl_hf.data import build_processor
from msl_hf.hub import export
from msl_hf.hub.export import ExportError, export_torch

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture
def processor():
    return build_processor(None, 64, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "any_size"), [("timm_resnet", True), ("timm_vit", False), ("hf_vit", False)])
def test_onnx_equals_the_model(name, any_size, tiny_model, processor, tmp_path):
    model = tiny_model(name, num_heads=2, image_size=64).eval()
    assert export.takes_any_size(model) == any_size
    assert export.export_onnx(model, processor, tmp_path, any_size) <= 1e-4
    network = export.onnx_network(tmp_path / "model.onnx", threads=1)
    for shape in [(1, 3, 64, 64), (5, 3, 64, 64)] + ([(2, 3, 96, 128)] if any_size else []):
        images = torch.randn(shape)
        with torch.no_grad():
            np.testing.assert_allclose(network(images.numpy()), model(images).logits, atol=1e-4)


def test_runner_in_a_process_without_torch(tiny_model, processor, tmp_path):
    """The copied script alone finds the labels that the pipeline finds; it imports neither torch nor transformers."""
    model = tiny_model("timm_resnet", image_size=64).eval()
    model.config.thresholds = [0.3, 0.999, 0.3]
    export.export_onnx(model, processor, tmp_path / "onnx", any_size=True)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    code = (
        "import runpy, sys, json; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'msl_hf')));"
        "runner = runpy.run_path(sys.argv[1] + '/run_onnx.py'); from PIL import Image;"
        "print(json.dumps(runner['Classifier'](sys.argv[1] + '/model.onnx')([Image.open(sys.argv[2])])[0]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "onnx"), str(tmp_path / "photo.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    expected = pipeline("multi-label-image-classification", model=str(tmp_path / "model"))(tmp_path / "photo.png")
    assert len(expected) < 3
    found = json.loads(done.stdout)
    assert list(found) == [entry["label"] for entry in expected] and len(found) >= 1
    assert list(found.values()) == pytest.approx([entry["score"] for entry in expected], abs=5e-3)
    command = [sys.executable, str(tmp_path / "onnx" / "run_onnx.py"), str(tmp_path / "photo.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert f"{next(iter(found))} {next(iter(found.values())):.2f}" in done.stdout


@pytest.mark.slow
def test_the_runner_looks_at_images_as_the_model_does(tiny_model, processor, tmp_path):
    """Of two images of different sizes, by what model.json says and by what it is told."""
    model = tiny_model("timm_resnet", image_size=64, head="linear").eval()
    torch.manual_seed(0)
    model.head.weight.data.normal_(std=1e6)  # features of this tiny network are as small
    model.config.views = "whole@96+mirror"
    export.export_onnx(model, processor, tmp_path, any_size=True)
    runner = runpy.run_path(str(tmp_path / "run_onnx.py"))
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)).resize(size)
              for size in ((100, 70), (130, 70))]  # fmt: skip
    plain = model.view_logits(images, processor, "whole")
    for told in (None, "whole", "2x3@64", "1x2@96+whole"):
        expected = model.view_logits(images, processor, told)
        found = runner["Classifier"](tmp_path / "model.onnx", told).logits(images)
        np.testing.assert_allclose(found, expected, atol=0.05)
        assert told == "whole" or (expected - plain).abs().max() > 0.1
    with pytest.raises(ValueError, match="4 x 9 tiles are more than an image of 5 x 5 pixels has"):
        runner["boxes"](5, 5, 4, 9)


def test_views_of_a_network_of_one_size(tiny_model, processor, tmp_path):
    model = tiny_model("timm_vit", image_size=64).eval()
    model.config.views = "whole@96+2x2"
    with pytest.raises(ExportError, match="64 x 64 pixels alone, not whole@96. Have it look at whole images first"):
        export.export_onnx(model, processor, tmp_path, any_size=False)
    model.config.views = "mirror+2x2@64"
    export.export_onnx(model, processor, tmp_path, any_size=False)
    runner = runpy.run_path(str(tmp_path / "run_onnx.py"))["Classifier"]
    image = Image.effect_noise((100, 80), 80).convert("RGB")
    found = runner(tmp_path / "model.onnx").logits([image])
    np.testing.assert_allclose(found, model.view_logits([image], processor), atol=0.05)
    with pytest.raises(ValueError, match="'whole@96': the network takes images of 64 x 64 pixels alone"):
        runner(tmp_path / "model.onnx", "whole@96")
    with pytest.raises(ValueError, match="'2by2' is none of whole"):
        runner(tmp_path / "model.onnx", "2by2")


@pytest.mark.slow
def test_torch_program(tiny_model, processor, tmp_path):
    model = tiny_model("timm_resnet", image_size=64).eval()
    assert export.export_torch(model, processor, tmp_path, any_size=True) <= 1e-4
    images = torch.randn(3, 3, 96, 128)
    with torch.no_grad():
        expected = model(images).logits
    torch.testing.assert_close(torch.export.load(tmp_path / "model.pt2").module()(images), expected)


@pytest.mark.slow
def test_int8_is_smaller_and_close(tiny_model, processor, tmp_path):
    model = tiny_model("timm_resnet", image_size=64).eval()
    export.export_onnx(model, processor, tmp_path, any_size=False)
    images = torch.randn(16, 3, 64, 64).numpy()
    file = export.quantize_onnx(tmp_path, [images[:8], images[8:]])
    assert b"QuantizeLinear" in file.read_bytes()
    full, short = (export.onnx_network(tmp_path / name)(images) for name in ("model.onnx", "model_int8.onnx"))
    assert 0 < np.abs(full - short).max() < 0.3 * np.abs(full).max() + 0.1


def test_what_differs_is_not_called_done(tiny_model, processor):
    model = tiny_model("timm_vit", image_size=64).eval()
    with pytest.raises(export.ExportError, match="x.onnx: its logits differ from the model's by"):
        export._check(model, lambda images: np.ones((len(images), 3), np.float32), False, "x.onnx")


def test_networks_with_the_padding_of_tensorflow_keep_their_size():
    from msl_hf import MSLForImageClassification

    model = MSLForImageClassification.from_backbone("tf_efficientnet_lite0", ["a"], image_size=64, pretrained=False)
    assert not export.takes_any_size(model)


def test_description(tiny_model, processor):
    described = export.describe(tiny_model(), processor)
    assert described["labels"] == ["cat", "dog", "fish"] and described["thresholds"] == [0.5] * 3
    assert (described["height"], described["resample"], described["mean"]) == (64, "bicubic", [0.5, 0.4, 0.3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": {"shortest_edge": 64}}, "resizes to {'shortest_edge': 64}, so that images keep different sizes"),
        ({"do_resize": False}, "does not resize"),
        ({"do_normalize": False}, "does not normalize"),
        ({"rescale_factor": 1 / 127.5}, "divides by another number"),
    ],
)
def test_preprocessing_that_the_description_cannot_say_is_refused(change, message, tiny_model, tmp_path):
    settings = {"size": {"height": 64, "width": 64}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, **change}
    with pytest.raises(ExportError, match=re.escape(message)):
        export_torch(tiny_model(), ViTImageProcessor(**settings), tmp_path / "out", False)
    assert not (tmp_path / "out").exists()
