import json
import shutil

import numpy as np
import pytest
import torch
from exports import EXPORTS, make_coco
from PIL import Image

from msl_hf.data import build_processor, load_images, load_voc
from msl_hf.data.schema import column
from msl_hf.runs import inputs
from msl_hf.runs.arguments import DataArguments, MaskArguments, ModelArguments
from msl_hf.runs.errors import RunError
from msl_hf.runs.inputs import (
    find_split,
    hide_labels,
    load_masks,
    load_model,
    load_pos_weight,
    load_trained,
    prepare_splits,
    user_input,
)
from msl_hf.training.parts import choose_ignored_as


def names(splits):
    sizes = {"train": splits.train, "selection": splits.selection, "test": splits.test}
    return {role: None if split is None else len(split) for role, split in sizes.items()}


def test_default_splits(scenes):
    splits = prepare_splits(load_voc(scenes), DataArguments(), progress=False)
    assert splits.names == {"train": "trainval", "selection": None, "test": "test"}
    assert names(splits) == {"train": 34, "selection": None, "test": 11}


def test_selection_synonyms_and_limits(scenes):
    data = DataArguments(train_split="train", selection_split="validation", max_train_samples=5, max_eval_samples=4)
    splits = prepare_splits(load_voc(scenes), data, progress=False)
    assert splits.names == {"train": "train", "selection": "val", "test": "test"}
    assert names(splits) == {"train": 5, "selection": 4, "test": 4}


def test_selecting_among_training_images_is_refused(scenes):
    """trainval contains val; with a selection split the default is train."""
    splits = prepare_splits(load_voc(scenes), DataArguments(selection_split="val"), progress=False)
    assert splits.names["train"] == "train"
    data = DataArguments(train_split="trainval", selection_split="val")
    with pytest.raises(RunError, match="10 images of split 'val' are trained on"):
        prepare_splits(load_voc(scenes), data, progress=False)


def test_validation_fraction_holds_images_out(scenes):
    only_train = {"train": load_voc(scenes)["train"]}
    splits = prepare_splits(only_train, DataArguments(validation_fraction=0.25), progress=False)
    assert names(splits) == {"train": 18, "selection": 6, "test": 6}
    assert not set(splits.train[:]["image_id"]) & set(splits.selection[:]["image_id"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataArguments(train_split="everything"), "no split 'everything'; the data have trainval"),
        (DataArguments(train_split="val", selection_split="val"), "are trained on as part of split 'val'"),
    ],
)
def test_split_errors(data, message, scenes):
    with pytest.raises(RunError, match=message):
        prepare_splits(load_voc(scenes), data, progress=False)


def test_classes_without_positives_are_named(scenes, capsys):
    prepare_splits(load_voc(scenes), DataArguments(max_train_samples=1), progress=False)
    warning = capsys.readouterr().out
    assert "Warning: no image of split 'trainval' shows" in warning and "left out of its mAP" in warning
    datasets = load_voc(scenes)
    datasets["test"] = datasets["test"].map(lambda row: {"labels": []})
    with pytest.raises(RunError, match="no image of split 'test' shows any of its 10 classes"):
        prepare_splits(datasets, DataArguments(), progress=False)


