import dataclasses
import weakref

import pytest
import torch
from timm.layers import convert_sync_batchnorm
from tiny import BACKBONES, BANK, Images
from transformers import AutoModelForImageClassification, Trainer, TrainerCallback, TrainingArguments

from msl_hf import MaskBank, MSLTrainer, MSLTrainingArguments
from msl_hf.data import MultiLabelCollator, build_processor
from msl_hf.evaluation.metrics import metrics_from_logits
from msl_hf.training.arguments import REFUSED
from msl_hf.training.trainer import joint_equals_separate

ONE_MASK = MaskBank(torch.eye(32, dtype=torch.bool)[None] | torch.eye(32, dtype=torch.bool).flip(0)[None])


@pytest.fixture
def make_trainer(tiny_model, tmp_path):
    def make(model="timm_resnet", count=16, trainer=MSLTrainer, masks=BANK, callbacks=(), **arguments):
        if isinstance(model, str):
            model = tiny_model(model)
        settings = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no",
                    "per_device_train_batch_size": 8, "max_steps": 2, "logging_steps": 1, "seed": 5,
                    "mask_fill": "zero"}  # fmt: skip
        args = MSLTrainingArguments(str(tmp_path / "run"), **{**settings, **arguments})
        more = {"masks": masks} if trainer is MSLTrainer else {}
        return trainer(model=model, args=args, train_dataset=Images(count), callbacks=list(callbacks), **more)

    return make


def weights(model) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters() if parameter.requires_grad])


def count_forwards(model) -> list[torch.Tensor]:
    inputs: list[torch.Tensor] = []
    model.backbone.register_forward_pre_hook(lambda module, args, kwargs: inputs.append(args[0]), with_kwargs=True)
    return inputs


