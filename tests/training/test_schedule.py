import pytest
import torch

from msl_hf.training.schedule import warmup_step_schedule


def test_learning_rates_of_the_reference():
    """VOC: warm-up over 2 epochs, then a tenth every 4 epochs counted from the start: 1e-7 from epoch 20."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    scheduler = warmup_step_schedule(optimizer, steps_per_epoch=10, warmup_epochs=2, step_epochs=4)
    rates = []
    for _ in range(220):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(0.01 / 20) and rates[9] == pytest.approx(0.005)
    assert rates[20] == rates[39] == pytest.approx(0.01)
    assert rates[40] == rates[79] == pytest.approx(1e-3)
    assert rates[80] == pytest.approx(1e-4)
    assert rates[200] == pytest.approx(1e-7)
