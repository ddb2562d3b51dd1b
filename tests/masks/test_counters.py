import torch

from msl_hf.masks import counter_generator


def test_counter_generator_depends_on_every_counter():
    assert counter_generator(1, 2, 3).initial_seed() == 6498626229777268288  # runs of other versions draw the same
    draws = {
        tuple(torch.rand(4, generator=counter_generator(*counters)).tolist())
        for counters in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    }
    assert len(draws) == 4
    assert torch.equal(
        torch.rand(4, generator=counter_generator(5, 2)), torch.rand(4, generator=counter_generator(5, 2))
    )
