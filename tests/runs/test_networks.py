import pytest
import torch

from msl_hf.console.errors import RunError, user_input
from msl_hf.data import build_processor
from msl_hf.runs.arguments import ModelArguments
from msl_hf.runs.networks import load_model, load_trained


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


def test_weights_that_are_no_numbers_are_named(tiny_model, tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.head.weight[0, 1, 2] = float("nan")
    model.save_pretrained(tmp_path)
    build_processor(None, 32).save_pretrained(tmp_path)
    with pytest.raises(RunError, match="1 of its weights hold values that are no numbers, such as head.weight"):
        load_trained(str(tmp_path))
