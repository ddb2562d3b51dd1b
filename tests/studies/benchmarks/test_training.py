import pytest
import torch

from msl_hf.studies.benchmarks.steps import NETWORKS, Batch
from msl_hf.studies.benchmarks.training import measure_masking, measure_processes, measure_trainer


def test_measurements(tiny_model):
    batch = Batch(tiny_model("timm_vit"), torch.randn(4, 3, 32, 32), torch.ones(4, 3))
    assert 0 < measure_masking(batch, 1)["share"]["median"] < 1
    assert measure_trainer(batch, 1)["ratio"]["median"] > 0


@pytest.mark.slow
def test_two_processes():
    assert "lite0_224" in NETWORKS
    result = measure_processes("lite0_224", batch_size=1, rounds=1, seed=0)
    assert result["one"] > 0 and result["ratio"]["median"] == pytest.approx(result["two"] / result["one"])
