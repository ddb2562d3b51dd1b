"""A masked branch that sees a part of the batch."""

import pytest
import torch
from tiny import BANK, Images

from msl_hf import MSLLoss, MSLTrainer, MSLTrainingArguments


class Grey:
    """As much of an image processor as the masks need."""

    image_mean, image_std = [0.5] * 3, [0.5] * 3

    def save_pretrained(self, folder):
        pass


@pytest.fixture
def step_of(tmp_path):
    """A model and settings -> what its backbone is given in a step on eight images, which leaves the gradients."""

    def run(model, count=8, **settings):
        seen = []
        hook = model.backbone.register_forward_pre_hook(lambda _, args, __: seen.append(args[0]), with_kwargs=True)
        arguments = MSLTrainingArguments(str(tmp_path), use_cpu=True, **{"mask_fill": "zero", **settings})
        trainer = MSLTrainer(model, arguments, BANK, train_dataset=Images(8), processing_class=Grey())
        trainer.current_gradient_accumulation_steps = 1
        batch = torch.utils.data.default_collate([Images(8)[index] for index in range(count)])
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


@pytest.mark.parametrize("mode", ["joint", "sequential", "auto"])
def test_all_ways_to_run_it_give_one_gradient(mode, step_of, tiny_model):
    gradients = []
    for masked_forward in ("separate", mode):
        model = tiny_model("timm_vit")
        step_of(model, masked_forward=masked_forward, loss_weights=[0.3, 0.2, 0.5], masked_share=0.5)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


def shown(masked, images):
    """Of each masked image: which images of the batch have pixels in it."""
    parts = [[(one == image).all(dim=0).float().mean() > 0.1 for image in images] for one in masked]
    return [[position for position, is_there in enumerate(row) if is_there] for row in parts]


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_another_image_of_the_batch_is_seen_in_the_holes(share, step_of, tiny_model):
    images, masked = step_of(tiny_model("timm_vit"), mask_fill="image", masked_share=share, masked_forward="separate")
    pairs = shown(masked, images)
    assert len(pairs) == 8 * share and all(len(pair) == 2 for pair in pairs)
    if share == 1:
        others = [next(other for other in pair if other != own) for own, pair in enumerate(pairs)]
        assert sorted(others) == list(range(8))  # each is once the other one


def test_mask_augmentation_fills_its_holes_too(step_of, tiny_model):
    (images,) = step_of(tiny_model("timm_vit"), mask_fill="image", loss_weights=[1, 0, 0], mask_augmentation=1.0)
    originals = torch.stack([Images(8)[index]["pixel_values"] for index in range(8)])
    assert all(len(pair) == 2 for pair in shown(images, originals))


def test_an_image_that_is_alone_in_its_batch_has_noise_in_its_holes(step_of, tiny_model):
    """As the last of an epoch may be: never itself, which would be no mask."""
    image, masked = step_of(tiny_model("timm_vit"), 1, mask_fill="image", masked_forward="separate")
    changed = (image != masked).any(dim=1)
    assert 0.2 < changed.float().mean() < 0.8
    with pytest.raises(ValueError, match="mask_fill='image' shows another image of the batch, which has only one"):
        step_of(tiny_model("timm_vit"), 1, mask_fill="image", per_device_train_batch_size=1)


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


def test_shares_that_make_no_sense():
    for value in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"masked_share must lie in \(0, 1\]"):
            MSLTrainingArguments("unused", use_cpu=True, masked_share=value)
    with pytest.raises(ValueError, match="masked_share is of the masked branch"):
        MSLTrainingArguments("unused", use_cpu=True, loss_weights=[1, 0, 0], masked_share=0.5)
