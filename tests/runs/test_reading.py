"""What every tool prints of the data that it reads, and which images it leaves out."""

import json

import pytest
from exports import EXPORTS, make_coco
from PIL import Image
from trees import make_coco as make_official_coco

from msl_hf.console.errors import RunError, user_input
from msl_hf.console.flags import parse_flags
from msl_hf.runs.models import ComparisonArguments, load_data
from msl_hf.runs.prepare import PrepareArguments
from msl_hf.runs.reading import ReadingArguments, format_of, read_data


def count(datasets):
    return {split: len(dataset) for split, dataset in datasets.items()}


def test_what_was_recognised_is_printed(tmp_path, capsys):
    EXPORTS["openimages"](tmp_path)
    table = tmp_path / "train-annotations-human-imagelabels.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]))
    read_data(str(tmp_path), "auto", ReadingArguments())
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}: read as openimages",
        "  train: 2 images, 1 of them without any label, 1 unknown labels",
        "  validation: 2 images, 0 of them without any label, 0 unknown labels",
        "  2 classes: cat, dog",
    ]


def test_many_classes_are_printed_in_part(tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    names = [f"c{number:02d}" for number in range(30)]
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "labels": names}))
    read_data(str(tmp_path), "auto", ReadingArguments())
    assert "30 classes: c00, c01, " in (printed := capsys.readouterr().out)
    assert "c19, ... (30 in all)" in printed and "c20" not in printed


@pytest.mark.parametrize("make_arguments", [ComparisonArguments, PrepareArguments])
@pytest.mark.parametrize(("keep", "official"), [(None, 5), (True, 6), (False, 5)])
def test_every_tool_can_keep_images_without_labels(make_arguments, keep, official, tmp_path, caplog):
    make_coco(tmp_path / "export")
    make_official_coco(tmp_path / "coco")
    arguments = make_arguments(data_dir=str(tmp_path / "coco"), keep_unlabelled=keep)
    assert count(load_data(arguments)) == {"train": official, "validation": official}
    said = "2 images without any label are left out (--keep_unlabelled true keeps them)"
    assert (said in caplog.text) == (official == 5)
    arguments = make_arguments(data_dir=str(tmp_path / "export"), keep_unlabelled=keep)
    assert count(load_data(arguments)) == {"train": 2 if keep is not False else 1, "validation": 2}


def test_flags_of_reading(tmp_path):
    flags = ["--data_dir", "x", "--label_columns", "a", "b", "--label_separator", "|", "--keep_unlabelled", "true",
             "--train_json", "t.json", "--image_dir", "i", "--max_pixels", "7", "--dataset", "yolo"]  # fmt: skip
    (arguments,) = parse_flags(flags, "", PrepareArguments)
    assert (arguments.label_columns, arguments.label_separator, arguments.keep_unlabelled) == (["a", "b"], "|", True)
    assert (arguments.train_json, arguments.image_dir, arguments.max_pixels) == ("t.json", "i", 7)
    with pytest.raises(RunError, match="invalid choice: 'yaml'"):
        parse_flags(["--dataset", "yaml"], "", PrepareArguments)


def test_folder_means_tables_or_the_hub(tmp_path):
    EXPORTS["yolo"](tmp_path)
    EXPORTS["columns"](tmp_path)
    reading = ReadingArguments()
    assert (
        format_of(str(tmp_path), "folder", reading) == "columns" and format_of("me/data", "folder", reading) == "hub"
    )
    assert format_of("me/data", "auto", reading) == "hub" and format_of(str(tmp_path), "yolo", reading) == "yolo"
    with pytest.raises(RunError, match="may be columns or yolo; say which with --format"), user_input():
        format_of(str(tmp_path), "auto", reading)


def test_annotations_by_name_alone(tmp_path, capsys):
    make_coco(tmp_path)
    (tmp_path / "train" / "_annotations.coco.json").rename(tmp_path / "mine.json")
    reading = {"train_json": str(tmp_path / "mine.json"), "image_dir": str(tmp_path / "train")}
    datasets = load_data(PrepareArguments(**reading))
    assert count(datasets) == {"train": 2} and datasets["train"][0]["image"].size == (40, 30)
    assert f"{tmp_path}: read as coco" in capsys.readouterr().out