def test_evaluation_masks_are_never_training_masks(tmp_path):
    for index in range(6):
        holes = np.zeros((64, 64), np.uint8)
        holes[: 32 + index] = 255
        Image.fromarray(holes).save(tmp_path / f"{index}.png")
    train, test = load_masks(MaskArguments(masks=str(tmp_path)))
    assert not set(train.hole_ratios.tolist()) & set(test.hole_ratios.tolist())
    assert len(train) == len(test) == 3
    generated, same_test = load_masks(MaskArguments(masks="patches", eval_masks=str(tmp_path)))
    assert same_test.hole_ratios.tolist() == test.hole_ratios.tolist()
    # Nothing of a folder is kept from training where its test is none, or comes from elsewhere.
    for more in ({}, {"eval_hole_ratio": [0.54, 0.6]}, {"eval_masks": str(tmp_path)}):
        assert len(load_masks(MaskArguments(masks=str(tmp_path), **more), has_test=False)[0]) == 6
    (tmp_path / "one").mkdir()
    shutil.copy(tmp_path / "1.png", tmp_path / "one" / "1.png")
    single = MaskArguments(masks=str(tmp_path / "one"), eval_masks="generated")
    assert len(load_masks(single)[0]) == 1 and load_masks(single, has_test=False)[0].hole_ratios.numel() == 1
    shutil.rmtree(tmp_path / "one")
    whole, other_test = load_masks(MaskArguments(masks=str(tmp_path), eval_masks="generated"))
    assert len(whole) == 6 and len(other_test) == 1000
    shutil.copytree(tmp_path, copies := tmp_path.parent / f"{tmp_path.name}-copies")
    train, test = load_masks(MaskArguments(masks=str(tmp_path), eval_masks=str(copies)))
    assert len(train) == len(test) == 3 and not set(train.hole_ratios.tolist()) & set(test.hole_ratios.tolist())
    easy, hard = load_masks(MaskArguments(masks=str(tmp_path), hole_ratio=[0.5, 0.6], eval_hole_ratio=[0.54, 0.6]))
    assert not set(easy.hole_ratios.tolist()) & set(hard.hole_ratios.tolist()) and hard.hole_ratios.min() >= 0.54
    with pytest.raises(RunError, match="no such folder of masks"), user_input():
        load_masks(MaskArguments(masks=str(tmp_path / "missing")))


def test_starting_from_a_model_with_other_classes_replaces_the_head(tiny_model, tmp_path, capsys):
    from msl_hf.data import build_processor

    tiny_model().save_pretrained(tmp_path)
    build_processor(None, 32).save_pretrained(tmp_path)
    model, _ = load_model(ModelArguments(model=str(tmp_path)), ["bird", "fish"])
    printed = capsys.readouterr().out
    assert "its head is replaced" in printed and model.config.num_labels == 2
    assert "Known, with their trained weights: fish. New: bird. Left out: cat, dog" in printed
    trained = tiny_model().head.weight
    assert (model.head.weight[:, 1] == trained[:, 2]).all() and (model.head.weight[:, 0] != trained[:, 2]).any()
    model, _ = load_model(ModelArguments(model=str(tmp_path)), ["fish", "dog", "cat"])
    assert "New: none. Left out: none" in capsys.readouterr().out
    assert (model.head.weight == trained[:, [2, 1, 0]]).all()
    model, processor = load_model(ModelArguments(model=str(tmp_path)), ["cat", "dog", "fish"])
    assert capsys.readouterr().out == "" and processor.size["height"] == 32


def test_some_network_is_needed():
    with pytest.raises(RunError, match="--backbone"):
        load_model(ModelArguments(), ["a"])
    with pytest.raises(RunError, match="nowhere"), user_input():
        load_model(ModelArguments(backbone="nowhere"), ["a"])


def test_pos_weight_of_every_source(scenes, tmp_path):
    train = load_voc(scenes)["train"]
    assert load_pos_weight("none", train, "negative") is None
    counts = np.zeros((2, 10))
    for row in train.remove_columns("image"):
        for label in range(10):
            if label not in row["ignored"]:
                counts[int(label in row["labels"]), label] += 1
    expected = np.where((counts == 0).any(axis=0), 1, counts[0] / np.maximum(counts[1], 1))
    np.testing.assert_allclose(load_pos_weight("balanced", train, "ignore"), expected, rtol=1e-6)
    names, file = train.features["labels"].feature.names, tmp_path / "weights.json"
    for content in (list(range(1, 11)), {name: index + 1 for index, name in reversed(list(enumerate(names)))}):
        file.write_text(json.dumps(content))
        assert load_pos_weight(str(file), train, "negative") == list(range(1, 11))


@pytest.mark.parametrize(
    ("content", "message"),
    [("[1, 2", "not valid JSON"), ("[1, 2]", "2 weights for 10"), ('{"cat": 1}', "not the 10 classes"),
     ('["a"]', "list of 10 numbers"), (None, "cannot be read")],
)  # fmt: skip
def test_wrong_files_of_pos_weight(content, message, scenes, tmp_path):
    file = tmp_path / "weights.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(RunError, match=f"weights.json: .*{message}"):
        load_pos_weight(str(file), load_voc(scenes)["train"], "negative")


def as_splits(path, **names):
    """The splits of an export under other names."""
    data = load_images(path)
    return {name: data[split] for name, split in names.items()}


