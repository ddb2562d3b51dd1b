"""A machine that has torch, transformers, timm, accelerate and safetensors, with what these bring, and no more."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from msl_hf.data import build_processor

# What pip brings for the rest of this package, and what else the tests have.
BLOCKED = ("datasets", "evaluate", "sklearn", "scipy", "matplotlib", "pyarrow", "pandas", "multiprocess", "dill",
           "peft", "optuna", "gradio", "onnx", "onnxscript", "onnxruntime", "pytest")  # fmt: skip
BLOCK = f"""
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {BLOCKED} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) if hasattr(finder, "find_spec") else finder for finder in sys.meta_path]
"""
TRAIN = """
import torch
from msl_hf import MSLForImageClassification, MSLTrainer, MSLTrainingArguments
from msl_hf.data import build_processor

class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 16
    def __getitem__(self, index):
        labels = torch.eye(3)[index % 3]
        return {"pixel_values": torch.randn(3, 32, 32) + labels[:, None, None], "labels": labels}

backbone, folder = sys.argv[1:]
model = MSLForImageClassification.from_backbone(backbone, ["cat", "dog", "owl"], image_size=32)
args = MSLTrainingArguments(folder, use_cpu=True, max_steps=3, ema_decay=0.5, eval_strategy="steps", eval_steps=3,
                            report_to="none", disable_tqdm=True)
trainer = MSLTrainer(model, args, processing_class=build_processor(None, 32), train_dataset=Images(),
                     eval_dataset=Images())
trainer.train()
trainer.save_model()
trainer.create_model_card()
print(trainer.predict(Images()).predictions.shape, "datasets" in sys.modules)
"""
PREDICT = """
from transformers import pipeline
import msl_hf
classify = pipeline("multi-label-image-classification", model=sys.argv[1])
print(len(classify(sys.argv[2], threshold=0.0)))
"""
COMMAND = """
from msl_hf.cli import main
main()
"""


def run(code: str, *argv) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", BLOCK + code, *map(str, argv)], capture_output=True, text=True,
                          timeout=240)  # fmt: skip


@pytest.mark.slow
def test_trains_and_predicts(backbone_folder, tmp_path):
    done = run(TRAIN, backbone_folder("timm_resnet"), tmp_path / "out")
    assert done.returncode == 0 and "(16, 3) False" in done.stdout, done.stderr
    assert {"model.safetensors", "README.md", "checkpoint-3"} <= {file.name for file in (tmp_path / "out").iterdir()}
    Image.fromarray(np.zeros((40, 50, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    done = run(PREDICT, tmp_path / "out", tmp_path / "a.png")
    assert done.returncode == 0 and done.stdout.strip() == "3", done.stderr


@pytest.mark.slow
def test_the_command_predicts_and_names_what_training_lacks(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path / "model")
    build_processor(None, 32).save_pretrained(tmp_path / "model")
    Image.fromarray(np.zeros((40, 50, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    flags = ["--model", tmp_path / "model", "--images", tmp_path / "a.png", "--output", tmp_path / "labels.csv",
             "--use_cpu", "true"]  # fmt: skip
    done = run(COMMAND, "predict", *flags)
    assert done.returncode == 0 and "a.png" in (tmp_path / "labels.csv").read_text(), done.stderr
    done = run(COMMAND, "train")
    assert done.returncode == 1
    assert "error: msl-hf train needs datasets, which is not installed: pip install 'datasets'" in done.stderr
