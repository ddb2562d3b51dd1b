"""Shared by all tests: no network, tiny backbones, tiny data."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import of a Hugging Face library
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # and of torch: tests run in several processes

import gc
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from tiny import LABELS, NATIVE, TIMM
from transformers import AutoConfig, AutoModel

from msl_hf import MSLForImageClassification
from msl_hf.data import make_scenes

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def quiet_and_repeatable():
    transformers.logging.disable_progress_bar()
    transformers.set_seed(0)
    torch.set_num_threads(1)  # tests run in parallel processes
    yield
    gc.unfreeze()


@pytest.fixture(scope="module", autouse=True)
def short_garbage_collections():
    """What is imported is left out of the collections that each training begins and ends with: a third of a second."""
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real photographs, masks and weights, where the machine has them."""
    path = Path(os.environ.get("MSL_SHARED", REPOSITORY.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"no real data at {path} (set MSL_SHARED)")
    return path


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
            model = AutoModel.from_config(config)
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    torch.nn.init.ones_(module.weight)  # versions of timm begin with 0, where nothing gets a gradient
            model.save_pretrained(folder)
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


@pytest.fixture
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield started
        started.close()
