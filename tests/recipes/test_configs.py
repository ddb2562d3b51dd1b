"""Every configuration is read, says what the paper says, and builds a network that takes a step."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet101

from msl_hf import MSLTrainer, apply_mask
from msl_hf.console.errors import RunError
from msl_hf.runs.arguments import parse_arguments
from msl_hf.runs.banks import load_masks
from msl_hf.runs.networks import load_model

CONFIGS = {path.stem: path for path in sorted((Path(__file__).parents[2] / "recipes" / "configs").glob("*.yaml"))}
PAPER = [name for name in CONFIGS if name.startswith(("voc_", "coco_", "wider_"))]
TRAINED = [name for name in CONFIGS if name not in ("paper", "plus", "reference")]
CLASSES = {"voc": 20, "coco": 80, "wider": 14}


def parse(name, *flags):
    return parse_arguments(["--config", str(CONFIGS[name]), "--output_dir", "out", "--use_cpu", "true", *flags], "")[0]


@pytest.mark.parametrize("name", TRAINED)
def test_config_is_understood(name):
    arguments = parse(name)
    assert arguments.model.backbone and arguments.given["hole_ratio"] == [0.5, 0.6]
    assert arguments.data.selection_split in ("none", "val")


@pytest.mark.parametrize("name", PAPER)
def test_settings_of_the_paper(name):
    arguments = parse(name)
    training, model = arguments.training, arguments.model
    dataset, *method, network = name.split("_")
    assert (training.optim, training.optim_args) == ("sgd", "momentum=0.9")
    assert (training.learning_rate, training.weight_decay, training.head_lr_multiplier) == (0.01, 1e-4, 10)
    assert (training.per_device_train_batch_size, training.lr_warmup_epochs, training.max_grad_norm) == (6, 2, 0)
    assert training.decay_norm_and_bias and not training.bf16
    assert training.lr_step_epochs == (4 if dataset == "voc" else 5)
    vit_of_coco = dataset == "coco" and network == "v"
    assert training.num_train_epochs == (40 if dataset == "wider" or vit_of_coco else 60)
    assert training.loss_weights == ([0.3, 0.2, 0.5] if "msl" in method or network == "resnet101" else [1, 0, 0])
    assert model.head == ("linear" if "linear" in method else "csra")
    heads = {"voc_c": (1, 0.1), "voc_v": (1, 0.3), "voc_resnet101": (1, 0.1), "coco_c": (6, 0.4), "coco_v": (8, 1.0),
             "coco_resnet101": (4, 0.5), "wider_b": (1, 0.3), "wider_l": (1, 0.3)}  # fmt: skip
    if model.head == "csra":
        assert (model.num_heads, model.csra_lambda) == heads[f"{dataset}_{network}"]
    assert (model.backbone_weights is not None) == (network == "c")
    sizes = {"c": 448, "resnet101": 448, "v": 384, "b": 224, "l": 224}
    assert model.image_size == sizes[network]
    assert arguments.data.crop_scale == ([1, 1] if dataset == "wider" else [0.7, 1])
    assert model.image_mean == ([0.5] * 3 if dataset == "wider" else None)
    assert training.dataloader_drop_last and model.interpolation is None
    assert (training.mask_fill, arguments.run.ignored_as_negative) == (
        ("zero", True) if dataset == "wider" else ("black", False)
    )


@pytest.mark.parametrize("name", PAPER)
def test_settings_of_the_released_code(name):
    """Over reference.yaml each row of the paper differs from the printed one in what the code does otherwise."""
    released, printed = parse(name, "--base", str(CONFIGS["reference"])), parse(name)
    dataset, network = name.split("_")[0], name.split("_")[-1]
    model = released.model
    assert model.interpolation == "bilinear" and not released.training.dataloader_drop_last
    assert released.masks.eval_masks == "generated"
    statistics = ([0.5] * 3, [0.5] * 3) if dataset == "wider" else ([0] * 3, [1] * 3)
    assert (model.image_mean, model.image_std) == statistics
    assert model.image_size == (448 if network in ("c", "resnet101") else 224)
    same = {"image_mean", "image_std", "image_size", "interpolation"}
    assert {
        f.name for f in dataclasses.fields(model) if getattr(model, f.name) != getattr(printed.model, f.name)
    } <= same
    assert released.training.what_makes_a_run() == printed.training.what_makes_a_run()
    assert released.data == printed.data


def test_every_row_of_the_paper_has_a_file():
    rows = {f"{d}_{m}_{n}" for d in ("voc", "coco") for m in ("linear", "csra", "msl", "msl_linear") for n in "cv"}
    rows |= {"wider_linear_b", "wider_linear_l", "wider_csra_l", "wider_msl_l"}
    assert rows <= set(PAPER)


@pytest.mark.parametrize("name", ["voc20_plus", "coco80_plus"])
def test_plus_is_one_recipe(name):
    """What plus.yaml sets, over voc20.yaml: an image and its masked copy where plain training has two images."""
    plus = parse("plus", "--backbone", "b").training.what_makes_a_run()
    training, plain = parse(name).training.what_makes_a_run(), parse("voc20").training.what_makes_a_run()
    changed = {"freeze_batch_norm", "loss_weights", "mask_fill", "per_device_train_batch_size"}
    assert {key for key in plain if plain[key] != training[key]} == changed
    assert all(training[key] == plus[key] for key in changed)
    assert 2 * training["per_device_train_batch_size"] == plain["per_device_train_batch_size"]


@pytest.fixture(scope="session")
def cutmix_file(tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "resnet101_cutmix.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in resnet101().state_dict().items()}}, file)
    return file


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_config_builds_a_network_that_takes_a_step(name, cutmix_file, tmp_path, monkeypatch):
    """The real network at 64 pixels with random weights, and the configured optimizer, loss and masks."""
    monkeypatch.chdir(Path(__file__).parents[2])
    arguments = parse(name, "--masks", "patches", "--eval_masks", "patches", "--bf16", "false")
    weights = arguments.model.backbone_weights and str(cutmix_file)
    settings = dataclasses.replace(arguments.model, from_scratch=True, image_size=64, backbone_weights=weights)
    if settings.backbone.startswith("../shared"):  # a folder of weights
        settings.backbone = "tf_efficientnet_lite0"
    labels = [str(index) for index in range(CLASSES.get(name.split("_")[0], 10))]
    model, processor = load_model(settings, labels)
    assert model.config.head == arguments.model.head and model.config.num_labels == len(labels)
    arguments.training.output_dir = str(tmp_path)
    trainer = MSLTrainer(
        model=model, args=arguments.training, masks=load_masks(arguments.masks)[0], processing_class=processor
    )
    images, targets = torch.randn(2, 3, 64, 64), torch.ones(2, len(labels))
    keep = trainer.masks.sample(2, 64)
    masked = apply_mask(images, keep, processor.image_mean, processor.image_std)
    optimizer = trainer.create_optimizer()
    before = model.head.weight.detach().clone()
    losses = trainer.loss(model(images).logits, model(masked).logits, targets)
    losses["loss"].backward()
    optimizer.step()
    assert torch.isfinite(losses["loss"]) and not torch.equal(model.head.weight, before)


def test_base_configuration(tmp_path):
    (tmp_path / "a.yaml").write_text("image_size: 64\nseed: 3\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\nseed: 5\n")
    arguments = parse_arguments(["--config", str(tmp_path / "b.yaml"), "--output_dir", "out"], "")[0]
    assert (arguments.model.image_size, arguments.training.seed) == (64, 5)
    (tmp_path / "b.yaml").write_text("base: missing.yaml\n")
    with pytest.raises(RunError, match="missing.yaml: cannot be read"):
        parse_arguments(["--config", str(tmp_path / "b.yaml"), "--output_dir", "out"], "")


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("base: b.yaml\n", [], "its base .*b.yaml is the file itself, or is based on it"),
        ("base: c.yaml\n", [], "c.yaml: its base .*b.yaml is the file itself, or is based on it"),
        ("base: 3\n", [], "b.yaml: base must name a YAML file, got 3"),
        ("seed: 3\n", ["--base", "a.yaml"], "b.yaml: has no base that --base could take the place of"),
        ("[" * 100_000, [], "b.yaml: is not valid YAML"),
    ],
)
def test_senseless_bases_are_refused(tmp_path, text, flags, message):
    (tmp_path / "b.yaml").write_text(text)
    (tmp_path / "c.yaml").write_text("base: b.yaml\n")
    with pytest.raises(RunError, match=message):
        parse_arguments(["--config", str(tmp_path / "b.yaml"), "--output_dir", "out", *flags], "")


def test_a_base_in_place_of_another_has_to_say_as_much():
    with pytest.raises(RunError, match="--base .*reference.yaml sets nothing for backbone, .*voc20.yaml does"):
        parse("voc20_plus", "--base", str(CONFIGS["reference"]))


def test_a_base_needs_a_configuration():
    with pytest.raises(RunError, match="--base takes the place of the base of a configuration"):
        parse_arguments(["--base", "a.yaml", "--output_dir", "out"], "")
