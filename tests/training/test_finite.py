"""No step waits for the device, and yet nothing that is no number is written or averaged away."""

import math
from pathlib import Path

import pytest
import torch
from tiny import BANK, Images
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from msl_hf import MSLTrainer, MSLTrainingArguments
from msl_hf.training.finite import FiniteCheck, check_finite_weights


class HostWaits(TorchDispatchMode):
    """Counts what makes the host wait for the value of a tensor; it needs no accelerator."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function._schema.name
        chooses = name == "aten::index" and any(
            index is not None and index.dtype == torch.bool for index in arguments[1]
        )
        if chooses or name in ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero"):
            self.found.append(name)
        return function(*arguments, **(keywords or {}))


def test_the_count_sees_what_waits():
    with HostWaits() as waits:
        value = torch.ones(2)
        value.sum().item()
        bool(value[0])
        value[value > 0]
    assert len(waits.found) == 3


class Watched(MSLTrainer):
    def training_step(self, *arguments, **keywords):
        if self.state.global_step == 0:  # the first one looks at the targets
            return super().training_step(*arguments, **keywords)
        with HostWaits() as waits:
            try:
                return super().training_step(*arguments, **keywords)
            finally:
                self.waits.extend(waits.found)


def make(model, folder, count=16, trainer=Watched, **settings):
    settings = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "max_steps": 3,
                "per_device_train_batch_size": 4, "mask_fill": "zero", "logging_steps": 100, **settings}  # fmt: skip
    made = trainer(model=model, args=MSLTrainingArguments(str(folder), **settings), masks=BANK,
                   train_dataset=Images(count))  # fmt: skip
    made.waits = []
    return made


@pytest.mark.parametrize(
    ("network", "settings"),
    [
        ("timm_resnet", {"loss_weights": [1, 0, 0]}),
        ("timm_resnet", {"loss_weights": [0.3, 0.2, 0.5]}),
        ("timm_resnet", {"loss_weights": [1, 0, 0], "mask_augmentation": 0.5}),
        ("timm_resnet", {"masked_forward": "sequential"}),
        ("timm_resnet", {"masked_share": 0.5}),
        ("timm_resnet", {"masked_share": 0.5, "mask_fill": "image"}),
        ("timm_resnet", {"classification_loss": "ll_r"}),
        ("timm_vit", {"masked_forward": "joint", "classification_loss": "asl"}),
        ("timm_vit", {"masked_forward": "visible"}),
        ("hf_vit", {"classification_loss": "splc"}),
        ("timm_swin", {}),
        ("hf_convnext", {"bf16": True}),
    ],
)  # fmt: skip
def test_no_step_waits_for_the_device(network, settings, tiny_model, tmp_path):
    trainer = make(tiny_model(network), tmp_path, **settings)
    trainer.train()
    assert trainer.waits == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("masked_forward", ["auto", "sequential", "visible"])
def test_no_step_waits_for_a_gpu(masked_forward, tiny_model, tmp_path):
    class OnGPU(MSLTrainer):
        def training_step(self, *arguments, **keywords):
            torch.cuda.set_sync_debug_mode("error" if self.state.global_step else "default")
            try:
                return super().training_step(*arguments, **keywords)
            finally:
                torch.cuda.set_sync_debug_mode("default")

    make(tiny_model("timm_vit"), tmp_path, trainer=OnGPU, use_cpu=False, masked_forward=masked_forward).train()


def test_averaging_weights_does_not_wait(tiny_model, tmp_path):
    trainer = make(tiny_model(), tmp_path, ema_decay=0.9)
    trainer.train()
    average = trainer.weight_average
    with HostWaits() as waits:
        average.on_step_end(None, None, None)
    assert waits.found == [] and average.count == 4


def test_the_average_is_that_of_its_formula(tiny_model, tmp_path):
    """Weights 0, 1, 2, 3 after four steps, at decay 0.5: 0; then factors 2/11, 3/12, 4/13 on the average."""
    trainer = make(tiny_model(), tmp_path, ema_decay=0.5)
    average = trainer.weight_average
    expected = 0.0
    for step in range(4):
        with torch.no_grad():
            trainer.model.head.weight.fill_(step)
        average.on_step_end(None, None, None)
        factor = 0.0 if step == 0 else (1 + step) / (10 + step)
        expected = factor * expected + (1 - factor) * step
    torch.testing.assert_close(average.averaged.head.weight, torch.full_like(average.averaged.head.weight, expected))


def batch_losses(value: float) -> dict[str, torch.Tensor]:
    return {"loss": torch.tensor(value), "recognition": torch.tensor(2 * value)}


def test_the_first_bad_batch_is_named():
    check, labels = FiniteCheck(), torch.tensor([[0.0, 1.0, -100.0]])
    for step, value in enumerate([1.0, 2.0, math.inf, math.nan, 3.0]):
        check.note(batch_losses(value), labels, step, [f"photo {step}"])
    with pytest.raises(FloatingPointError, match=r"step 2 \(loss inf, recognition inf\) on the images photo 2$"):
        check.read()
    check.read()  # forgotten
    check.note(batch_losses(1.0), labels, 5, [])
    check.read()


def test_wrong_targets_of_any_batch_are_named():
    check = FiniteCheck()
    check.note(batch_losses(1.0), torch.tensor([[0.0, 1.0]]), 0, ["a"])
    check.note(batch_losses(1.0), torch.tensor([[0.0, 2.0]]), 1, ["b"])
    with pytest.raises(ValueError, match="targets of step 1 on the images b are not all in"):
        check.read()


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr("msl_hf.training.finite.MOST_STEPS", 3)
    check = FiniteCheck()
    with pytest.raises(FloatingPointError, match="step 1 "):
        for step in range(10):
            check.note(batch_losses(math.nan if step == 1 else 1.0), torch.ones(1, 1), step, [])


def test_weights_and_statistics_have_to_be_numbers():
    norm = torch.nn.BatchNorm1d(2)
    check_finite_weights([*norm.named_parameters(), *norm.named_buffers()])
    norm.running_var[1] = math.inf
    with pytest.raises(FloatingPointError, match="running_var the first of them"):
        check_finite_weights([*norm.named_parameters(), *norm.named_buffers()])


class Poison(TrainerCallback):
    """Makes a weight NaN after the second step."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == 2:
            with torch.no_grad():
                model.head.weight[0, 0, 0] = math.nan


