import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from msl_hf import MaskBank
from msl_hf.model.heads_msl import CSRAHead
from msl_hf.runs import benchmark
from msl_hf.runs.arguments import RunError
from msl_hf.runs.benchmark import BenchmarkArguments
from msl_hf.runs.benchmark_steps import Batch, FixedMasks, LoopedCSRA, ReferenceStep, TrainerStep, compare_steps

RECIPE = str(Path(__file__).parents[2] / "recipes" / "benchmark.py")


@pytest.fixture(params=["timm_vit", "timm_resnet"])
def batch(request, tiny_model):
    model = tiny_model(request.param, num_heads=4, csra_lambda=0.5).double()
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (8, 3), generator=generator).double()
    return Batch(model, torch.randn(8, 3, 32, 32, generator=generator, dtype=torch.float64), labels)


@pytest.mark.parametrize("num_heads", [1, 2, 4, 6, 8])
def test_looped_head_equals_the_package_s(num_heads):
    head, features = CSRAHead(7, 5, num_heads, csra_lambda=0.4), torch.randn(2, 9, 7)
    torch.testing.assert_close(LoopedCSRA(head)(features), head(features))


def test_trainer_and_published_step_compute_the_same(batch):
    same = compare_steps(batch)
    assert same["loss"] < 1e-6 and same["gradient"] < 1e-6


@pytest.mark.parametrize("settings", [{"channels_last": True}, {"one_product": True}, {"bf16": True}])
def test_single_improvements_change_the_cost_and_not_the_loss(batch, settings):
    batch = Batch(batch.model.float(), batch.images.float(), batch.labels.float())
    masks = FixedMasks(MaskBank.patches().sample(8, 32, generator=torch.Generator().manual_seed(1)))
    loss = ReferenceStep(batch, masks).backward()
    assert ReferenceStep(batch, masks, **settings).backward() == pytest.approx(
        loss, rel=0.02 if "bf16" in settings else 1e-4
    )


def test_a_step_trains(batch):
    step = TrainerStep(batch, MaskBank.patches())
    before = [value.clone() for value in step.model.parameters()]
    step()
    assert any(not torch.equal(a, b) for a, b in zip(before, step.model.parameters(), strict=True))


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
        "train_fp32", "msl_over_plain_time", "msl_over_plain_memory", "inference_over_pipeline"
    }  # fmt: skip
    assert all(row["memory_mb"][0] > 0 for name, row in result["variants"].items() if name != "reference")
    assert result["same_numbers"]["float32"]["gradient"] < 1e-5 and "msl_over_plain_time" in done.stdout
