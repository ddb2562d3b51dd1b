"""How images come to the device: in uint8, read by as many processes as suit it."""

import pytest
import torch
from tiny import BANK, Images

from msl_hf import MSLTrainer, MSLTrainingArguments
from msl_hf.data import build_processor


class Pixels(Images):
    """Random images in uint8, or the same normalised as the processor does."""

    def __init__(self, count: int, processor=None):
        super().__init__(count)
        self.images = torch.randint(256, self.images.shape, generator=torch.Generator().manual_seed(1))
        self.images = self.images.to(torch.uint8)
        if processor is not None:
            mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
            self.images = (self.images / 255 - mean) / std


PROCESSOR = build_processor(None, 32)


def make(model, folder, train_dataset, processor=PROCESSOR, **settings):
    settings = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "max_steps": 3,
                "per_device_train_batch_size": 4, "logging_steps": 1, **settings}  # fmt: skip
    return MSLTrainer(model=model, args=MSLTrainingArguments(str(folder), **settings), masks=BANK,
                      train_dataset=train_dataset, processing_class=processor)  # fmt: skip


def test_uint8_trains_evaluates_and_predicts_as_floats_do(tiny_model, tmp_path):
    found = []
    for data in (Pixels(12), Pixels(12, PROCESSOR)):
        trainer = make(tiny_model(), tmp_path, data)
        trainer.train()
        losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
        unlabelled = [{"pixel_values": image} for image in data.images]
        found.append((losses, trainer.evaluate(data)["eval_loss"], trainer.predict(unlabelled).predictions))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5) and found[0][1] == pytest.approx(found[1][1], rel=1e-5)
    torch.testing.assert_close(*(torch.tensor(predictions) for *_, predictions in found), atol=1e-4, rtol=1e-4)


def test_uint8_without_a_processor_is_refused(tiny_model, tmp_path):
    trainer = make(tiny_model(), tmp_path, Pixels(12), None, mask_fill="zero")
    with pytest.raises(ValueError, match="pass the image processor"):
        trainer.train()


def test_workers_follow_the_device_and_flags_win(monkeypatch):
    monkeypatch.setattr("msl_hf.training.arguments.default_workers", lambda has_accelerator: 5 * has_accelerator)
    monkeypatch.setattr("torch.accelerator.is_available", lambda *_: True)
    for settings, workers, stay in (
        ({"use_cpu": True}, 0, False),
        ({"use_cpu": True, "dataloader_num_workers": 2}, 2, True),
        ({"use_cpu": True, "dataloader_num_workers": 2, "dataloader_persistent_workers": False}, 2, False),
    ):
        arguments = MSLTrainingArguments("unused", **settings)
        assert (arguments.dataloader_num_workers, arguments.dataloader_persistent_workers) == (workers, stay)
    given: list[bool] = []
    monkeypatch.setattr("msl_hf.training.arguments.default_workers", lambda has: given.append(has) or 0)
    MSLTrainingArguments("unused", use_cpu=True)
    monkeypatch.setattr("transformers.TrainingArguments.__post_init__", lambda self: None)  # without the device
    MSLTrainingArguments("unused")
    assert given == [False, True]


def test_another_evaluation_set_is_really_evaluated(tiny_model, tmp_path):
    """Workers that stay would go on with the images of before."""
    trainer = make(tiny_model(), tmp_path, Images(8), dataloader_num_workers=1, dataloader_persistent_workers=True)
    first, second = ([{**Images(8)[index], "labels": labels} for index in range(8)]
                     for labels in (torch.zeros(3), torch.ones(3)))  # fmt: skip
    losses = [trainer.evaluate(data)["eval_loss"] for data in (first, second, first)]
    assert losses[0] == losses[2] != losses[1]
