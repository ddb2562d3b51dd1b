"""Every configuration is read, and says what the paper says."""

from pathlib import Path

import pytest

from msl_hf.runs.arguments import parse_arguments

CONFIGS = sorted((Path(__file__).parents[2] / "recipes" / "configs").glob("*.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_config_is_understood(config):
    arguments = parse_arguments(["--config", str(config), "--output_dir", "out", "--use_cpu", "true"], "")[0]
    assert arguments.model.backbone and arguments.given["head"] == "csra"


@pytest.mark.parametrize("name", ["voc_resnet101", "voc_msl_c", "voc_msl_v"])
def test_settings_of_the_paper(name):
    (config,) = (path for path in CONFIGS if path.stem == name)
    arguments = parse_arguments(["--config", str(config), "--output_dir", "out", "--use_cpu", "true"], "")[0]
    training = arguments.training
    assert (training.optim, training.optim_args) == ("sgd", "momentum=0.9")
    assert (training.learning_rate, training.weight_decay, training.head_lr_multiplier) == (0.01, 1e-4, 10)
    assert (training.num_train_epochs, training.per_device_train_batch_size) == (60, 6)
    assert (training.lr_warmup_epochs, training.lr_step_epochs, training.max_grad_norm) == (2, 4, 0)
    assert training.loss_weights == [0.3, 0.2, 0.5] and training.decay_norm_and_bias and not training.bf16
    assert arguments.model.csra_lambda == (0.3 if name == "voc_msl_v" else 0.1)
    assert arguments.data.selection_split == "none"
