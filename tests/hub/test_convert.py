import pytest
import torch
import torchvision
from transformers import AutoConfig, AutoModel

from msl_hf.hub.convert import load_backbone_weights


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
