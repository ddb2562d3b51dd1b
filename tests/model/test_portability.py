"""A saved folder loads in a process that cannot import msl_hf, and through the pipelines of transformers."""

import os
import subprocess
import sys

import pytest
import torch
from PIL import Image
from transformers import AutoModel, pipeline

from msl_hf.data import build_processor

STRANGER = """
import sys

class NoMSL:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "msl_hf":
            raise ImportError("msl_hf is not installed here")

sys.meta_path.insert(0, NoMSL())
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

folder, images, expected = sys.argv[1], *torch.load(sys.argv[2], weights_only=True)
for auto in (AutoModel, AutoModelForImageClassification):
    model = auto.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        assert torch.equal(model(images).logits, expected), auto
    assert type(model).__name__ == "MSLForImageClassification" and model.config.problem_type
    assert model.score_maps(images).shape[:2] == expected.shape
assert AutoImageProcessor.from_pretrained(folder).size["height"] == 32
image = Image.effect_noise((40, 30), 80).convert("RGB")
found = pipeline("image-classification", model=folder, trust_remote_code=True)(image, top_k=3)
assert {entry["label"] for entry in found} == {"cat", "dog", "fish"} and sum(e["score"] for e in found) != 1
task = "multi-label-image-classification"
classify = pipeline(task, model=folder, trust_remote_code=True, threshold=0.0)
assert {entry["label"] for entry in classify(image)} == {"cat", "dog", "fish"}
classify.save_pretrained(folder + "-piped")
assert len(pipeline(task, model=folder + "-piped", trust_remote_code=True, threshold=0.0)(image)) == 3
assert not any(name.split(".")[0] == "msl_hf" for name in sys.modules)
model.save_pretrained(folder + "-again")  # and a stranger can pass it on
again = AutoModelForImageClassification.from_pretrained(folder + "-again", trust_remote_code=True).eval()
with torch.no_grad():
    assert torch.equal(again(images).logits, expected)
print("loaded without msl_hf")
"""


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("timm_vit", "timm_swin", "timm_dinov3")]


@pytest.mark.parametrize("name", ["timm_resnet", pytest.param("hf_vit", marks=pytest.mark.slow), *SLOW])
def test_loads_where_msl_hf_cannot_be_imported(name, tiny_model, tmp_path):
    model = tiny_model(name, num_heads=2).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(images).logits
    model.save_pretrained(tmp_path / "model")
    build_processor(None, 32).save_pretrained(tmp_path / "model")
    torch.save((images, expected), tmp_path / "expected.pt")
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(tmp_path / "model"), str(tmp_path / "expected.pt")],
        capture_output=True, text=True, cwd=tmp_path, timeout=120,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "loaded without msl_hf" in done.stdout


def test_saved_files(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"config.json", "model.safetensors", "configuration_msl.py", "heads_msl.py", "modeling_msl.py",
                     "pipeline_msl.py", "views_msl.py", "boxes_msl.py"}  # fmt: skip


def test_no_prompt_with_the_package(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path)).__module__ == "msl_hf.model.modeling_msl"


def test_pipeline_applies_the_sigmoid(tiny_model, tmp_path):
    model = tiny_model().eval()
    processor = build_processor(None, 32)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    image = Image.effect_noise((40, 60), 80).convert("RGB")
    classify = pipeline("image-classification", model=str(tmp_path))
    result = {entry["label"]: entry["score"] for entry in classify(image, top_k=3)}
    with torch.no_grad():
        scores = model(processor(image, return_tensors="pt")["pixel_values"]).logits.sigmoid()[0]
    assert result == pytest.approx(dict(zip(["cat", "dog", "fish"], scores.tolist(), strict=True)), abs=1e-5)
