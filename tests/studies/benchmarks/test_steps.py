import pytest
import torch

from msl_hf import MaskBank
from msl_hf.model.heads_msl import CSRAHead
from msl_hf.studies.benchmarks.steps import (
    Batch,
    FixedMasks,
    LoopedCSRA,
    ReferenceStep,
    TrainerStep,
    compare_steps,
    share_of_dropped_patches,
)


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
    loss = ReferenceStep(batch, masks).backward().item()
    assert ReferenceStep(batch, masks, **settings).backward().item() == pytest.approx(
        loss, rel=0.02 if "bf16" in settings else 1e-4
    )


def test_a_step_trains(batch):
    step = TrainerStep(batch, MaskBank.patches())
    before = [value.clone() for value in step.model.parameters()]
    step()
    assert any(not torch.equal(a, b) for a, b in zip(before, step.model.parameters(), strict=True))


def test_dropped_patches():
    """No more can be dropped than is removed; groups lose less by filling up than the batch; one image at most a 32nd
    of its patches, half of that on average."""
    shares = share_of_dropped_patches(16, 384, 16, seed=0)
    assert 0.3 < shares["removed"] < 0.45 and 0 < shares["padded"] < shares["grouped"] < shares["removed"]
    alone = share_of_dropped_patches(16, 384, 1, seed=0)
    assert alone["padded"] == pytest.approx(alone["removed"])
    assert alone["removed"] - alone["grouped"] == pytest.approx(1 / 64, abs=0.005)
