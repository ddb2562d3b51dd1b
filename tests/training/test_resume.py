"""A run that is killed and resumed ends as the run that was not."""

import pytest
import torch
from transformers import TrainerCallback

from msl_hf import MaskBank, MSLTrainer, MSLTrainingArguments
from msl_hf.data import ImageDataset, MultiLabelCollator, build_processor, load_voc
from msl_hf.data.transforms import StreamedImages


class Kill(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name",
    ["timm_resnet", "timm_vit_with_dropout", "timm_resnet_averaged", "timm_vit_low_rank", "timm_resnet_low_rank"],
)
def test_resumed_run_equals_the_uninterrupted_one(name, workers, tiny_model, scenes, tmp_path):
    data = load_voc(scenes)["train"]
    processor = build_processor(None, 32)

    def make(folder: str, **kwargs) -> MSLTrainer:
        model = tiny_model(
            name.removesuffix("_with_dropout").removesuffix("_averaged").removesuffix("_low_rank"),
            label_names=data.features["labels"].feature.names,
        )
        if name.endswith("_with_dropout"):
            for block in model.backbone.timm_model.blocks:
                block.mlp.drop1 = torch.nn.Dropout(0.3)
        args = MSLTrainingArguments(
            str(tmp_path / folder), use_cpu=True, disable_tqdm=True, num_train_epochs=3, save_strategy="steps",
            save_steps=2, per_device_train_batch_size=4, dataloader_num_workers=workers, seed=1, logging_steps=1,
            dataloader_persistent_workers=workers > 0, ema_decay=0.9 * name.endswith("_averaged"),
            lora_rank=2 * name.endswith("_low_rank"),
        )  # fmt: skip
        return MSLTrainer(
            model=model,
            args=args,
            masks=MaskBank(torch.rand(6, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.5),
            processing_class=processor,
            train_dataset=ImageDataset(data, processor, augment=True, seed=1),
            data_collator=MultiLabelCollator(10),
            **kwargs,
        )

    whole = make("whole")
    whole.train()
    assert whole.state.global_step == 18
    with pytest.raises(KeyboardInterrupt):
        make("killed", callbacks=[Kill(11)]).train()  # within the second epoch, after the checkpoint of step 10
    resumed = make("killed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "killed" / "checkpoint-10"))
    expected = whole.model.state_dict()
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[key]), key
    losses = [[log["loss"] for log in trainer.state.log_history if "loss" in log] for trainer in (whole, resumed)]
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_goes_on_where_it_was(workers, tiny_model, scenes, tmp_path):
    """24 images in batches of 4 are 6 a pass: resumed within the second and the third pass, and at the end of one."""
    data = load_voc(scenes)["train"]
    processor = build_processor(None, 32)

    def make(folder: str) -> MSLTrainer:
        args = MSLTrainingArguments(
            str(tmp_path / folder), use_cpu=True, disable_tqdm=True, max_steps=10, save_strategy="steps", save_steps=1,
            per_device_train_batch_size=4, gradient_accumulation_steps=2, dataloader_num_workers=workers, seed=1,
            logging_steps=1, save_total_limit=None,
        )  # fmt: skip
        return MSLTrainer(
            model=tiny_model(label_names=data.features["labels"].feature.names),
            args=args,
            masks=MaskBank.patches(),
            processing_class=processor,
            train_dataset=StreamedImages(data.to_iterable_dataset(4), processor, augment=True, shuffle_buffer=5),
            data_collator=MultiLabelCollator(10),
        )

    whole = make("whole")
    whole.train()
    assert whole.state.global_step == 10
    expected = whole.model.state_dict()
    for step in (5, 6, 7):
        resumed = make("resumed")
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        losses = [[log["loss"] for log in trainer.state.log_history if "loss" in log] for trainer in (whole, resumed)]
        assert losses[0] == losses[1]
        assert all(torch.equal(value, expected[key]) for key, value in resumed.model.state_dict().items())
