import pytest
import torch
from transformers import TrainerCallback

from msl_hf import MaskBank, MSLTrainer, MSLTrainingArguments
from msl_hf.evaluation.metrics import metrics_from_logits
from msl_hf.training.averaging import WeightAverage


class Steps(TrainerCallback):
    """The weights of the head after every step."""

    def __init__(self):
        self.weights = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights.append(model.head.weight.detach().clone())


def data(count: int = 32) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.eye(3).repeat(count, 1)[:count]
    images = torch.randn(count, 3, 32, 32, generator=generator) + labels[:, :, None, None]
    return [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]


@pytest.fixture
def make_trainer(tiny_model, tmp_path):
    def make(callbacks=(), **arguments):
        settings = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "max_steps": 6,
                    "per_device_train_batch_size": 8, "mask_fill": "zero", "learning_rate": 1e-2, "ema_decay": 0.5,
                    "lr_scheduler_type": "constant"}  # fmt: skip
        args = MSLTrainingArguments(str(tmp_path / "run"), **{**settings, **arguments})
        return MSLTrainer(tiny_model(), args, MaskBank.patches(), train_dataset=data(), eval_dataset=data(),
                          compute_metrics=metrics_from_logits, callbacks=list(callbacks))  # fmt: skip

    return make


def test_the_trained_model_is_the_average_by_hand(make_trainer):
    steps = Steps()
    trainer = make_trainer([steps])
    trainer.train()
    expected = steps.weights[0]
    for count, weights in enumerate(steps.weights[1:], start=1):
        factor = min(0.5, (1 + count) / (10 + count))
        expected = factor * expected + (1 - factor) * weights
    torch.testing.assert_close(trainer.model.head.weight.detach(), expected)
    assert not torch.equal(expected, steps.weights[-1])
    assert int(trainer.model.backbone.timm_model.bn1.num_batches_tracked) == 12  # two branches, six steps


def test_evaluation_during_training_sees_the_average_and_training_goes_on_from_the_weights(make_trainer):
    """Two runs, with and without evaluation in between, take the same steps."""
    weights, seen = [], []

    class Seen(TrainerCallback):
        def on_evaluate(self, args, state, control, model=None, **kwargs):
            seen.append(model.head.weight.detach().clone())

    for strategy in ("no", "steps"):
        steps = Steps()
        trainer = make_trainer([steps, Seen()], eval_strategy=strategy, eval_steps=3)
        trainer.train()
        weights.append(steps.weights)
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    assert len(seen) == 2 and not torch.equal(seen[0], weights[1][2])
    torch.testing.assert_close(seen[1], trainer.model.head.weight.detach())


def test_a_checkpoint_without_average_is_refused(make_trainer, tiny_model, tmp_path):
    with pytest.raises(FileNotFoundError, match="of a run without ema_decay"):
        WeightAverage(tiny_model(), 0.9).load(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ema_decay": 1.0}, r"\[0, 1\)"),
        ({"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}, "exclude each other"),
    ],
)
def test_arguments(wrong, message, make_trainer):
    with pytest.raises(ValueError, match=message):
        make_trainer(**wrong)
