import optuna
import peft
import pytest
import torch
from safetensors.torch import save_file
from tiny import BANK, Images
from transformers import AutoModelForImageClassification, TrainerCallback

from msl_hf import MSLTrainer, MSLTrainingArguments
from msl_hf.training.adapters import is_head_parameter, merged
from msl_hf.training.callbacks import SaveBestModel
from msl_hf.training.trainer import check_weights


def arguments(tmp_path, **settings) -> MSLTrainingArguments:
    return MSLTrainingArguments(
        str(tmp_path / "run"), **{"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no",
        "per_device_train_batch_size": 8, "max_steps": 3, "seed": 5, "mask_fill": "zero", "lora_rank": 2, **settings},
    )  # fmt: skip


@pytest.mark.parametrize(
    "name", ["timm_vit", "timm_swin", "timm_resnet", "timm_mobilenet", "timm_convnext", "hf_vit", "hf_dinov2"]
)
@pytest.mark.parametrize("head", ["csra", "ml_decoder"])
def test_adapters_and_head_are_trained_and_nothing_else(name, head, tiny_model, tmp_path):
    model = tiny_model(name, head=head, image_size=64)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer = MSLTrainer(model, arguments(tmp_path), BANK, train_dataset=Images(16, 64))
    trainable = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or is_head_parameter(name) for name in trainable)
    assert sum(is_head_parameter(name) for name in trainable) == len(list(model.head.original_module.parameters()))
    rates = {}
    for group in trainer.create_optimizer().param_groups:
        rates.update(dict.fromkeys(group["params"], group["lr"]))
    for parameter_name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            assert rates[parameter] == pytest.approx(3e-3 if is_head_parameter(parameter_name) else 3e-4)
    trainer.optimizer = None
    start = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    for parameter_name, parameter in trainer.model.named_parameters():
        # Through a mobilenet of random weights hardly a gradient comes.
        is_moving = "lora_B" in parameter_name and name != "timm_mobilenet"
        if is_moving or (is_head_parameter(parameter_name) and parameter.requires_grad):
            assert not torch.equal(parameter, start[parameter_name]), parameter_name
    # Merged, the folder is a model like any other; only what has an adapter, and the head, differ from before.
    trainer.save_model(str(tmp_path / "saved"))
    assert not list((tmp_path / "saved").glob("adapter*"))
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "saved").eval()
    images = torch.randn(4, 3, 64, 64)
    torch.testing.assert_close(saved(images).logits, trainer.model.eval()(images).logits, atol=1e-4, rtol=1e-3)
    changed = {key for key, value in saved.state_dict().items() if not torch.equal(value, before[key])}
    with_adapters = (name for name, _ in trainer.model.named_parameters() if "lora_A" in name)
    adapted = {name.split(".lora_A")[0].removeprefix("base_model.model.") for name in with_adapters}
    changed = {key for key in changed if not key.startswith("head.")}
    adapted = {f"{name}.weight" for name in adapted}
    assert changed <= adapted and (changed == adapted or name == "timm_mobilenet")


def test_a_configuration_of_ones_own_and_adapters_alone(tiny_model, tmp_path):
    config = peft.LoraConfig(r=3, target_modules=["qkv"], modules_to_save=["head", "patch_embed"])
    trainer = MSLTrainer(tiny_model("timm_vit"), arguments(tmp_path, lora_rank=0), BANK, train_dataset=Images(16),
                         peft_config=config)  # fmt: skip
    trainer.train()
    assert config.modules_to_save == ["head", "patch_embed"]  # what was given is left alone
    trainer.save_adapter(tmp_path / "adapter")
    files = {file.name for file in (tmp_path / "adapter").iterdir()}
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files
    loaded = peft.PeftModel.from_pretrained(tiny_model("timm_vit"), tmp_path / "adapter").eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded(images).logits, trainer.model.eval()(images).logits)
    with pytest.raises(ValueError, match="peft_config and lora_rank exclude each other"):
        MSLTrainer(tiny_model("timm_vit"), arguments(tmp_path), BANK, peft_config=config)
    with pytest.raises(ValueError, match="no adapters to save"):
        MSLTrainer(tiny_model("timm_vit"), arguments(tmp_path, lora_rank=0), BANK).save_adapter(tmp_path / "none")


