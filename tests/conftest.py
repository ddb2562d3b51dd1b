"""Shared by all tests: no network, tiny backbones, tiny data."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import of a Hugging Face library

from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModel

from msl_hf import MSLForImageClassification
from msl_hf.data import make_scenes

LABELS = ["cat", "dog", "fish"]
REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def quiet_and_repeatable():
    transformers.logging.disable_progress_bar()
    transformers.set_seed(0)
    torch.set_num_threads(1)  # tests run in parallel processes


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real photographs, masks and weights, where the machine has them."""
    path = Path(os.environ.get("MSL_SHARED", REPOSITORY.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"no real data at {path} (set MSL_SHARED)")
    return path


NATIVE = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "vit": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
            "image_size": 32, "patch_size": 8},
    "dinov2": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8},
    "dinov2_with_registers": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
                              "patch_size": 8},
    "swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "image_size": 32,
             "patch_size": 4, "drop_path_rate": 0.0},
}  # fmt: skip
_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
TIMM = {
    "resnet": ("resnet18", {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}),
    "convnext": ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}),
    "vit": ("vit_tiny_patch16_224", _VIT),
    "vit_registers": ("vit_small_patch14_reg4_dinov2", _VIT),
    "dinov3": ("vit_small_patch16_dinov3", {**_VIT, "embed_dim": 32}),
    "swin": ("swin_tiny_patch4_window7_224", {"img_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1],
                                              "num_heads": [2, 2], "window_size": 4, "drop_path_rate": 0.0}),
    "mobilenet": ("mobilenetv3_small_100", {}),
}  # fmt: skip
BACKBONES = [f"timm_{name}" for name in TIMM] + [f"hf_{name}" for name in NATIVE]


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory):
    """Name out of BACKBONES -> folder of a tiny pretrained (random) backbone of 32 pixels."""

    def make(name: str) -> Path:
        folder = tmp_path_factory.getbasetemp() / f"backbone-{name}"
        if not folder.exists():
            torch.manual_seed(1)
            family, _, kind = name.partition("_")
            if family == "timm":
                architecture, arguments = TIMM[kind]
                config = AutoConfig.for_model("timm_wrapper", architecture=architecture, model_args=arguments)
            else:
                config = AutoConfig.for_model(kind, **NATIVE[kind])
            AutoModel.from_config(config).save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def tiny_model(backbone_folder):
    """A fresh tiny model: name out of BACKBONES and keywords of `from_backbone` -> model."""

    def make(name: str = "timm_resnet", **kwargs) -> MSLForImageClassification:
        folder = backbone_folder(name)
        torch.manual_seed(2)
        arguments = {"label_names": LABELS, "image_size": 32, **kwargs}
        return MSLForImageClassification.from_backbone(folder, **arguments)

    return make


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    """A small VOCdevkit tree of generated scenes."""
    return make_scenes(
        tmp_path_factory.mktemp("scenes") / "VOCdevkit", num_train=24, num_val=10, num_test=11, image_size=32
    )
