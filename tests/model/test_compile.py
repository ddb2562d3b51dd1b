"""`torch.compile` takes the model whole, and visible patches come in few shapes."""

import pytest
import torch

from msl_hf import MaskBank, MSLForImageClassification


@pytest.mark.parametrize("name", ["timm_resnet", "timm_convnext", "timm_vit", "timm_swin", "hf_vit", "hf_resnet"])
def test_no_graph_break(name, tiny_model):
    if name == "hf_vit" and torch.__version__.startswith("2.6."):
        pytest.skip("torch 2.6 cannot compile the ViT of transformers")
    torch._dynamo.reset()
    model = tiny_model(name, num_heads=2).train()
    found = torch._dynamo.explain(model)(torch.randn(2, 3, 32, 32), torch.ones(2, 3))
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


def test_visible_patches_come_in_a_bounded_number_of_shapes():
    """196 patches, 400 masks that remove 10 to 90 %: at most 28 lengths in steps of 7, in every group of four."""
    model = MSLForImageClassification.from_backbone("vit_tiny_patch16_224", ["cat"], pretrained=False, image_size=224)
    lengths, images = set(), torch.zeros(8, 3, 224, 224)
    model._chosen_features = lambda pixels, chosen: lengths.add(tuple(chosen.shape)) or torch.zeros(*chosen.shape, 192)
    bank = MaskBank.generate(200, (0.1, 0.9))
    for number in range(50):
        keep = bank.sample(8, 224, generator=torch.Generator().manual_seed(number))
        model(images, keep=keep)
    assert 2 < len(lengths) <= 28 and all(count == 2 and length % 7 == 0 for count, length in lengths)


def test_counts_from_the_host_change_nothing(tiny_model):
    model = tiny_model("timm_vit").eval()
    keep = MaskBank.generate(20, (0.5, 0.6)).sample(6, 32, generator=torch.Generator().manual_seed(0))
    images, counts = torch.randn(6, 3, 32, 32), model.count_visible(keep)
    brute = keep.reshape(6, 4, 8, 4, 8).any(dim=4).any(dim=2).flatten(1).sum(dim=1).tolist()
    assert counts == brute
    assert torch.equal(model(images, keep=keep).logits, model(images, keep=keep, num_visible=counts).logits)