@pytest.mark.parametrize("targets", [None, ["q_proj"], []], ids=str)
def test_layers_that_could_be_adapted_are_named(targets, tiny_model, tmp_path):
    with pytest.raises(ValueError, match=r"could be adapted: .*timm_model\.blocks\.N\.attn\.qkv, .*mlp\.fc1"):
        MSLTrainer(tiny_model("timm_vit"), arguments(tmp_path, lora_rank=0), BANK,
                   peft_config=peft.LoraConfig(r=3, target_modules=targets))  # fmt: skip


def test_statistics_of_batch_normalisation_stay_and_the_best_model_is_merged(tiny_model, tmp_path):
    best = tmp_path / "best"
    best.mkdir()
    values = iter([0.1, 0.9, 0.2])
    trainer = MSLTrainer(
        tiny_model(), arguments(tmp_path, eval_strategy="steps", eval_steps=1), BANK, train_dataset=Images(16),
        eval_dataset=Images(16), compute_metrics=lambda prediction: {"mAP": next(values)},
        callbacks=[SaveBestModel(best)],
    )  # fmt: skip
    statistics = {key: value.clone() for key, value in trainer.model.named_buffers()}
    trainer.train()
    assert all(torch.equal(value, statistics[key]) for key, value in trainer.model.named_buffers())
    saved = AutoModelForImageClassification.from_pretrained(best)
    last = merged(trainer.model)
    assert saved.state_dict().keys() == last.state_dict().keys()
    assert not torch.equal(saved.head.weight, last.head.weight)  # of step 2 and of step 3


@pytest.mark.slow
def test_a_search_binds_to_the_model_of_each_trial(tiny_model, tmp_path):
    """Trial 2 keeps its running statistics, has its own loss weights, and the rate of its head."""
    seen = []

    class Look(TrainerCallback):
        def on_train_end(self, args, state, control, model=None, optimizer=None, **kwargs):
            rates = sorted({group["initial_lr"] for group in optimizer.param_groups})
            moved = [key for key, value in model.named_buffers() if not torch.equal(value, start[key])]
            seen.append((moved, list(trainer.loss.weights), rates, model))

    def make(trial):
        model = tiny_model()
        start.update({key: value.clone() for key, value in model.named_buffers()})
        return model

    start: dict[str, torch.Tensor] = {}
    settings = {"freeze_batch_norm": True, "lora_rank": 0, "ema_decay": 0.5}
    trainer = MSLTrainer(
        None, arguments(tmp_path, **settings), BANK, model_init=make, train_dataset=Images(16),
        eval_dataset=Images(16), callbacks=[Look()],
    )  # fmt: skip

    def space(trial):
        weight = trial.suggest_categorical("weight", [0.25, 0.75])
        return {"loss_weights": [weight, 1 - weight, 0.0], "learning_rate": 1e-3 if weight == 0.25 else 2e-3}

    sampler = optuna.samplers.GridSampler({"weight": [0.25, 0.75]})
    trainer.hyperparameter_search(space, n_trials=2, direction="minimize", backend="optuna", sampler=sampler)
    assert len(seen) == 2 and seen[0][3] is not seen[1][3]
    assert sorted(weights[0] for _, weights, *_ in seen) == [0.25, 0.75]
    for moved, weights, rates, _ in seen:
        assert moved == []
        assert rates == pytest.approx([1e-3, 1e-2] if weights[0] == 0.25 else [2e-3, 2e-2])


def test_visible_patches_of_a_model_that_is_made_later(tiny_model, tmp_path):
    settings = {"lora_rank": 0, "masked_forward": "visible"}
    trainer = MSLTrainer(None, arguments(tmp_path, **settings), BANK, model_init=lambda: tiny_model("timm_vit"),
                         train_dataset=Images(16))  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == 3
    with pytest.raises(ValueError, match="masked_forward='visible'"):
        MSLTrainer(None, arguments(tmp_path, **settings), BANK, model_init=lambda: tiny_model())


