"""Features of a frozen backbone that are computed once."""

import itertools
import os
import shutil
import subprocess
from collections import namedtuple

import numpy as np
import pytest
import torch
from launching import launched
from tiny import LABELS

from msl_hf import MaskBank, MSLForImageClassification, MSLTrainer, MSLTrainingArguments
from msl_hf.data import ImageDataset, MultiLabelCollator, build_processor, load_voc
from msl_hf.data.scenes import CLASS_NAMES
from msl_hf.training import features
from msl_hf.training.features import FeatureFiles, View, ViewDataset, check_space, fingerprint

MASKS = MaskBank.patches(ratio=0.5, patch=8)


@pytest.fixture
def make_trainer(tiny_model, scenes, tmp_path):
    """Trainer of a frozen backbone on 24 scenes; keywords of the arguments, and of what else may differ."""

    def make(backbone="timm_resnet", masks=MASKS, processor=None, dataset=None, split="train", **settings):
        processor = processor or build_processor(None, 32)
        model = tiny_model(backbone, label_names=list(CLASS_NAMES), csra_lambda=0.3)
        settings = {"freeze_backbone": True, "cache_features": True, "cached_views": 2, "feature_dtype": "float32",
                    "num_train_epochs": 5, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "seed": 4,
                    "loss_weights": [0.5, 0.3, 0.2], **settings}  # fmt: skip
        arguments = MSLTrainingArguments(str(tmp_path / "run"), use_cpu=True, **settings)
        data = load_voc(scenes)
        dataset = dataset or ImageDataset(data[split], processor, augment=True, seed=4, normalize=False)
        collator, evaluation = (
            MultiLabelCollator(len(CLASS_NAMES)),
            ImageDataset(data["val"], processor, normalize=False),
        )
        return MSLTrainer(model, arguments, masks, processor, dataset, evaluation, collator)

    return make


def uncached(dataset: ImageDataset, fill="black", probability=1.0, both=True) -> ViewDataset:
    branches = {"pixel_values": [View(dataset, n) for n in range(2)]}
    masked = [View(dataset, n, MASKS, fill, probability=probability) for n in range(2)]
    return ViewDataset(dataset, {**branches, "masked_pixel_values": masked} if both else {"pixel_values": masked})


@pytest.mark.parametrize("backbone", ["timm_convnext", "timm_vit", "hf_swin"])
@pytest.mark.parametrize("fill", ["black", "mixed"])
def test_the_same_numbers_as_without_a_cache(backbone, fill, make_trainer):
    """Five epochs over two views of each image, whole and masked, and the evaluation within them."""
    cached = make_trainer(backbone, mask_fill=fill, eval_strategy="epoch")
    own = cached.train_dataset
    cached.train()
    assert cached.train_dataset is own
    plain = make_trainer(backbone, dataset=uncached(own, fill), cache_features=False, eval_strategy="epoch")
    plain.train()
    torch.testing.assert_close(cached.model.state_dict(), plain.model.state_dict(), atol=1e-5, rtol=1e-5)
    losses = [
        [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log] for trainer in (cached, plain)
    ]
    assert len(losses[0]) == 5 and losses[0] == pytest.approx(losses[1], abs=1e-5)
    changed = cached.model.head.weight - make_trainer(backbone).model.head.weight
    assert changed.abs().max() > 1e-3


def test_mask_augmentation_is_cached_as_it_is_drawn(make_trainer):
    settings = {"backbone": "timm_vit", "loss_weights": [1, 0, 0], "mask_augmentation": 0.5}
    cached = make_trainer(**settings)
    dataset = uncached(cached.train_dataset, probability=0.5, both=False)
    whole = View(cached.train_dataset, 0)
    masked = sum(not torch.equal(dataset[index]["pixel_values"], whole[index]) for index in range(24))
    assert 3 < masked < 21
    cached.train()
    plain = make_trainer(**{**settings, "mask_augmentation": 0}, dataset=dataset, cache_features=False)
    plain.train()
    torch.testing.assert_close(cached.model.head.state_dict(), plain.model.head.state_dict(), atol=1e-5, rtol=1e-5)


def test_what_is_trained_is_an_ordinary_model_and_a_second_run_computes_nothing(
    make_trainer, tmp_path, monkeypatch, capsys
):
    trainer = make_trainer(feature_dtype="float16")
    trainer.train()
    assert "Caching 2 views of each training image: 4 x 24 images x 1 locations x 16 features in float16" in (
        capsys.readouterr().out
    )
    trainer.save_model(tmp_path / "model")
    MSLForImageClassification.from_pretrained(tmp_path / "model")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "run" / "features").rglob("*.npy")}
    assert len(before) == 5  # two views, whole and masked, and the evaluation
    monkeypatch.setattr(FeatureFiles, "write", None)
    # Another head, loss and rate: a matter of the head alone.
    make_trainer(feature_dtype="float16", classification_loss="asl", learning_rate=1e-2, num_train_epochs=7).train()
    # Plain training reads the whole images alone.
    make_trainer(feature_dtype="float16", loss_weights=[1, 0, 0]).train()
    assert before == {file: file.stat().st_mtime_ns for file in before}
    assert capsys.readouterr().out.count("to write") == 0


