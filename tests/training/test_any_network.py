"""The paper's claim that MSL is model-agnostic: any head on any backbone with any loss."""

import pytest
import torch
from tiny import BACKBONES

from msl_hf import MaskBank, MSLLoss, apply_mask
from msl_hf.model.configuration_msl import HEADS
from msl_hf.training.losses import make_classification_loss

LOSSES = [("bce", None), ("bce", [2.0, 0.5, 1.0]), ("asl", None), ("focal", None)]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_any_head_on_any_backbone_with_any_loss(backbone, head, tiny_model):
    """Every weight gets a finite gradient from a step of MSL, and it differs from loss to loss."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 32, 32, generator=generator)
    labels = torch.randint(2, (4, 3), generator=generator).float()
    masked = apply_mask(images, MaskBank.patches().sample(4, 32, generator=generator), fill="zero")
    model = tiny_model(backbone, head=head).train()
    logits, masked_logits = model(images).logits, model(masked).logits
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    seen = []
    for name, pos_weight in LOSSES:
        loss = MSLLoss(classification_loss=make_classification_loss(name, pos_weight))(logits, masked_logits, labels)
        gradients = torch.autograd.grad(loss["loss"], list(parameters.values()), retain_graph=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            assert torch.isfinite(gradient).all() and gradient.any(), (name, parameter)
        assert all(not torch.equal(gradients[0], other) for other in seen)
        seen.append(gradients[0])
