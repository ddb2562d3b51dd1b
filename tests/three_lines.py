"""The three lines of README with the installed package, in an empty folder: `make release-check` runs it."""

import importlib.metadata
import os
import tempfile
from pathlib import Path

import msl_hf

CHECKOUT = Path(__file__).resolve().parents[1]
assert CHECKOUT not in Path(msl_hf.__file__).resolve().parents or ".venv" in msl_hf.__file__, msl_hf.__file__
assert msl_hf.__version__ == importlib.metadata.version("msl_hf")

with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    # In place of photographs and of pretrained weights, which would have to be downloaded.
    from transformers import AutoImageProcessor, ResNetConfig, ResNetModel, pipeline

    from msl_hf import MSLTrainingArguments
    from msl_hf.data import build_processor, make_scenes

    make_scenes("photos", num_train=60, num_val=20, num_test=20)
    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1])
    ResNetModel(config).save_pretrained("backbone")
    build_processor(None, 96).save_pretrained("backbone")
    short = MSLTrainingArguments("out", use_cpu=True, max_steps=3, disable_tqdm=True)

    from msl_hf import MSLTrainer
    from msl_hf.data import load_images

    data = load_images("photos")
    trainer = MSLTrainer("backbone", short, train_dataset=data["train"], eval_dataset=data["val"])
    trainer.train()
    trainer.save_model()

    AutoImageProcessor.from_pretrained("out")
    classify = pipeline("multi-label-image-classification", model="out", trust_remote_code=True)
    print(classify(data["test"][0]["image"], threshold=0.0, top_k=2))
    print(f"msl_hf {msl_hf.__version__}: trained, saved, loaded")