def test_a_cache_that_was_cut_off_goes_on(make_trainer, tmp_path, monkeypatch):
    write, written = FeatureFiles.write, []

    def cut_off(files, rows, features):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append((files.folder.name, rows))
        write(files, rows, features)

    monkeypatch.setattr(FeatureFiles, "write", cut_off)
    with pytest.raises(KeyboardInterrupt):
        make_trainer().train()
    assert len(list((tmp_path / "run" / "features").rglob("*.npy"))) == 3
    done, written[:] = list(written), [(), (), (), ()]  # never three again
    monkeypatch.setattr(
        FeatureFiles, "write", lambda files, *rest: (written.append(files.folder.name), write(files, *rest))
    )
    cut = make_trainer()
    cut.train()
    assert not {name for name, _ in done} & set(written[4:]) and len(written[4:]) == 2
    shutil.rmtree(tmp_path / "run")
    whole = make_trainer()
    whole.train()
    torch.testing.assert_close(cut.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)


@pytest.mark.slow
def test_two_processes_compute_what_one_does(scenes, backbone_folder, tmp_path):
    for count in (1, 2):
        flags = {
            "data_dir": scenes, "backbone": backbone_folder("timm_vit"), "image_size": 32, "masks": "patches",
            "cpu_threads": 1, "use_cpu": True, "disable_tqdm": True, "freeze_backbone": True, "cache_features": True,
            "num_train_epochs": 1, "per_device_train_batch_size": 4, "robustness_curve": False,
            "output_dir": tmp_path / str(count),
        }  # fmt: skip
        flags = itertools.chain(*((f"--{name}", str(value)) for name, value in flags.items()))
        command = launched(count, "-m", "msl_hf", "train-voc", *flags)
        subprocess.run(command, check=True, capture_output=True, timeout=300)
    one, two = (
        {file.relative_to(folder): np.load(file) for file in folder.rglob("*.npy")}
        for folder in (tmp_path / "1", tmp_path / "2")
    )
    assert one.keys() == two.keys() and len(one) == 8
    for name, values in one.items():
        np.testing.assert_allclose(values.astype(np.float32), two[name].astype(np.float32), atol=1e-2, rtol=1e-2)


def other_statistics():
    return build_processor(None, 32, image_mean=[0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("different", "message"),
    [
        ({"backbone": "timm_mobilenet"}, "backbone is"),
        ({"processor": other_statistics()}, "processor is"),
        ({"masks": MaskBank.patches(ratio=0.25, patch=8)}, "masks is"),
        ({"mask_fill": "noise"}, 'mask_fill is "black" there and "noise" here'),
        ({"split": "test"}, "images is"),
        ({"bf16": True}, 'precision is "float32" there and "bf16" here'),
        ({"feature_dtype": "bfloat16"}, 'dtype is "float32" there and "bfloat16" here'),
    ],
)
def test_features_of_something_else_are_refused(different, message, make_trainer):
    make_trainer().cache_features()
    with pytest.raises(ValueError, match=f"holds features of another run: .*{message}.*--feature_dir"):
        make_trainer(**different).cache_features()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0), ("float16", 1e-3), ("bfloat16", 1e-2)])
def test_files_give_back_what_was_written(dtype, tolerance, tmp_path):
    block = features.BLOCK
    count = 2 * block + 7
    values = torch.randn(count, 3, 5, generator=torch.Generator().manual_seed(0))
    files = FeatureFiles(tmp_path / "f", {"of": "a test"}, (count, 3, 5), dtype)
    assert [len(rows) for rows in files.missing()] == [block, block, 7]
    for rows in files.missing():
        files.write(rows, values[rows.start : rows.stop])
    assert files.missing() == [] and not list((tmp_path / "f").glob(".*"))
    read = torch.stack([files[index] for index in reversed(range(count))]).flip(0)
    torch.testing.assert_close(read, values, atol=tolerance, rtol=tolerance)
    on_disk = sum(os.path.getsize(file) for file in (tmp_path / "f").glob("*.npy"))
    assert files.num_bytes(count) <= on_disk < files.num_bytes(count) + 1000


def test_values_that_do_not_fit_are_named(tmp_path):
    files = FeatureFiles(tmp_path, {}, (1, 1, 1), "float16")
    with pytest.raises(ValueError, match="do not fit into float16; take --feature_dtype bfloat16"):
        files.write(range(1), torch.full((1, 1, 1), 1e6))
    assert len(files.missing()) == 1


def test_a_disk_that_is_too_small_is_named_with_the_size(tmp_path, monkeypatch):
    files = FeatureFiles(tmp_path / "f", {}, (1000, 100, 100), "float32")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 39_000_000))
    with pytest.raises(ValueError, match="the features take 40 MB, and 39 MB are free"):
        check_space([files], "Caching")


def test_hashes_know_order_and_bounds():
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert fingerprint(torch.ones(3)) != fingerprint(torch.zeros(3)) == fingerprint(torch.zeros(3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze_backbone": False}, "set freeze_backbone, too"),
        ({"masked_forward": "visible"}, "masked_forward='visible' says how the backbone runs"),
        ({"cached_views": 0}, "cached_views must be at least 1"),
        ({"feature_dtype": "int8"}, "feature_dtype must be one of float16, bfloat16, float32"),
    ],
)
def test_what_cannot_be_cached(settings, message, make_trainer):
    with pytest.raises(ValueError, match=message):
        make_trainer(**settings)


def test_data_that_give_no_images_and_labels_cannot_be_cached(tiny_model, tmp_path):
    arguments = MSLTrainingArguments(
        str(tmp_path), use_cpu=True, freeze_backbone=True, cache_features=True, mask_fill="zero"
    )
    items = [{"pixel_values": torch.zeros(3, 32, 32), "labels": torch.zeros(len(LABELS))}] * 8
    with pytest.raises(ValueError, match="cache_features needs .* images and labels that are no stream"):
        MSLTrainer(tiny_model(), arguments, MASKS, train_dataset=items).train()