@pytest.mark.parametrize("saved_at", [2, 3])
def test_a_checkpoint_that_is_no_numbers_is_never_written(saved_at, tiny_model, tmp_path):
    """At step 2 the loss was still a number; at step 3 it was not, and no log line was due."""
    trainer = make(tiny_model(), tmp_path, max_steps=6, save_strategy="steps", save_steps=saved_at)
    trainer.add_callback(Poison())
    with pytest.raises(FloatingPointError, match="not finite"):
        trainer.train()
    assert not list(Path(tmp_path).glob("checkpoint-*"))


def test_the_end_of_a_run_is_looked_at(tiny_model, tmp_path):
    trainer = make(tiny_model(), tmp_path, max_steps=4)
    trainer.add_callback(Poison())
    with pytest.raises(FloatingPointError, match="the loss is not finite at step 2 "):
        trainer.train()


def test_an_evaluation_of_what_is_no_numbers_is_not_begun(tiny_model, tmp_path):
    evaluated = []

    class Evaluates(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_evaluate = state.global_step == 3

    trainer = make(tiny_model(), tmp_path, max_steps=4)
    trainer.eval_dataset = Images(4)
    trainer.compute_metrics = lambda prediction: evaluated.append(prediction) or {}
    for callback in (Poison(), Evaluates()):
        trainer.add_callback(callback)
    with pytest.raises(FloatingPointError, match="the loss is not finite at step 2 "):
        trainer.train()
    assert evaluated == []
