"""bfloat16 on CPUs, where it pays and where it does not."""

import torch
from torch import nn


def run_depthwise_in_float32(model: nn.Module) -> None:
    """Keep depthwise convolutions out of bfloat16 autocast on a CPU.

    oneDNN has no fast bfloat16 gradient for them: a training step of tf_efficientnet_lite0 takes about twice as long
    with them as with float32 depthwise and bfloat16 pointwise convolutions.
    """
    for module in model.modules():
        is_depthwise = isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels
        if is_depthwise and not isinstance(module.forward, _Float32Forward):
            module.forward = _Float32Forward(module.forward)


class _Float32Forward:
    def __init__(self, forward):
        self.forward = forward

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.forward(x.float()).to(x.dtype)