def test_an_optimizer_made_before_the_adapters_is_refused(tiny_model, tmp_path):
    model = tiny_model("timm_vit")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="knows nothing of the adapters"):
        MSLTrainer(model, arguments(tmp_path), BANK, optimizers=(optimizer, None))
    adapted = MSLTrainer(tiny_model("timm_vit"), arguments(tmp_path), BANK).model
    with pytest.raises(ValueError, match="the model has adapters already"):
        MSLTrainer(adapted, arguments(tmp_path), BANK)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"per_device_train_batch_size": 64}, "16 training images do not fill one batch of 64"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1 would have no effect"),
        ({"ema_decay": 2.0}, "ema_decay must lie in"),
        ({"masked_forward": "foo"}, "masked_forward must be one of"),
        ({"classification_loss": "foo"}, "classification_loss must be one of"),
        ({"mask_augmentation": 0.5}, "mask_augmentation replaces the masked branch"),
        ({"lora_rank": -2}, "lora_rank must be at least 0"),
    ],
)
def test_trials_are_checked_as_arguments_are(wrong, message, tiny_model, tmp_path):
    trainer = MSLTrainer(None, arguments(tmp_path, lora_rank=0), BANK, model_init=lambda: tiny_model("timm_vit"),
                         train_dataset=Images(16), eval_dataset=Images(16))  # fmt: skip
    with pytest.raises(ValueError, match=message):
        trainer.hyperparameter_search(lambda trial: wrong, n_trials=1, direction="minimize", backend="optuna")


@pytest.mark.slow
def test_the_rank_of_a_trial_is_that_of_its_adapters(tiny_model, tmp_path):
    ranks = []

    class Look(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            ranks.append((args.lora_rank, model.peft_config["default"].r))

    trainer = MSLTrainer(None, arguments(tmp_path, lora_rank=1), BANK, model_init=lambda: tiny_model("timm_vit"),
                         train_dataset=Images(16), eval_dataset=Images(16), callbacks=[Look()])  # fmt: skip
    sampler = optuna.samplers.GridSampler({"rank": [2, 3]})
    trainer.hyperparameter_search(lambda trial: {"lora_rank": trial.suggest_int("rank", 2, 3)}, n_trials=2,
                                  direction="minimize", backend="optuna", sampler=sampler)  # fmt: skip
    assert sorted(ranks) == [(2, 2), (3, 3)]


def test_checkpoints_of_another_kind_of_run_are_refused(tiny_model, tmp_path):
    saved = {"save_strategy": "steps", "save_steps": 3, "max_steps": 3}
    for rank in (0, 2):
        trainer = MSLTrainer(tiny_model("timm_vit"), arguments(tmp_path / str(rank), lora_rank=rank, **saved), BANK,
                             train_dataset=Images(16))  # fmt: skip
        trainer.train()
    for rank, other, message in ((0, 2, "holds adapters alone"), (2, 0, "holds no adapters")):
        trainer = MSLTrainer(
            tiny_model("timm_vit"), arguments(tmp_path, lora_rank=rank), BANK, train_dataset=Images(16)
        )
        with pytest.raises(ValueError, match=message):
            trainer.train(resume_from_checkpoint=str(tmp_path / str(other) / "run" / "checkpoint-3"))
    networks = (
        ("timm_resnet", {}, "is of another network, which has backbone"),
        ("timm_vit", {"head": "linear"}, "is of another network: head.weight has the shape"),
        ("timm_vit_pooled", {}, "is of another network"),
    )
    for name, network, message in networks:
        model = tiny_model(name, **network)
        trainer = MSLTrainer(model, arguments(tmp_path, lora_rank=0), BANK, train_dataset=Images(16))
        with pytest.raises(ValueError, match=message):
            trainer.train(resume_from_checkpoint=str(tmp_path / "0" / "run" / "checkpoint-3"))


def test_a_checkpoint_that_lacks_a_weight_is_refused(tiny_model, tmp_path):
    model = tiny_model()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    check_weights(tmp_path, model)
    del state["head.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="is of another network, which has no head.weight"):
        check_weights(tmp_path, model)