@pytest.mark.parametrize("name", ["valid", "dev", "eval", "Validation", "val"])
def test_splits_by_any_of_their_names(name, tmp_path, capsys):
    EXPORTS["metadata"](tmp_path)
    datasets = as_splits(tmp_path, Train="train", **{name: "validation"})
    assert find_split(datasets, "val") == name and find_split(datasets, "train") == "Train"
    assert inputs.test_split_of(datasets, "Train") == name and inputs.test_split_of({"Train": 0}, "Train") is None
    splits = prepare_splits(datasets, DataArguments(validation_fraction=0.5), progress=False)
    assert splits.names == {"train": "Train", "selection": name, "test": name} and len(splits.train) == 2
    assert "--validation_fraction holds nothing out" in capsys.readouterr().out


def test_ids_that_restart_in_every_split_are_no_leak(tmp_path):
    make_coco(tmp_path)
    datasets = load_images(tmp_path)
    assert column(datasets["train"], "image_id") == column(datasets["validation"], "image_id") == ["0", "1"]
    splits = prepare_splits(datasets, DataArguments(selection_split="validation"), progress=False)
    assert len(splits.train) == len(splits.selection) == 2


def test_a_leak_is_judged_by_the_file_under_whatever_id_and_link(tmp_path):
    EXPORTS["metadata"](tmp_path)
    (tmp_path / "validation" / "c.png").unlink()
    (tmp_path / "validation" / "c.png").symlink_to(tmp_path / "train" / "b.png")
    with pytest.raises(RunError, match="1 images of split 'validation' are trained on .*, such as train/b.png"):
        prepare_splits(load_images(tmp_path), DataArguments(selection_split="validation"), progress=False)


def test_hidden_labels_are_of_both_kinds_and_the_same_for_a_seed(scenes):
    train = load_voc(scenes)["train"]
    hidden = hide_labels(train, 0.5, seed=3)
    assert column(hidden, "labels") == column(hide_labels(train, 0.5, seed=3), "labels")
    assert column(hidden, "labels") != column(hide_labels(train, 0.5, seed=4), "labels")
    whole = [(index, label) for index, labels in enumerate(column(train, "labels")) for label in labels]
    kept = [(index, label) for index, labels in enumerate(column(hidden, "labels")) for label in labels]
    unknown = [(index, label) for index, labels in enumerate(column(hidden, "ignored")) for label in labels]
    assert set(kept) | (set(unknown) & set(whole)) == set(whole) and not set(kept) & set(unknown)
    assert 0.3 < len(kept) / len(whole) < 0.7 and 0.4 < len(unknown) / (10 * len(train)) < 0.6
    assert hidden.features == train.features and hidden[0]["image"].size == (32, 32)


def test_unknown_labels_in_training_follow_data_and_loss(tmp_path, capsys):
    folder = tmp_path / "train"
    folder.mkdir()
    for name in "ab":
        Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
    rows = [{"file_name": "a.png", "labels": ["cat"], "ignored": ["dog"]}, {"file_name": "b.png", "labels": ["dog"]}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    train = load_images(tmp_path)["train"]
    assert choose_ignored_as(None, train, "bce") == "ignore"
    assert "Unknown labels are left out of the loss in training (--ignored_as ignore)" in capsys.readouterr().out
    assert choose_ignored_as(None, train, "ll_r") == choose_ignored_as("negative", train, "bce") == "negative"
    assert "count as negative" in capsys.readouterr().out
    assert choose_ignored_as(None, train.select([1]), "bce") == "negative" and not capsys.readouterr().out
    assert choose_ignored_as(None, train.select([0]), "bce") == "negative"  # cat is present, of dog nothing is known
    assert "No label is known to be absent in any image" in capsys.readouterr().out


def test_weights_that_are_no_numbers_are_named(tiny_model, tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.head.weight[0, 1, 2] = float("nan")
    model.save_pretrained(tmp_path)
    build_processor(None, 32).save_pretrained(tmp_path)
    with pytest.raises(RunError, match="1 of its weights hold values that are no numbers, such as head.weight"):
        load_trained(str(tmp_path))


@pytest.mark.parametrize(
    "error",
    [RuntimeError("WandbCallback needs wandb"), ImportError("no wandb"), AssertionError("height 50"), OSError()],
)
def test_what_is_not_installed_or_does_not_fit_is_a_message(error):
    with pytest.raises(RunError, match=str(error) or "OSError"), user_input():
        raise error
