"""Backbones that people ask for, each built small from its real configuration class, from training to score maps."""

import pytest
import torch
from tiny import BANK, LABELS, Images
from transformers import AutoConfig, AutoModel, CLIPConfig, LlavaConfig, SiglipConfig

from msl_hf import MSLForImageClassification, MSLTrainer, MSLTrainingArguments

_TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_PATCHES = {"image_size": 32, "patch_size": 8}
_TIMM_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
NATIVE = {
    "dinov3_vit": {**_TOWER, **_PATCHES, "num_register_tokens": 4},
    "dinov3_convnext": {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
    "siglip_vision_model": {**_TOWER, **_PATCHES},
    "clip_vision_model": {**_TOWER, **_PATCHES},
    "convnextv2": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "swinv2": {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "image_size": 32,
               "patch_size": 4, "drop_path_rate": 0.0},
    "hiera": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "image_size": [32, 32], "num_query_pool": 1},
}  # fmt: skip
TIMM = {
    "vit_base_patch16_siglip_224": _TIMM_VIT,
    "vit_base_patch16_clip_224": _TIMM_VIT,
    "eva02_tiny_patch14_224": _TIMM_VIT,
    "convnextv2_atto": {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]},
    "swinv2_tiny_window8_256": {"img_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2],
                                "window_size": 4},
    "hiera_tiny_224": {"img_size": (32, 32), "embed_dim": 8, "stages": (1, 1), "q_pool": 1, "mask_unit_size": (4, 4)},
    "mobilenetv4_conv_small": {},
}  # fmt: skip


def build(name: str):
    torch.manual_seed(0)
    if name in TIMM:
        config = AutoConfig.for_model("timm_wrapper", architecture=name, model_args=TIMM[name])
    else:
        config = AutoConfig.for_model(name, **NATIVE[name])
    return AutoModel.from_config(config)


@pytest.mark.parametrize("name", [*NATIVE, *TIMM])
def test_backbone_from_training_to_maps(name, tmp_path):
    build(name).save_pretrained(tmp_path / "backbone")
    model = MSLForImageClassification.from_backbone(tmp_path / "backbone", LABELS, image_size=32)
    images = torch.randn(2, 3, 32, 32)

    def train(**settings):
        settings |= {"max_steps": 2, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
        arguments = MSLTrainingArguments(str(tmp_path / "run"), use_cpu=True, mask_fill="zero", **settings)
        before = {key: value.clone() for key, value in model.named_parameters()}
        MSLTrainer(model, arguments, BANK, train_dataset=Images(16)).train()
        return [key for key, value in model.named_parameters() if not torch.equal(value, before[key])]

    assert any(key.startswith("backbone.") for key in train())
    model.save_pretrained(tmp_path / "model")
    loaded = MSLForImageClassification.from_pretrained(tmp_path / "model").eval()
    torch.testing.assert_close(loaded(images).logits, model.eval()(images).logits)
    maps = loaded.score_maps(images)
    assert maps.shape[:2] == (2, 3) and maps.shape[2] == maps.shape[3] > 0
    assert all(key.startswith("head.") for key in train(freeze_backbone=True))


@pytest.mark.parametrize("kind", [CLIPConfig, SiglipConfig])
@pytest.mark.parametrize("is_loaded", [False, True])
def test_of_images_and_texts_the_visual_tower_alone(kind, is_loaded, tmp_path):
    text = {**_TOWER, "vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}
    both = AutoModel.from_config(kind(text_config=text, vision_config={**_TOWER, **_PATCHES}))
    both.save_pretrained(tmp_path)
    model = MSLForImageClassification.from_backbone(both if is_loaded else tmp_path, LABELS)
    assert model.config.image_size == 32
    weights = both.vision_model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in model.backbone.state_dict().items())
    assert not any("text" in name for name in model.state_dict())
    fresh = MSLForImageClassification.from_backbone(tmp_path, LABELS, pretrained=False)
    assert set(fresh.state_dict()) == set(model.state_dict())


def test_a_tower_whose_weights_are_not_found_is_refused_and_not_random(tmp_path):
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **_TOWER, **_PATCHES},
        text_config={"model_type": "llama", **_TOWER, "vocab_size": 50, "num_key_value_heads": 2},
    )
    AutoModel.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the weights of its visual tower .* cannot be told"):
        MSLForImageClassification.from_backbone(tmp_path, LABELS)


def test_clip_is_normalised_as_its_authors_do(tmp_path):
    """The head reads what CLIP's own last normalisation makes of the patches, which its `last_hidden_state` is not."""
    backbone = build("clip_vision_model").eval()
    with torch.no_grad():
        backbone.post_layernorm.weight.uniform_(0.5, 2)
    model = MSLForImageClassification.from_backbone(backbone, LABELS).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = backbone.post_layernorm(backbone(images).last_hidden_state[:, 1:])
    torch.testing.assert_close(model._local_features(images)[0], expected)


def test_what_does_not_fit_says_so(tmp_path):
    """The flexible SigLIP 2 takes patches and their shapes instead of images; its fixed sizes are SigLIP models."""
    AutoModel.from_config(AutoConfig.for_model("siglip2_vision_model", **_TOWER, patch_size=8)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match="siglip2_vision_model.*takes no batch of images"):
        MSLForImageClassification.from_backbone(tmp_path, LABELS, image_size=32)
