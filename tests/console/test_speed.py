import time

import torch

from msl_hf.console.speed import measure_inference, time_calls
from msl_hf.model.views_msl import Views

CPU = torch.device("cpu")


def test_calls_are_timed_after_a_warm_up():
    calls = []
    durations = time_calls(lambda: calls.append(time.sleep(0.01)), CPU, min_calls=4, seconds=0.0)
    assert len(calls) == 6 and len(durations) == 4 and min(durations) >= 0.01
    assert len(time_calls(lambda: time.sleep(0.01), CPU, min_calls=1, seconds=0.1)) >= 5


def test_inference_runs_the_network_as_users_do(tiny_model, monkeypatch):
    model, seen = tiny_model().train(), set()
    model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.add((len(kwargs["pixel_values"]), model.training)), with_kwargs=True
    )
    monkeypatch.setattr("msl_hf.console.speed.time_calls", lambda call, *_, **__: [call(), [0.5, 0.25, 0.125]][1])
    result = measure_inference(model, (32, 32), CPU, batch_size=6)
    assert seen == {(1, False), (6, False)}
    assert result == {"latency_ms": 250, "latency_ms_p95": 250, "images_per_second": 24, "batch_size": 6}
    sizes: list[torch.Size] = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(kwargs["pixel_values"].shape), with_kwargs=True
    )
    measure_inference(model, (32, 48), CPU, 6, Views.parse("whole@64+1x2"))
    assert [tuple(size) for size in sizes][3:] == [(6, 3, 64, 96), (6, 3, 32, 48), (6, 3, 32, 48)]
