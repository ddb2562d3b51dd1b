import json

import numpy as np
import pytest
from PIL import Image

from msl_hf.data import load_voc
from msl_hf.runs.arguments import DataArguments, MaskArguments, ModelArguments, RunError
from msl_hf.runs.inputs import load_masks, load_model, load_pos_weight, prepare_splits, user_input


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
    easy, hard = load_masks(MaskArguments(masks=str(tmp_path), hole_ratio=[0.5, 0.6], eval_hole_ratio=[0.54, 0.6]))
    assert not set(easy.hole_ratios.tolist()) & set(hard.hole_ratios.tolist()) and hard.hole_ratios.min() >= 0.54
    with pytest.raises(RunError, match="no such folder of masks"), user_input():
        load_masks(MaskArguments(masks=str(tmp_path / "missing")))


def test_starting_from_a_model_with_other_classes_replaces_the_head(tiny_model, tmp_path, capsys):
    from msl_hf.data import build_processor

    tiny_model().save_pretrained(tmp_path)
    build_processor(None, 32).save_pretrained(tmp_path)
    model, _ = load_model(ModelArguments(model=str(tmp_path)), ["bird", "bear"])
    assert "its head is replaced" in capsys.readouterr().out and model.config.num_labels == 2
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
