import json
import subprocess
import sys
from pathlib import Path

import pytest

from msl_hf.console.errors import RunError
from msl_hf.studies import benchmark
from msl_hf.studies.benchmark import BenchmarkArguments

RECIPE = str(Path(__file__).parents[2] / "recipes" / "benchmark.py")


def test_ratios_are_taken_within_a_round():
    variants = {"plain": {"rounds": [30.0, 20.0, 12.0]}, "ours": {"rounds": [10.0, 10.0, 10.0]},
                "reference": {"rounds": [5.0, 4.0, 10.0]}}  # fmt: skip
    ratios = benchmark._ratios(variants, benchmark.RATIOS, "rounds")
    assert ratios["msl_over_plain_time"] == {"median": 2.0, "spread": [1.2, 3.0]}
    assert ratios["train_fp32"] == {"median": 2.0, "spread": [1.0, 2.5]} and "train_bf16" not in ratios


def test_unknown_names():
    with pytest.raises(RunError, match="unknown resnet9; there are lite0_224"):
        benchmark.benchmark(BenchmarkArguments(networks=["resnet9"], output="x.json", cpu_threads=1))
    with pytest.raises(RunError, match="--output FILE.json"):
        benchmark.benchmark(BenchmarkArguments(quick=True, cpu_threads=1))


@pytest.mark.slow
def test_recipe(tmp_path):
    command = [sys.executable, RECIPE, "--networks", "vit_small_224", "--variants", "plain", "ours", "reference",
               "--batch_size", "1", "--rounds", "2", "--parts", "steps", "memory", "inference",
               "--use_cpu", "true", "--output", str(tmp_path / "bench.json")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "bench.json").read_text())
    result, ratios = report["networks"]["vit_small_224"], report["ratios"]["vit_small_224"]
    assert set(result["variants"]) == {"plain", "ours", "reference"} and result["inference"]["latency_ms"] > 0
    assert set(ratios) == {
        "train_fp32", "msl_over_plain_time", "msl_over_plain_memory",
        "batched_over_pipeline", "channels_last_over_pipeline", "compiled_over_pipeline", "bf16_over_pipeline",
        "bf16_compiled_over_pipeline",
    }  # fmt: skip
    assert all(row["memory_mb"][0] > 0 for name, row in result["variants"].items() if name != "reference")
    assert result["same_numbers"]["float32"]["gradient"] < 1e-5 and "msl_over_plain_time" in done.stdout
