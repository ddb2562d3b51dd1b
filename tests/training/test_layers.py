"""Parts of a backbone that are frozen, or learn at a smaller rate."""

import pytest
import torch
from tiny import BACKBONES, BANK, Images

from msl_hf import MSLTrainer, MSLTrainingArguments
from msl_hf.training.adapters import is_head_parameter
from msl_hf.training.layers import layer_depths


@pytest.fixture
def make_trainer(tmp_path):
    def make(model, **settings):
        settings = {"max_steps": 2, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, **settings}
        arguments = MSLTrainingArguments(str(tmp_path / "run"), use_cpu=True, mask_fill="zero", **settings)
        return MSLTrainer(model, arguments, BANK, train_dataset=Images(16))

    return make


@pytest.mark.parametrize("name", BACKBONES)
def test_of_a_frozen_backbone_nothing_changes(name, tiny_model, make_trainer):
    """Statistics of batch normalisation included, and no graph is built of it; the head learns at its rate."""
    model = tiny_model(name, head="ml_decoder" if name == "timm_vit" else "csra")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer = make_trainer(model, freeze_backbone=True)
    optimizer = trainer.create_optimizer()
    assert all(group["lr"] == pytest.approx(3e-3) for group in optimizer.param_groups)
    trainer.train()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and all(is_head_parameter(key) for key in changed)
    assert model.training and not model.backbone.training
    features = []
    model.head.register_forward_pre_hook(lambda head, inputs: features.append(inputs[0]))
    trainer.compute_loss(model, {"pixel_values": torch.randn(2, 3, 32, 32), "labels": torch.zeros(2, 3)})
    assert not features[0].requires_grad


def test_both_branches_take_one_forward_whatever_is_in_a_frozen_backbone(tiny_model, make_trainer):
    model = tiny_model("timm_resnet")
    model.backbone.timm_model.layer1.append(torch.nn.Dropout(0.5))
    assert not make_trainer(model).joint_forward and make_trainer(model, freeze_backbone=True).joint_forward


@pytest.mark.parametrize(
    ("name", "stages", "frozen"),
    [
        ("timm_resnet", 2, ("conv1", "bn1", "layer1", "layer2")),
        ("timm_vit", 1, ("cls_token", "pos_embed", "patch_embed", "blocks.0.")),
        ("hf_resnet", 1, ("embedder", "encoder.stages.0.")),
        ("hf_vit", 1, ("embeddings", "layers.0.", "encoder.layer.0.")),
        ("hf_swin", 1, ("embeddings", "encoder.layers.0.")),
        ("hf_convnext", 1, ("embeddings", "encoder.stages.0.")),
    ],
)
def test_first_stages_are_frozen_with_their_statistics(name, stages, frozen, tiny_model, make_trainer):
    model = tiny_model(name)
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    make_trainer(model, freeze_stages=stages, learning_rate=1e-2, freeze_batch_norm=False).train()
    after, learnt = model.backbone.state_dict(), []
    for key in before:
        is_same = torch.equal(before[key], after[key])
        assert is_same or not key.removeprefix("timm_model.").startswith(frozen), key
        learnt += [] if is_same else [key]
    assert learnt


def test_each_layer_has_its_rate(tiny_model, make_trainer):
    """By hand, for a ViT of two layers: stem, two blocks, the last with what follows; the head at ten times."""
    trainer = make_trainer(tiny_model("timm_vit"), layer_decay=0.5, learning_rate=1e-3)
    rates = {}
    for group in trainer.create_optimizer().param_groups:
        rates.update(dict.fromkeys(group["params"], group["lr"]))
    network = trainer.model.backbone.timm_model
    assert rates[network.cls_token] == rates[network.patch_embed.proj.weight] == pytest.approx(1e-3 / 4)
    assert rates[network.blocks[0].attn.qkv.weight] == pytest.approx(1e-3 / 2)
    assert rates[network.blocks[1].norm1.bias] == rates[network.norm.weight] == pytest.approx(1e-3)
    assert rates[trainer.model.head.weight] == pytest.approx(1e-2)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("stages", [True, False])
def test_depths_begin_at_the_stem_and_grow_along_the_network(name, stages, tiny_model):
    """Every parameter has one, without gaps, and what takes the image in has the first."""
    backbone = tiny_model(name).backbone
    depths = layer_depths(backbone, stages)
    assert set(depths) == {key for key, _ in backbone.named_parameters()}
    assert sorted(set(depths.values())) == list(range(max(depths.values()) + 1)) and max(depths.values()) >= 2
    stem = [key for key in depths if depths[key] == 0]
    assert any("embed" in key or "conv1" in key or "stem" in key for key in stem)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze_stages": 9}, "freeze_stages must lie below 4 for this backbone, got 9"),
        ({"freeze_stages": -1}, "freeze_stages must be at least 0"),
        ({"freeze_backbone": True, "freeze_stages": 1}, "freeze_backbone freezes the backbone, so that freeze_stages"),
        ({"freeze_backbone": True, "lora_rank": 2}, "freeze_backbone freezes the backbone, so that lora_rank"),
        ({"lora_rank": 2, "layer_decay": 0.9}, "lora_rank freezes the backbone, so that layer_decay"),
        ({"freeze_backbone": True, "freeze_batch_norm": False}, "leave out freeze_batch_norm=False"),
        ({"layer_decay": 0}, r"layer_decay must lie in \(0, 1\]"),
    ],
)
def test_what_contradicts_itself_is_refused(settings, message, tiny_model, make_trainer):
    with pytest.raises(ValueError, match=message):
        make_trainer(tiny_model("timm_resnet"), **settings)
