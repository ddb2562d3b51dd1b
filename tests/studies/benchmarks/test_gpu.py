"""The kit for a GPU, in its small form on a CPU."""

import json

import pytest
import torch

from msl_hf.studies import benchmark
from msl_hf.studies.benchmark import BenchmarkArguments
from msl_hf.studies.benchmarks.gpu import Size, count_host_waits, gpu_tasks


def arguments(file, **settings) -> BenchmarkArguments:
    return BenchmarkArguments(str(file), gpu=True, quick=True, use_cpu=True, rounds=1, **settings)


@pytest.mark.slow
def test_every_task_runs_and_none_twice(tmp_path, monkeypatch, capsys):
    """All of it in the small form; then the same command, and one whose file lacks a task."""
    file = tmp_path / "gpu.json"
    report = benchmark.benchmark(arguments(file))
    names = ["steps lite0_224 batch 2", "loader 32", "sync_batch_norm", "curves"]
    assert list(report["tasks"]) == names and json.loads(file.read_text()) == report
    steps = report["tasks"][names[0]]
    assert all(steps[variant]["images_per_second"] > 0 for variant in ("plain", "reference", "ours"))
    assert report["tasks"]["loader 32"]["images_per_second"] > 0
    curves = report["tasks"]["curves"]
    assert len(curves["float32"]) == len(curves["bfloat16"]) == 4 and curves["float32"] != curves["bfloat16"]
    assert 0 < curves["gap"] < 0.5
    assert "4 of 4 tasks are done" in capsys.readouterr().out
    monkeypatch.setattr(benchmark, "gpu_tasks", lambda size: dict.fromkeys(names, lambda: pytest.fail("ran again")))
    assert benchmark.benchmark(arguments(file)) == report
    del report["tasks"]["loader 32"]
    file.write_text(json.dumps(report))
    monkeypatch.setattr(benchmark, "gpu_tasks", lambda size: dict.fromkeys(names, lambda: {"value": 1.0}))
    assert benchmark.benchmark(arguments(file))["tasks"]["loader 32"]["value"] == 1.0


def test_time_that_is_up_begins_nothing_new(tmp_path, monkeypatch, capsys):
    """A clock that goes on by a minute with each look: two looks a task."""
    clock = iter(range(0, 10_000, 60))
    monkeypatch.setattr(benchmark.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(benchmark, "gpu_tasks", lambda size: dict.fromkeys("abcdef", lambda: {"value": 1.0}))
    report = benchmark.benchmark(arguments(tmp_path / "gpu.json", minutes=6))
    assert list(report["tasks"]) == ["a", "b", "c"]
    assert "3 of 6 tasks are done" in capsys.readouterr().out
    clock = iter(range(0, 10_000, 60))
    assert list(benchmark.benchmark(arguments(tmp_path / "gpu.json", minutes=6))["tasks"]) == list("abcdef")


def test_the_target_is_read_off_the_tasks(tmp_path, monkeypatch, capsys):
    figures = {"ours_bf16": {"images_per_second": 90.0}, "reference": {"images_per_second": 20.0}}
    tasks = {"steps resnet101_448 batch 16": lambda: figures, "loader 448": lambda: {"images_per_second": 45.0}}
    monkeypatch.setattr(benchmark, "gpu_tasks", lambda size: tasks)
    benchmark.benchmark(arguments(tmp_path / "gpu.json"))
    printed = capsys.readouterr().out
    assert "ours_bf16 / reference: 4.50 (wanted: 4)" in printed
    assert "resnet101_448: the loader gives 0.50 images for each that a step takes" in printed


def test_the_whole_kit_names_what_it_measures():
    names = list(gpu_tasks(Size(False, 3, 0, True)))
    assert len(names) == 4 * 3 + 2 + 2 and "steps vit_base_448 batch 64" in names and "loader 448" in names


def test_host_waits_are_those_of_cuda():
    assert count_host_waits(lambda: None, torch.device("cpu")) is None
