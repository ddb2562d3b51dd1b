"""`keep`: a plain ViT leaves out the patches that are wholly removed."""

import pytest
import torch

from msl_hf import MaskBank, MSLTrainer, MSLTrainingArguments
from msl_hf.data import build_processor


def batch(count=6, size=64):
    generator = torch.Generator().manual_seed(0)
    keep = MaskBank.generate(50, (0.5, 0.6)).sample(count, size, generator=generator)
    return torch.randn(count, 3, size, size, generator=generator) * keep, keep


@pytest.fixture(params=["timm_vit", "timm_vit_pooled", "timm_vit_registers"])
def model(request, tiny_model):
    return tiny_model(request.param, image_size=64, num_heads=2).eval()


def logits_by_hand(model, image, patches):
    """One image, its given patches alone, through the parts of the network."""
    vit = model.backbone.timm_model
    tokens = vit._pos_embed(vit.patch_embed(image[None]))
    prefix = vit.num_prefix_tokens
    tokens = torch.cat([tokens[:, :prefix], tokens[:, prefix:][:, patches]], dim=1)
    return model.head(vit.fc_norm(vit.norm(vit.blocks(vit.norm_pre(tokens)))[:, prefix:]))[0]


def test_only_visible_patches_take_part(model):
    """And the first removed ones, up to the next 32nd of all 64."""
    images, keep = batch()
    visible = keep.float().reshape(6, 8, 8, 8, 8).amax(dim=(2, 4)).flatten(1) > 0
    assert 0.1 < 1 - visible.float().mean() < 0.9
    for image, one_keep, patches in zip(images, keep, visible, strict=True):
        missing = -int(patches.sum()) % 2
        patches = patches | (~patches & ((~patches).cumsum(dim=0) <= missing))
        expected = logits_by_hand(model, image, patches.sort(descending=True, stable=True).indices[: patches.sum()])
        torch.testing.assert_close(model(image[None], keep=one_keep[None]).logits[0], expected, atol=1e-5, rtol=1e-4)


def test_a_batch_fills_up_with_removed_patches_of_its_own_images(model):
    """In groups of similar images, and in the order of the batch: every row is an image with k >= its own patches."""
    images, keep = batch()
    together = model(images, keep=keep).logits
    visible = keep.float().reshape(6, 8, 8, 8, 8).amax(dim=(2, 4)).flatten(1) > 0
    for image, patches, found in zip(images, visible, together, strict=True):
        order = torch.cat([patches.nonzero()[:, 0], (~patches).nonzero()[:, 0]])
        least = int(patches.sum())
        candidates = torch.stack([logits_by_hand(model, image, order[:k]) for k in range(least, 65)])
        assert (candidates - found).abs().amax(dim=1).min() < 1e-4


def test_nothing_removed_changes_nothing(model):
    images, _ = batch()
    keep = torch.ones(6, 1, 64, 64, dtype=torch.bool)
    torch.testing.assert_close(model(images, keep=keep).logits, model(images).logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model(images).logits, model(images).logits)  # no hook stays behind


def test_everything_removed_still_gives_logits(model):
    images, _ = batch(2)
    assert torch.isfinite(model(images, keep=torch.zeros(2, 1, 64, 64, dtype=torch.bool)).logits).all()


@pytest.mark.parametrize("name", ["timm_resnet", "timm_swin", "timm_dinov3", "hf_vit"])
def test_other_networks_ignore_keep(name, tiny_model):
    model, (images, keep) = tiny_model(name, image_size=64).eval(), batch(2)
    assert not model.can_skip_removed_patches
    assert torch.equal(model(images, keep=keep).logits, model(images).logits)


def test_trainer_runs_the_masked_branch_on_visible_patches(model, tmp_path):
    images, _ = batch()
    labels = torch.ones(6, 3)

    def loss(masked_forward):
        arguments = MSLTrainingArguments(str(tmp_path), use_cpu=True, masked_forward=masked_forward)
        trainer = MSLTrainer(model, arguments, MaskBank.generate(50, (0.5, 0.6)), build_processor(None, 64))
        return trainer.compute_loss(model.train(), {"pixel_values": images, "labels": labels})

    visible, full = loss("visible"), loss("separate")
    assert torch.isfinite(visible) and visible != full and abs(visible - full) < 0.5 * full
    visible.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


def test_a_network_that_cannot_is_told_so(tiny_model, tmp_path):
    arguments = MSLTrainingArguments(str(tmp_path), use_cpu=True, masked_forward="visible")
    with pytest.raises(ValueError, match="only an MSLForImageClassification on a plain ViT of timm can"):
        MSLTrainer(tiny_model("timm_resnet"), arguments, MaskBank.patches(), build_processor(None, 32))
