import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from reference_models import ReferenceResNet, ReferenceViT
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from msl_hf import MSLForImageClassification
from msl_hf.data.readers.coco import CLASSES as COCO
from msl_hf.data.readers.voc import CLASSES as VOC
from msl_hf.data.readers.wider import CLASSES as WIDER
from msl_hf.hub.convert import load_backbone_weights

HEAD = "classifier.multi_head.{}.head.weight"
RECIPE = str(Path(__file__).parents[2] / "recipes" / "convert_checkpoint.py")


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(4)
    return torchvision.models.resnet18(num_classes=7).eval()


def make_backbone():
    return AutoModel.from_config(AutoConfig.for_model("timm_wrapper", architecture="resnet18")).eval()


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}])
def test_torchvision_file_gives_torchvision_features(wrap, reference, tmp_path):
    torch.save(wrap(reference.state_dict()), tmp_path / "net.pth")
    backbone = make_backbone()
    load_backbone_weights(backbone, tmp_path / "net.pth")
    images = torch.randn(1, 3, 64, 64)
    expected = torch.nn.Sequential(*list(reference.children())[:-2])(images)
    torch.testing.assert_close(backbone(images).last_hidden_state, expected, rtol=1e-4, atol=1e-4)


def test_files_that_do_not_fit(reference, tmp_path):
    file = tmp_path / "net.pth"
    with pytest.raises(OSError, match="no such file"):
        load_backbone_weights(make_backbone(), file)
    file.write_bytes(b"<html>")
    with pytest.raises(OSError, match="net.pth: cannot be read"):
        load_backbone_weights(make_backbone(), file)
    torch.save({"epoch": 3}, file)
    with pytest.raises(ValueError, match="no state dict"):
        load_backbone_weights(make_backbone(), file)
    state = reference.state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith("layer4.1")}, file)
    with pytest.raises(ValueError, match="lacks layer4.1.conv1.weight"):
        load_backbone_weights(make_backbone(), file)
    torch.save({**state, "extra.weight": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="unknown extra.weight"):
        load_backbone_weights(make_backbone(), file)
    torch.save({**state, "conv1.weight": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="other shapes for conv1.weight"):
        load_backbone_weights(make_backbone(), file)


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_nothing_in_a_file_is_executed(tmp_path, capsys):
    torch.save({"state_dict": Evil()}, tmp_path / "net.pth")
    with pytest.raises(OSError, match="cannot be read"):
        load_backbone_weights(make_backbone(), tmp_path / "net.pth")
    assert "executed" not in capsys.readouterr().out


@pytest.fixture
def convert(monkeypatch, tmp_path):
    """Runs the recipe: state dict and flags -> the folder it writes."""

    def convert(state, *flags, out="out"):
        torch.save(state, tmp_path / "reference.pth")
        command = [
            RECIPE,
            "--checkpoint",
            str(tmp_path / "reference.pth"),
            "--output_dir",
            str(tmp_path / out),
            *flags,
        ]
        monkeypatch.setattr(sys, "argv", command)
        runpy.run_path(RECIPE, run_name="__main__")
        return tmp_path / out

    return convert


def resnet(heads=1, classes=20, weight=0.1, layers=(3, 4, 6, 3)):
    """A reference ResNet with running statistics of its own activations, so that nothing grows without bounds."""
    torch.manual_seed(heads)
    model = ReferenceResNet(list(layers), heads, classes, weight).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    model(torch.randn(8, 3, 64, 64))
    return model.eval()


def relative_difference(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize(
    ("heads", "names", "weight", "prefix", "layers"),
    [
        pytest.param(1, VOC, 0.1, "", (3, 4, 23, 3), marks=pytest.mark.slow),
        (2, VOC, 0.1, "module.", (3, 4, 6, 3)),
        (4, COCO, 0.5, "", (3, 4, 6, 3)),
        pytest.param(6, COCO, 0.4, "module.", (3, 4, 23, 3), marks=pytest.mark.slow),
        (8, WIDER, 0.3, "", (3, 4, 6, 3)),
    ],
)
def test_reference_resnet_gives_the_same_logits(heads, names, weight, prefix, layers, convert):
    reference = resnet(heads, len(names), weight, layers)
    folder = convert({prefix + k: v for k, v in reference.state_dict().items()}, "--csra_lambda", str(weight))
    model = MSLForImageClassification.from_pretrained(folder).eval()
    assert tuple(model.config.id2label.values()) == names and model.config.image_size == 448
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        assert relative_difference(model(images).logits, reference(images)) < 1e-4
    processor = AutoImageProcessor.from_pretrained(folder)
    assert list(processor.image_mean) == ([0.5] * 3 if names == WIDER else [0.0] * 3)
    found = json.loads((folder / "metrics.json").read_text())
    assert (found["architecture"], found["num_heads"]) == (f"resnet{sum(layers) * 3 + 2}", heads)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("heads", "names", "prefix", "wrap", "name"),
    [(1, VOC, "", False, "vit_small_patch16_224"), (8, COCO, "module.", True, "vit_base_patch16_224")],
)
def test_reference_vit_gives_the_same_logits(heads, names, prefix, wrap, name, convert):
    torch.manual_seed(0)
    reference = ReferenceViT(name, heads, len(names), 0.3, size=64).eval()
    state = {prefix + k: v for k, v in reference.state_dict().items()}
    folder = convert({"state_dict": state, "epoch": 3} if wrap else state, "--csra_lambda", "0.3")
    model = MSLForImageClassification.from_pretrained(folder).eval()
    assert model.config.image_size == 64 and model.config.num_heads == heads
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert relative_difference(model(images).logits, reference(images)) < 1e-4


@pytest.mark.slow
def test_converted_folder_needs_no_package_and_other_labels_come_from_a_file(convert, tmp_path):
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    reference = resnet(classes=3)
    flags = ("--csra_lambda", "0.1", "--labels", str(tmp_path / "names.txt"), "--image_size", "64")
    folder = convert(reference.state_dict(), *flags)
    images = torch.rand(1, 3, 64, 64)
    torch.save(images, tmp_path / "images.pt")
    code = (
        "import sys, torch; sys.modules['msl_hf'] = None\n"
        "from transformers import AutoModelForImageClassification as A\n"
        f"m = A.from_pretrained({str(folder)!r}, trust_remote_code=True).eval()\n"
        f"print(m.config.id2label, m(torch.load({str(tmp_path / 'images.pt')!r})).logits[0].tolist(), sep='|')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    labels, logits = done.stdout.strip().splitlines()[-1].split("|")
    assert labels == "{0: 'a', 1: 'b', 2: 'c'}"
    with torch.no_grad():
        assert relative_difference(torch.tensor(json.loads(logits)), reference(images)[0]) < 1e-4


@pytest.fixture(scope="module")
def resnet_state():
    return resnet().state_dict()


def without(state, prefix):
    return {name: value for name, value in state.items() if not name.startswith(prefix)}


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        (lambda s: without(s, "classifier"), (), "holds no heads classifier.multi_head.0.*conv1.weight, bn1.weight"),
        (lambda s: without(s, "layer3.5.conv2"), (), "does not fit ResNet: lacks layer3.5.conv2.weight"),
        (lambda s: without(s, "layer3.5"), (), "neither a ResNet with bottleneck blocks nor a ViT"),
        (lambda s: {**s, "extra.weight": torch.zeros(1)}, (), "holds unknown extra.weight"),
        (lambda s: s, ("--labels", "names.txt"), "has 20 classes, but there are 2 names"),
        (lambda s: s, ("--labels", "missing.txt"), "missing.txt: cannot be read"),
        (lambda s: {**s, HEAD.format(0): torch.zeros(7, 2048, 1, 1)}, (), "7 classes.*--labels"),
        (lambda s: {**s, HEAD.format(1): torch.zeros(20, 9, 1, 1)}, (), "heads have the shapes"),
        (lambda s: {**s, HEAD.format(0): torch.zeros(20, 9, 1, 1)}, (), "take 9 features"),
        (lambda s: {**s, **{HEAD.format(i): torch.zeros(20, 2048, 1, 1) for i in range(3)}},
         (), "num_heads must be one of"),
        (lambda s: [1, 2], (), "no state dict"),
        (lambda s: s, ("--csra_lambda", "none"), "csra_lambda"),
    ],
)  # fmt: skip
def test_a_wrong_file_names_what_does_not_fit(change, flags, message, convert, resnet_state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("a\nb\n")
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        convert(change(resnet_state), "--csra_lambda", "0.1", *flags)
    assert not (tmp_path / "out").exists()


def test_what_has_to_be_said(convert, monkeypatch):
    with pytest.raises(SystemExit, match=r"which lambda .*--csra_lambda \(VOC: ResNet 0.1"):
        convert({"a": torch.zeros(1)})
    monkeypatch.setattr(sys, "argv", [RECIPE])
    with pytest.raises(SystemExit, match="--checkpoint FILE.pth"):
        runpy.run_path(RECIPE, run_name="__main__")