def test_plain_weights_train_exactly_as_trainer_does(make_trainer, tiny_model):
    """(1, 0, 0): one forward a step, the same weights and the same BatchNorm buffers as a plain `Trainer`."""
    states = []
    for trainer_class in (Trainer, MSLTrainer):
        model = tiny_model()
        forwards = count_forwards(model)
        trainer = make_trainer(model, trainer=trainer_class, loss_weights=[1, 0, 0], head_lr_multiplier=1,
                               weight_decay=0.0, channels_last=False, max_steps=3)  # fmt: skip
        trainer.train()
        assert len(forwards) == 3
        states.append(model.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_masked_branch_runs_on_masked_images(make_trainer, tiny_model):
    model = tiny_model()
    forwards = count_forwards(model)
    make_trainer(model, max_steps=1).train()
    assert len(forwards) == 2
    image, masked = forwards
    removed = (masked == 0).all(dim=1)
    assert 0.3 < removed.float().mean() < 0.7
    assert torch.equal(masked, image * ~removed.unsqueeze(1))


@pytest.mark.parametrize("name", BACKBONES)
def test_every_trainable_parameter_changes_in_one_step(name, make_trainer, tiny_model):
    model = tiny_model(name)
    before = {n: p.clone() for n, p in model.named_parameters()}
    trainer = make_trainer(model, max_steps=1, warmup_steps=0)
    trainer.train()
    for n, p in model.named_parameters():
        assert torch.equal(p, before[n]) != p.requires_grad, n
    names = [log.keys() for log in trainer.state.log_history if "loss" in log][0]
    assert {"loss_recognition", "loss_masked", "loss_consistency"} <= names


def test_components_are_logged_as_running_means(make_trainer):
    trainer = make_trainer(max_steps=4, logging_steps=2, loss_weights=[0.3, 0.2, 0.5])
    seen = []
    forward = trainer.loss.forward
    trainer.loss.forward = lambda *args: seen.append(forward(*args)) or seen[-1]
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    for number, log in enumerate(logs):
        pair = seen[2 * number : 2 * number + 2]
        for name in ("recognition", "masked", "consistency"):
            assert log[f"loss_{name}"] == pytest.approx(sum(s[name].item() for s in pair) / 2, rel=1e-5)
        total = 0.3 * log["loss_recognition"] + 0.2 * log["loss_masked"] + 0.5 * log["loss_consistency"]
        assert log["loss"] == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("loss_weights", [[1, 0, 0], [0.3, 0.2, 0.5]])
def test_accumulation_changes_nothing(loss_weights, make_trainer):
    """One batch of 8 and four of 2 give the same loss and the same step (no BatchNorm, every image the same mask)."""
    results = []
    for batch, steps in ((8, 1), (2, 4)):
        trainer = make_trainer("timm_vit", masks=ONE_MASK, loss_weights=loss_weights, optim="sgd", learning_rate=0.1,
                               per_device_train_batch_size=batch, gradient_accumulation_steps=steps, max_steps=2,
                               lr_scheduler_type="constant")  # fmt: skip
        trainer.train()
        results.append(([log["loss"] for log in trainer.state.log_history if "loss" in log], weights(trainer.model)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    torch.testing.assert_close(results[0][1], results[1][1], atol=1e-6, rtol=1e-5)


def test_every_micro_step_draws_other_masks(make_trainer):
    trainer = make_trainer(gradient_accumulation_steps=2, per_device_train_batch_size=4, max_steps=2)
    drawn = []
    sample = trainer.masks.sample
    trainer.masks = type("Spy", (), {"sample": lambda self, *a: drawn.append(sample(*a)) or drawn[-1]})()
    trainer.train()
    assert len({mask.numpy().tobytes() for mask in drawn}) == 4


@pytest.mark.parametrize("name", ["timm_vit", "timm_swin", "timm_convnext", "hf_vit", "hf_dinov2", "hf_convnext"])
def test_joint_forward_equals_separate_ones(name, make_trainer, tiny_model):
    gradients = {}
    for mode in ("joint", "separate", "auto"):
        model = tiny_model(name)
        trainer = make_trainer(model, masked_forward=mode)
        batch = torch.utils.data.default_collate([Images(8)[index] for index in range(8)])
        model.train()
        trainer._micro_step = (0, 0)
        forwards = count_forwards(model)
        trainer.compute_loss(model, batch).backward()
        gradients[mode] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        assert len(forwards) == (2 if mode == "separate" else 1)
    torch.testing.assert_close(gradients["joint"], gradients["separate"], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["timm_resnet", "timm_vit"])
@pytest.mark.parametrize("steps", [1, 2])
def test_sequential_branches_train_as_separate_ones(name, steps, make_trainer, tiny_model):
    """Weights and running statistics after two steps, with one forward more and never two graphs; in float64."""
    results = []
    for mode in ("separate", "sequential"):
        trainer = make_trainer(
            tiny_model(name).double(), masked_forward=mode, optim="sgd", learning_rate=0.1,
            lr_scheduler_type="constant", per_device_train_batch_size=8 // steps, gradient_accumulation_steps=steps,
        )  # fmt: skip
        collate = trainer.data_collator
        trainer.data_collator = lambda items, collate=collate: {k: v.double() for k, v in collate(items).items()}
        forwards = count_forwards(trainer.model)
        trainer.train()
        logs = [{key: log[key] for key in ("loss", "loss_recognition", "loss_masked", "loss_consistency")}
                for log in trainer.state.log_history if "loss" in log]  # fmt: skip
        buffers = [buffer.clone().float() for buffer in trainer.model.buffers()]
        results.append((weights(trainer.model), buffers, logs))
        assert len(forwards) == 2 * steps * (2 if mode == "separate" else 3)
    (expected, buffers, logs), (found, own_buffers, own_logs) = results
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(own_buffers, buffers, atol=1e-6, rtol=1e-5)
    assert all(own == pytest.approx(log, rel=1e-5) for own, log in zip(own_logs, logs, strict=True))


def test_batchnorm_and_dropout_call_for_separate_forwards(tiny_model, backbone_folder):
    assert not joint_equals_separate(tiny_model("timm_resnet"))
    assert not joint_equals_separate(tiny_model("hf_resnet"))
    model = tiny_model("hf_resnet")
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert joint_equals_separate(model, frozen=norms) and not joint_equals_separate(model, frozen=norms[1:])
    model = tiny_model("hf_vit")
    assert joint_equals_separate(model)
    model.config.backbone_config.attention_probs_dropout_prob = 0.1
    assert not joint_equals_separate(model)
    model = tiny_model("timm_vit")
    assert joint_equals_separate(model)
    model.backbone.timm_model.blocks[0].attn_drop = torch.nn.Dropout(0.1)
    assert not joint_equals_separate(model)


def learn_statistics(model) -> list[torch.nn.Module]:
    """Give batch normalisation statistics as pretraining leaves them; the layers."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 2)
    return norms


def test_statistics_are_frozen_where_they_were_learnt(make_trainer, tiny_model):
    model = tiny_model("timm_resnet")
    assert make_trainer(model).frozen_batch_norms == []  # random weights have none yet
    norms = learn_statistics(model)
    assert make_trainer(model).frozen_batch_norms == norms and make_trainer(model).joint_forward
    assert make_trainer(model, freeze_batch_norm=False).frozen_batch_norms == []
    norms[0].reset_running_stats()  # a fresh layer beside pretrained ones learns its own
    trainer = make_trainer(model)
    assert trainer.frozen_batch_norms == norms[1:] and not trainer.joint_forward
    before = norms[0].running_mean.clone(), norms[1].running_mean.clone()
    trainer.train()
    assert not torch.equal(norms[0].running_mean, before[0]) and torch.equal(norms[1].running_mean, before[1])


def test_statistics_that_the_run_itself_has_learnt_are_not_frozen_on_resuming(make_trainer, tmp_path):
    whole = make_trainer(save_strategy="steps", save_steps=2, max_steps=4)
    whole.train()
    resumed = make_trainer(max_steps=4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert resumed.frozen_batch_norms == [] and torch.equal(weights(resumed.model), weights(whole.model))


@pytest.mark.parametrize("name", ["timm_resnet", "hf_resnet"])
def test_frozen_batch_norm_keeps_statistics_and_trains_the_rest(name, make_trainer, tiny_model):
    """Scale and shift learn, running statistics stay, and one forward of both branches is what two are."""
    results = []
    for mode in ("auto", "separate"):
        model = tiny_model(name)
        batch_norms = [part for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)]
        before = {key: value.clone() for key, value in model.state_dict().items()}
        sums = [part.weight.sum().item() + part.bias.sum().item() for part in batch_norms]
        forwards = count_forwards(model)
        make_trainer(model, freeze_batch_norm=True, masked_forward=mode, bf16=False).train()
        assert len(forwards) == (2 if mode == "auto" else 4)
        statistics = [key for key in before if "running" in key or "num_batches" in key]
        assert len(statistics) == 3 * len(batch_norms) > 0
        assert all(torch.equal(before[key], model.state_dict()[key]) for key in statistics)
        after = [part.weight.sum().item() + part.bias.sum().item() for part in batch_norms]
        assert all(old != new for old, new in zip(sums, after, strict=True))
        results.append(weights(model))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)


def test_evaluation_scores_every_image_and_sees_no_masks(make_trainer, tiny_model):
    model = tiny_model()
    trainer = make_trainer(model, per_device_eval_batch_size=4, dataloader_drop_last=True)
    trainer.compute_metrics = metrics_from_logits
    data = Images(11)
    forwards = count_forwards(model)
    output = trainer.predict(data)
    assert output.predictions.shape == (11, 3)
    model.eval()
    torch.testing.assert_close(torch.tensor(output.predictions), model(data.images).logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.cat(forwards[:3]), data.images)
    # `Trainer` averages the loss over batches by their sizes only roughly; the plain loss is bounded by the parts.
    assert trainer.evaluate(data)["eval_loss"] == pytest.approx(
        torch.nn.functional.binary_cross_entropy_with_logits(model(data.images).logits, data.labels).item(), rel=0.1
    )
    assert len(trainer.get_train_dataloader()) == 2  # 16 images, batches of 8: nothing is dropped here
    trainer.train_dataset = Images(15)
    assert len(trainer.get_train_dataloader()) == 1


def test_ignored_labels_count_in_no_metric_of_the_evaluation(make_trainer):
    trainer = make_trainer()
    trainer.eval_data_collator = lambda items: {
        **torch.utils.data.default_collate(items),
        "labels": torch.full((len(items), 3), -100.0).index_fill(1, torch.tensor([0]), 1.0),
    }
    output = trainer.predict(Images(5))
    assert (output.label_ids[:, 1:] == -100).all() and (output.label_ids[:, 0] == 1).all()


def test_head_learns_at_ten_times_the_rate_and_decay_spares_biases(make_trainer):
    trainer = make_trainer()
    trainer.create_optimizer()
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    seen = {}
    for group in trainer.optimizer.param_groups:
        for parameter in group["params"]:
            seen[names[parameter]] = (group["lr"], group["weight_decay"])
    assert seen.keys() == {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    for name, (rate, decay) in seen.items():
        assert rate == pytest.approx(3e-3 if name.startswith("head.") else 3e-4)
        assert decay == (0.02 if trainer.model.get_parameter(name).ndim > 1 else 0.0)


def test_paper_settings_decay_everything_and_step(make_trainer):
    trainer = make_trainer(optim="sgd", optim_args="momentum=0.9", learning_rate=0.01, weight_decay=1e-4,
                           decay_norm_and_bias=True, lr_step_epochs=4, max_steps=-1, num_train_epochs=6)  # fmt: skip
    trainer.train()
    groups = trainer.optimizer.param_groups
    assert {group["weight_decay"] for group in groups} == {1e-4} and {group["momentum"] for group in groups} == {0.9}
    rates = [log["learning_rate"] for log in trainer.state.log_history if "learning_rate" in log]
    # Two steps an epoch: a warm-up of four, peak until epoch 4, then a tenth.
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01, 0.01, 0.01, 1e-3, 1e-3, 1e-3, 1e-3])


def test_black_needs_a_processor_and_says_so(make_trainer, tiny_model, tmp_path):
    with pytest.raises(ValueError, match="processing_class.*mask_fill='zero'"):
        make_trainer(mask_fill="black")
    args = MSLTrainingArguments(str(tmp_path), use_cpu=True, save_strategy="no")
    processor = build_processor(None, 32, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.5, 0.5])
    trainer = MSLTrainer(model=tiny_model(), args=args, masks=BANK, processing_class=processor)
    assert list(trainer.image_mean) == [0.1, 0.2, 0.3]


def test_mask_augmentation_masks_a_share_of_the_images_of_one_forward(make_trainer, tiny_model):
    """Every image is whole or masked by a mask of the bank, half of them each, one forward a step; repeatable."""
    seen = []
    for _ in range(2):
        model = tiny_model()
        inputs = count_forwards(model)
        make_trainer(model, masks=ONE_MASK, loss_weights=[1, 0, 0], mask_augmentation=0.5, max_steps=8, count=64,
                     learning_rate=0.0, channels_last=False).train()  # fmt: skip
        seen.append(torch.cat(inputs))
    assert torch.equal(*seen) and len(seen[0]) == 64
    masked = torch.stack([(image[:, ~ONE_MASK[0]] == 0).all() for image in seen[0]])
    assert 16 < masked.sum() < 48 and (seen[0][~masked] != 0).all()
    with pytest.raises(ValueError, match="loss_weights to 1 0 0"):
        make_trainer(mask_augmentation=0.5)


def test_default_bank_is_generated(make_trainer):
    bank = make_trainer(masks=None).masks
    assert len(bank) == 1000 and 0.5 <= bank.hole_ratios.min() and bank.hole_ratios.max() <= 0.6
    assert make_trainer(masks=None, loss_weights=[1, 0, 0]).masks is None


def test_non_finite_loss_stops_with_the_step(make_trainer):
    class Poison(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 2:
                with torch.no_grad():
                    model.head.weight.fill_(float("nan"))

    trainer = make_trainer(max_steps=6, count=64, callbacks=[Poison()])
    with pytest.raises(FloatingPointError, match="not finite at step 2.*recognition nan"):
        trainer.train()
    assert trainer.state.global_step == 3  # where the next log line was due


def test_non_finite_loss_names_images_and_checkpoint(make_trainer, tmp_path):
    """Through the collator of the package, whose batches say which images they hold."""
    items = [{"pixel_values": torch.randn(3, 32, 32), "labels": [0], "image_id": f"photo {i}"} for i in range(8)]
    items[5]["pixel_values"] = torch.full((3, 32, 32), float("inf"))
    trainer = make_trainer(loss_weights=[1, 0, 0], max_steps=3, save_strategy="steps", save_steps=1)
    trainer.data_collator, good = MultiLabelCollator(3), trainer.train_dataset
    rows = [{"pixel_values": good.images[i], "labels": [0], "image_id": f"good {i}"} for i in range(8)]
    trainer.train_dataset = rows
    trainer.args.max_steps = 1
    trainer.train()
    trainer.train_dataset = items
    with pytest.raises(FloatingPointError, match=r"on the images .*photo 5.*the last one is .*checkpoint-1"):
        trainer.train()


def test_bfloat16_on_a_cpu_follows_float32(make_trainer, tiny_model):
    losses = []
    for bf16 in (False, True):
        trainer = make_trainer(tiny_model("timm_mobilenet", image_size=64), bf16=bf16, max_steps=4, count=32)
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert losses[1] == pytest.approx(losses[0], rel=0.05) and losses[1] != losses[0]


def test_it_learns(make_trainer):
    trainer = make_trainer("timm_vit", count=64, max_steps=60, learning_rate=3e-3)
    trainer.compute_metrics = metrics_from_logits
    before = trainer.predict(Images(64)).metrics["test_mAP"]
    trainer.train()
    assert trainer.predict(Images(64)).metrics["test_mAP"] > max(0.9, before + 0.1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"loss_weights": [1, 0]}, "three numbers"),
        ({"classification_loss": "hinge"}, "bce, asl"),
        ({"masked_forward": "twice"}, "auto, joint, separate"),
        ({"mask_fill": "white"}, "black, zero"),
        ({"mask_augmentation": 1.5}, "probability"),
        ({"freeze_batch_norm": True, "sync_batch_norm": True}, "exclude each other"),
    ],
)
def test_arguments_are_checked(wrong, message, make_trainer):
    with pytest.raises(ValueError, match=message):
        make_trainer(**wrong)


def test_synchronised_batch_norm(make_trainer, tiny_model, monkeypatch):
    """For one process nothing changes; for several on a CPU, where PyTorch has none, it is an error at the start."""
    make_trainer(sync_batch_norm=True).train()
    monkeypatch.setattr(MSLTrainingArguments, "world_size", property(lambda self: 2))
    with pytest.raises(ValueError, match="sync_batch_norm needs GPUs"):
        make_trainer(sync_batch_norm=True)
    for name in ("timm_mobilenet", "hf_resnet"):  # what is trained in this way loads everywhere
        model, images = tiny_model(name).eval(), torch.randn(2, 3, 32, 32)
        names, logits = list(model.state_dict()), model(images).logits
        converted = convert_sync_batchnorm(model)
        assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in converted.modules())
        assert not any(type(module) is torch.nn.BatchNorm2d for module in converted.modules())
        assert list(converted.state_dict()) == names
        torch.testing.assert_close(converted(images).logits, logits)


@pytest.mark.parametrize("value", [-1.0, float("nan"), 2.0])
@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_targets_that_are_none_are_refused_by_their_values(value, kind, make_trainer):
    trainer = make_trainer()

    class Wrong(Images):
        def __getitem__(self, index):
            item = super().__getitem__(index)
            item["labels"][1] = value
            return item

    with pytest.raises(ValueError, match=f"labels hold {value:g}: a target lies in .0, 1., and -100"):
        if kind == "evaluation":
            trainer.evaluate(Wrong(8))
        trainer.train_dataset = Wrong(16)
        trainer.train()
    assert trainer.state.global_step == 0


def test_the_loss_for_missing_labels_knows_the_epoch(make_trainer):
    trainer = make_trainer(max_steps=5, classification_loss="ll_r", loss_weights=[1, 0, 0])  # two steps an epoch
    loss, seen = trainer.loss.classification_loss, []
    forward = loss.forward
    loss.forward = lambda *args: (seen.append((loss.epoch, loss.training)), forward(*args))[1]
    trainer.train()
    assert seen == [(0, True), (0, True), (1, True), (1, True), (2, True)]
    trainer.evaluate(Images(8))
    assert seen[5:] == [(2, False)]


def test_fewer_images_than_a_batch_are_refused_before_anything_is_written(make_trainer, tmp_path):
    for length in ({"max_steps": 2}, {"max_steps": -1, "num_train_epochs": 2}):
        trainer = make_trainer(count=7, **length)
        with pytest.raises(ValueError, match="7 training images do not fill one batch of 8; .*drop_last false"):
            trainer.train()
        assert trainer.state.global_step == 0
    assert not list((tmp_path / "run").iterdir())
    trainer = make_trainer(count=7, dataloader_drop_last=False)
    trainer.train()
    assert trainer.state.global_step == 2


def rates(trainer) -> dict[str, float]:
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    return {names[p]: group["lr"] for group in trainer.create_optimizer().param_groups for p in group["params"]}


def test_the_optimizer_that_was_given_keeps_its_rate(tiny_model, tmp_path):
    args = MSLTrainingArguments(str(tmp_path), use_cpu=True, mask_fill="zero")
    chosen = (torch.optim.SGD, {"lr": 0.5, "momentum": 0.8})
    trainer = MSLTrainer(tiny_model(), args, BANK, train_dataset=Images(16), optimizer_cls_and_kwargs=chosen)
    assert {name.startswith("head."): rate for name, rate in rates(trainer).items()} == {False: 0.5, True: 5.0}
    assert {group["momentum"] for group in trainer.optimizer.param_groups} == {0.8}


@pytest.mark.slow
def test_a_compiled_model_keeps_the_rate_of_its_head(make_trainer, tiny_model, tmp_path):
    model = tiny_model()
    trainer = make_trainer(torch.compile(model, backend="eager"))
    found = {name.startswith("head."): rate for name, rate in rates(trainer).items()}
    assert found == {False: pytest.approx(3e-4), True: pytest.approx(3e-3)}
    before, graphs = weights(model), []
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    trainer = make_trainer(compiled, save_strategy="steps", save_steps=1, max_steps=2)
    trainer.train()
    assert graphs and not torch.equal(weights(model), before)
    resumed = make_trainer(torch.compile(tiny_model(), backend="eager"), max_steps=2)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    torch.testing.assert_close(weights(resumed.model), weights(model))
    trainer.save_model(str(tmp_path / "saved"))
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "saved")
    assert torch.equal(weights(saved), weights(model))


def test_a_loss_function_beside_the_loss_is_refused(tiny_model, tmp_path):
    args = MSLTrainingArguments(str(tmp_path), use_cpu=True, mask_fill="zero")
    with pytest.raises(ValueError, match="compute_loss_func would never be called"):
        MSLTrainer(tiny_model(), args, BANK, compute_loss_func=lambda *args, **kwargs: 0)


WORK = {  # of those that change the loss or the data, what this trainer does as `Trainer` does
    "per_device_train_batch_size", "num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type",
    "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio", "optim", "optim_args",
    "optim_target_modules", "weight_decay", "adam_beta1",
    "adam_beta2", "adam_epsilon", "gradient_accumulation_steps", "max_grad_norm", "bf16", "fp16", "bf16_full_eval",
    "fp16_full_eval", "tf32", "activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing",
    "gradient_checkpointing_kwargs", "torch_compile", "torch_compile_backend", "torch_compile_mode",
    "auto_find_batch_size", "logging_nan_inf_filter", "ignore_data_skip", "full_determinism", "seed", "data_seed",
    "accelerator_config", "parallelism_config", "dataloader_drop_last", "fsdp", "fsdp_config", "deepspeed",
    "load_best_model_at_end", "metric_for_best_model", "greater_is_better", "per_device_eval_batch_size",
    "prediction_loss_only", "eval_do_concat_batches", "batch_eval_metrics", "include_for_metrics", "eval_on_start",
}  # fmt: skip
NEITHER = {  # logging, saving, hardware, and words: no loss and no data
    "output_dir", "logging_dir", "use_cache", "torch_empty_cache_steps", "logging_strategy", "logging_steps",
    "logging_first_step",
    "log_on_each_node", "log_level", "log_level_replica", "disable_tqdm", "report_to", "run_name", "project",
    "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "eval_strategy", "eval_steps", "eval_delay",
    "eval_use_gather_object", "eval_accumulation_steps", "save_only_model", "save_strategy", "save_steps",
    "save_on_each_node", "save_total_limit", "enable_jit_checkpoint", "push_to_hub", "hub_token", "hub_private_repo",
    "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision", "restore_callback_states_from_checkpoint",
    "use_cpu", "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers",
    "dataloader_prefetch_factor", "dataloader_multiprocessing_context", "dataloader_in_order", "ddp_backend",
    "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph", "ddp_timeout",
    "debug", "skip_memory_metrics", "do_train", "do_eval", "do_predict", "resume_from_checkpoint", "local_rank",
    "average_tokens_across_devices", "length_column_name", "liger_kernel_config",  # without those that are refused
}  # fmt: skip


def test_every_setting_of_trainer_works_or_is_refused():
    """A setting that a later transformers adds has to be thought about."""
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert names - WORK - NEITHER - set(REFUSED) == set()
    assert not WORK & NEITHER and not (WORK | NEITHER) & set(REFUSED)


@pytest.mark.parametrize(
    ("name", "value"),
    [("label_smoothing_factor", 0.1), ("label_names", ["targets"]), ("neftune_noise_alpha", 5.0),
     ("use_liger_kernel", True), ("train_sampling_strategy", "group_by_length"), ("remove_unused_columns", True),
     ("include_num_input_tokens_seen", "all")],
)  # fmt: skip
def test_settings_without_effect_are_refused_by_name(name, value, tmp_path):
    with pytest.raises(ValueError, match=f"{name}=.* would have no effect here"):
        MSLTrainingArguments(str(tmp_path), **{name: value})


@pytest.mark.parametrize(
    "changed",
    [{"max_grad_norm": 1e-3}, {"adam_beta1": 0.5}, {"data_seed": 9}, {"train_sampling_strategy": "sequential"},
     {"lr_scheduler_type": "constant"}, {"weight_decay": 5.0}, {"gradient_accumulation_steps": 2}, {"seed": 6},
     {"optim": "adafactor"}],
    ids=lambda changed: next(iter(changed)),
)  # fmt: skip
def test_settings_of_trainer_change_the_weights(changed, make_trainer):
    results = []
    for settings in ({}, changed):
        trainer = make_trainer(**{"max_steps": 3, "optim": "adamw_torch", "warmup_steps": 0, **settings})
        trainer.train()
        results.append(weights(trainer.model))
    assert not torch.equal(*results)


def test_a_compiled_backbone_keeps_the_names_of_its_parameters(make_trainer, tiny_model, tmp_path):
    model = tiny_model()
    model.backbone = torch.compile(model.backbone, backend="eager")
    trainer = make_trainer(model)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "saved")
    assert torch.equal(weights(saved), weights(trainer.model)) and len(weights(saved)) == len(weights(tiny_model()))


@pytest.mark.parametrize(
    ("name", "value"),
    [("per_device_train_batch_size", 0), ("gradient_accumulation_steps", 0), ("lr_step_epochs", 0),
     ("dataloader_num_workers", -1), ("asl_gamma_neg", float("nan"))],
)  # fmt: skip
def test_numbers_below_their_least_are_refused(name, value, tmp_path):
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        MSLTrainingArguments(str(tmp_path), **{name: value})


def test_the_card_of_any_network(tmp_path):
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(3, 3)

        def forward(self, pixel_values, labels=None):
            return {"logits": self.head(pixel_values.mean(dim=(2, 3)))}

    args = MSLTrainingArguments(str(tmp_path / "run"), use_cpu=True, mask_fill="zero")
    MSLTrainer(Network(), args, BANK, train_dataset=Images(16)).create_model_card()
    assert "classifier (several classes) on a network" in (tmp_path / "run" / "README.md").read_text()


def test_a_trainer_is_gone_with_its_last_reference(make_trainer):
    """In a circle of references its loader's workers would be ended late, after five seconds of waiting for each."""
    trainer = weakref.ref(make_trainer(ema_decay=0.5))
    assert trainer() is None
