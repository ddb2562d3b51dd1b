"""Randomness that is a function of counters."""

import numpy as np
import torch


def counter_generator(*counters: int) -> torch.Generator:
    """A CPU generator that depends on the given non-negative counters alone (seed, step, rank, ...).

    Randomness that is a function of counters needs no saved state: a resumed run draws what the uninterrupted one
    would have drawn, and every rank draws something else.
    """
    state = np.random.SeedSequence(counters).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))  # manual_seed takes a signed 64-bit number
