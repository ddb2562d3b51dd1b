"""A cheaper masked branch: fewer images, smaller ones."""

import pytest
import torch
from tiny import BACKBONES, BANK, Images

from msl_hf import MSLLoss, MSLTrainer, MSLTrainingArguments


@pytest.fixture
def step_of(tmp_path):
    """A model and settings -> what its backbone is given in a step on eight images, which leaves the gradients."""

    def run(model, **settings):
        seen = []
        hook = model.backbone.register_forward_pre_hook(lambda _, args, __: seen.append(args[0]), with_kwargs=True)
        arguments = MSLTrainingArguments(str(tmp_path), use_cpu=True, mask_fill="zero", **settings)
        trainer = MSLTrainer(model, arguments, BANK, train_dataset=Images(8))
        trainer.current_gradient_accumulation_steps = 1
        batch = torch.utils.data.default_collate([Images(8)[index] for index in range(8)])
        trainer.training_step(model.train(), batch)
        hook.remove()
        return seen

    return run


@pytest.mark.parametrize(("share", "count"), [(0.5, 4), (0.25, 2), (0.01, 1)])
def test_the_masked_branch_sees_a_share_of_the_batch(share, count, step_of, tiny_model):
    images, masked = step_of(tiny_model("timm_vit"), masked_share=share, masked_forward="separate")
    assert len(images) == 8 and len(masked) == count
    kept = masked != 0
    sources = [[bool((image[keep] == one[keep]).all()) for image in images] for one, keep in zip(masked, kept)]  # noqa: B905
    assert all(sum(row) == 1 for row in sources)  # each of them is one of the batch, but for what is removed
    assert len({row.index(True) for row in sources}) == count


@pytest.mark.parametrize("name", BACKBONES)
def test_the_masked_branch_sees_smaller_images(name, step_of, tiny_model):
    """64 pixels at scale 0.7 (44.8) are 48 in patches of 16 or 8, and 44 in Swin's of 4."""
    model = tiny_model(name, image_size=64)
    batch = Images(8, side=64)
    arguments = MSLTrainingArguments("unused", use_cpu=True, mask_fill="zero", masked_scale=0.7)
    trainer = MSLTrainer(model, arguments, BANK, train_dataset=batch)
    _, smaller = trainer._choose(batch.images, torch.Generator().manual_seed(0))
    assert smaller.shape[-2:] == (44, 44) if "swin" in name and "timm" in name else (48, 48)
    trainer.current_gradient_accumulation_steps = 1
    inputs = {"pixel_values": batch.images[:4], "labels": batch.labels[:4]}
    assert torch.isfinite(trainer.training_step(model.train(), inputs))


def test_an_even_image_stays_what_it_is_when_it_shrinks(tiny_model):
    arguments = MSLTrainingArguments("unused", use_cpu=True, mask_fill="zero", masked_scale=0.5)
    trainer = MSLTrainer(tiny_model(), arguments, BANK, train_dataset=Images(8))
    plain = torch.arange(6.0).view(2, 3, 1, 1).expand(2, 3, 64, 64)
    smaller = trainer._choose(plain, torch.Generator())[1]
    torch.testing.assert_close(smaller, plain[:, :, :32, :32])


@pytest.mark.parametrize(
    "settings", [{"masked_share": 0.5}, {"masked_scale": 0.5}, {"masked_scale": 0.5, "masked_share": 0.5}]
)
@pytest.mark.parametrize("mode", ["joint", "sequential", "auto"])
def test_all_ways_to_run_it_give_one_gradient(settings, mode, step_of, tiny_model):
    gradients = []
    for masked_forward in ("separate", mode):
        model = tiny_model("timm_vit")
        step_of(model, masked_forward=masked_forward, loss_weights=[0.3, 0.2, 0.5], **settings)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


def test_the_step_of_some_images_by_hand():
    """Recognition over all three images; masked and consistency term over the second and the first."""
    logits, masked = torch.tensor([[0.0], [2.0], [-1.0]]), torch.tensor([[1.0], [-100.0]])
    labels, chosen = torch.tensor([[1.0], [0.0], [-100.0]]), torch.tensor([1, 0])
    found = MSLLoss((1, 1, 1))(logits, masked, labels, chosen)
    softplus = torch.nn.functional.softplus
    recognition = (softplus(torch.tensor(0.0)) + softplus(torch.tensor(2.0))) / 2
    assert found["recognition"] == pytest.approx(recognition.item())
    assert found["masked"] == pytest.approx((softplus(torch.tensor(1.0)).item() + 100) / 2)
    expected = ((torch.tensor(2.0).sigmoid() - torch.tensor(1.0).sigmoid()) ** 2 + 0.5**2) / 2
    assert found["consistency"] == pytest.approx(expected.item())


@pytest.mark.parametrize("name", ["masked_scale", "masked_share"])
def test_values_that_make_no_sense(name):
    for value in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=rf"{name} must lie in \(0, 1\]"):
            MSLTrainingArguments("unused", use_cpu=True, **{name: value})
    with pytest.raises(ValueError, match=f"{name} is of the masked branch"):
        MSLTrainingArguments("unused", use_cpu=True, loss_weights=[1, 0, 0], **{name: 0.5})
