import json

import numpy as np
import pytest
from exports import EXPORTS, make_coco
from PIL import Image

from msl_hf.console.errors import RunError
from msl_hf.data import load_images, load_voc
from msl_hf.data.schema import column
from msl_hf.runs import splits as splits_module
from msl_hf.runs.arguments import DataArguments
from msl_hf.runs.splits import find_split, hide_labels, load_pos_weight, prepare_splits
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
    assert splits_module.test_split_of(datasets, "Train") == name
    assert splits_module.test_split_of({"Train": 0}, "Train") is None
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
