import pytest
import torch

from msl_hf.studies.benchmarks.inference import measure_inference_ways
from msl_hf.studies.benchmarks.steps import Batch


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_way_is_compared_with_the_pipeline(compiled, tiny_model):
    batch = Batch(tiny_model("timm_vit"), torch.randn(4, 3, 32, 32), torch.ones(4, 3))
    result = measure_inference_ways(batch, rounds=2, seed=0, compiled=compiled)
    ways = ["batched", "channels_last", "bf16", *(["compiled", "bf16_compiled"] if compiled else [])]
    assert list(result) == ["pipeline", "reading_alone", *ways]
    assert all(row["images_per_second"] > 0 for row in result.values())
    assert [name for name, row in result.items() if "ratio" in row] == ways
