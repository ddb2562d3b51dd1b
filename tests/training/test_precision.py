import copy

import torch

from msl_hf.training.precision import run_depthwise_in_float32


def test_depthwise_convolutions_are_computed_in_float32():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.Conv2d(8, 8, 3, groups=8))
    images = torch.randn(2, 3, 9, 9)
    changed = copy.deepcopy(network)
    run_depthwise_in_float32(changed)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        middle = network[0](images)
        plain, kept = network(images), changed(images)
    assert middle.dtype == kept.dtype == torch.bfloat16
    expected = network[1](middle.float()).to(torch.bfloat16)
    assert torch.equal(kept, expected) and not torch.equal(plain, expected)
    assert changed.state_dict().keys() == network.state_dict().keys()
