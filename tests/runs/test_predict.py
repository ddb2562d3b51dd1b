import contextlib
import csv
import functools
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from exports import EXPORTS
from launching import launched
from PIL import Image
from transformers import ViTImageProcessor, pipeline

from msl_hf.console.errors import RunError
from msl_hf.console.files import locked
from msl_hf.data import build_processor
from msl_hf.model.views_msl import Views
from msl_hf.runs import predict as predict_module
from msl_hf.runs.networks import load_trained
from msl_hf.runs.predict import PredictArguments, find_images, predict, read_predictions, write_predictions


@pytest.fixture
def photos(tiny_model, tmp_path):
    """A model folder, and seven images in two folders, one of which is no image."""
    tiny_model("timm_vit").save_pretrained(tmp_path / "model")
    build_processor(None, 32).save_pretrained(tmp_path / "model")
    for number in range(7):
        file = tmp_path / "photos" / ("sub" if number > 4 else "") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (20 + number, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    (tmp_path / "photos" / "3.png").write_bytes(b"no image")
    (tmp_path / "photos" / "notes.txt").touch()
    return tmp_path


def arguments(photos, output="labels.jsonl", **more) -> PredictArguments:
    settings = {"images": [str(photos / "photos")], "threshold": 0.0, "batch_size": 2, "cpu_threads": 1,
                "use_cpu": True, "disable_tqdm": True}  # fmt: skip
    return PredictArguments(str(photos / "model"), output=str(photos / "out" / output), **{**settings, **more})


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_labels_of_all_readable_images_as_the_pipeline_gives_them(ending, photos, capsys):
    report = predict(arguments(photos, f"labels.{ending}"))
    broken = str(photos / "photos" / "3.png")
    assert report["num_images"] == 6 and list(report["unreadable"]) == [broken]
    assert "1 images could not be read" in capsys.readouterr().out
    rows = read_predictions(photos / "out" / f"labels.{ending}")
    names = [str(photos / "photos" / f"{number}.png") for number in (0, 1, 2, 4)]
    assert [row["image"] for row in rows] == [*names, *(str(photos / "photos" / "sub" / f"{n}.png") for n in (5, 6))]
    classify = pipeline("multi-label-image-classification", model=str(photos / "model"), threshold=0.0)
    for row in rows:
        expected = classify(row["image"])
        assert row["labels"] == [entry["label"] for entry in expected]
        assert row["scores"] == pytest.approx([entry["score"] for entry in expected], abs=1e-4)
    listed = (photos / "out" / f"labels.{ending}.unreadable.jsonl").read_text()
    assert json.loads(listed)["image"] == broken


def test_thresholds_and_top_k(photos):
    predict(arguments(photos, threshold=None, top_k=1))
    rows = read_predictions(photos / "out" / "labels.jsonl")
    assert all(len(row["labels"]) <= 1 and all(score >= 0.5 for score in row["scores"]) for row in rows)


def test_goes_on_after_an_interruption_and_with_new_and_repaired_images(photos, monkeypatch):
    """Three batches are done when it is interrupted; only the rest, then only what is new, is predicted."""
    seen: list[str] = []
    original = predict_module.predict_batch

    def watch(items, *more):
        if len(seen) >= 4 and stop:
            raise KeyboardInterrupt
        seen.extend(name for name, _ in items)
        return original(items, *more)

    monkeypatch.setattr(predict_module, "predict_batch", watch)
    stop = True
    with pytest.raises(KeyboardInterrupt):
        predict(arguments(photos))
    assert len(seen) == 4 and not (photos / "out" / "labels.jsonl").exists()
    (part,) = (photos / "out").glob(".labels.jsonl.part-*")
    with part.open("a") as file:
        file.write('{"image": "cut o')
    part.rename(part.with_name(".labels.jsonl.part-1-0"))  # of a process that is gone
    stop = False
    seen.clear()
    assert predict(arguments(photos))["num_images"] == 6
    assert len(seen) == 4  # three that were missing, and the broken one again
    Image.new("RGB", (9, 9)).save(photos / "photos" / "3.png")
    seen.clear()
    assert predict(arguments(photos)) == {"num_images": 7, "unreadable": {}}
    assert seen == [str(photos / "photos" / "3.png")]
    rows = read_predictions(photos / "out" / "labels.jsonl")
    assert [row["image"][-5] for row in rows] == list("0123456")
    assert {file.name for file in (photos / "out").iterdir()} == {"labels.jsonl", "labels.jsonl.run.json"}


def test_an_output_of_other_settings_is_left_alone(photos):
    predict(arguments(photos))
    with pytest.raises(RunError, match=r"with --threshold 0.0, not 0.5; choose another --output"):
        predict(arguments(photos, threshold=0.5))
    (photos / "out" / "own.jsonl").write_text("{}")
    with pytest.raises(RunError, match="no output of this command"):
        predict(arguments(photos, "own.jsonl"))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_data_set(streaming, photos):
    files = [str(photos / "photos" / f"{number}.png") for number in range(5)]
    stored = [{"bytes": (photos / "photos" / f"{number}.png").read_bytes(), "path": None} for number in range(5)]
    (photos / "set").mkdir()
    rows = Dataset.from_dict({"picture": stored}, features=Features({"picture": ImageFeature()}))
    rows.to_parquet(photos / "set" / "test.parquet")
    more = {"images": [], "dataset": str(photos / "set"), "image_column": "picture", "streaming": streaming}
    report = predict(arguments(photos, **more))
    assert report["num_images"] == 4 and list(report["unreadable"]) == ["test/3"]
    predict(arguments(photos, "files.jsonl", images=files))
    found = [read_predictions(photos / "out" / name) for name in ("labels.jsonl", "files.jsonl")]
    assert [row["image"] for row in found[0]] == ["test/0", "test/1", "test/2", "test/4"]
    assert [row["labels"] for row in found[0]] == [row["labels"] for row in found[1]]


@pytest.mark.parametrize("output", ["labels.jsonl", "labels/"])
def test_images_are_looked_at_as_the_model_or_the_command_says(output, photos):
    """Into a file and into shards; an output of another view is refused."""
    network, processor = load_trained(str(photos / "model"))
    network.config.views = "whole+2x2@64"
    network.save_pretrained(photos / "model")
    name = str(photos / "photos" / "0.png")

    def scores(**settings) -> list[float]:
        settings = {"images": [name], **settings}
        folder = f"views{len(settings)}"
        asked = arguments(photos, f"{folder}/{output}", **settings)
        asked.output += "/" if output.endswith("/") else ""
        assert predict(asked)["num_images"] == 1
        (file,) = (photos / "out" / folder).glob("labels/*.parquet" if output.endswith("/") else output)
        return read_predictions(file)[0]["scores"]

    def expected(views) -> list[float]:
        logits = network.eval().view_logits([Image.open(name)], processor, views)[0]
        return pytest.approx(logits.sigmoid().sort(descending=True).values.tolist(), abs=1e-5)

    assert scores() == expected("whole+2x2@64")
    assert scores(views="whole") == expected("whole") != expected("whole+2x2@64")
    with pytest.raises(RunError, match="was written with --views whole, not mirror"):
        scores(views="mirror")
    with pytest.raises(RunError, match="'half' is no view"):
        scores(views="half")


@pytest.mark.parametrize("output", ["labels.jsonl", "labels.csv", "labels.parquet", "labels/"])
def test_boxes_of_labels_as_the_pipeline_gives_them(output, photos):
    asked = arguments(photos, output, images=[str(photos / "photos" / "0.png"), str(photos / "photos" / "3.png")],
                      boxes=True)  # fmt: skip
    asked.output += "/" if output.endswith("/") else ""
    predict(asked)
    (file,) = (photos / "out").glob("labels/*.parquet" if output.endswith("/") else output)
    row, *unreadable = read_predictions(file)
    classify = pipeline("multi-label-image-classification", model=str(photos / "model"), threshold=0.0, boxes=True)
    found = classify(row["image"])
    assert row["labels"] == [entry["label"] for entry in found]
    assert row["boxes"] == [entry["boxes"] for entry in found] and all(row["boxes"])
    assert [other["boxes"] for other in unreadable] == ([None] if output.endswith("/") else [])
    asked.boxes = False
    with pytest.raises(RunError, match="was written with --boxes True, not False"):
        predict(asked)


def test_two_shares_are_all_images_once(photos):
    rows = predict_module._Files(find_images([str(photos / "photos")]))
    processor = build_processor(None, 32)
    whole = Views.parse("whole")
    shares = [[name for name, _ in predict_module._Images(rows, processor, whole, {}, rank, 2)] for rank in range(2)]
    assert sorted(shares[0] + shares[1]) == sorted(rows.positions) and abs(len(shares[0]) - len(shares[1])) <= 1


@pytest.mark.slow
def test_two_processes_share_the_work(photos):
    recipe = str(Path(__file__).parents[2] / "recipes" / "predict.py")
    command = launched(2, recipe, "--model", str(photos / "model"), "--images", str(photos / "photos"),
                       "--threshold", "0", "--batch_size", "2", "--use_cpu", "true",
                       "--output", str(photos / "out" / "labels.jsonl"))  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    predict(arguments(photos, "alone.jsonl"))
    shared, alone = (read_predictions(photos / "out" / name) for name in ("labels.jsonl", "alone.jsonl"))
    assert [(row["image"], row["labels"]) for row in shared] == [(row["image"], row["labels"]) for row in alone]
    assert not list((photos / "out").glob(".*part*")) and "1 images could not be read" in done.stdout


def test_what_images_are_found(photos):
    folder = photos / "photos"
    assert find_images([str(folder / "*.png"), str(folder / "0.png")]) == [str(folder / f"{n}.png") for n in range(5)]
    assert len(find_images([str(folder / "**" / "*.png")])) == 7
    with pytest.raises(RunError, match=r"\*.jpg: no such image"):
        find_images([str(folder / "*.jpg")])


def test_files_round_trip(tmp_path):
    rows = [
        {"image": "a,b.jpg", "labels": ["x y", "z"], "scores": [0.75, 0.5]},
        {"image": "c", "labels": [], "scores": []},
    ]
    for suffix in (".jsonl", ".csv", ".parquet"):
        write_predictions(rows, tmp_path / f"rows{suffix}", suffix)
        assert read_predictions(tmp_path / f"rows{suffix}") == rows


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"images": []}, "say which images"),
        ({"dataset": "x"}, "say which images"),
        ({"output": "labels.txt"}, "ends in .jsonl, .csv, .parquet, got"),
        ({"threshold": 50}, "score in"),
        ({"batch_size": 0}, "at least 1"),
        ({"num_workers": -1}, "--num_workers must not be negative"),
        ({"cpu_threads": 0}, "--cpu_threads must be at least 1"),
        ({"images": [""]}, "--images holds an empty name"),
        ({"output": "a" * 201 + ".csv"}, "too long"),
    ],
)
def test_wrong_arguments(wrong, message, photos):
    with pytest.raises(RunError, match=message):
        predict(arguments(photos, **wrong))


def test_folders_hold_whatever_pillow_opens_also_behind_links(photos, capsys):
    folder, elsewhere = photos / "mixed", photos / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    for name in ("a.jfif", "b.tga", "c.ppm", "d.jp2"):
        Image.new("RGB", (20, 20)).save(folder / name, "JPEG" if name == "a.jfif" else None)
    Image.new("RGB", (20, 20)).save(elsewhere / "e.webp")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "loop").symlink_to(folder)
    (folder / "f.heic").write_bytes(b"\0\0\0\x18ftypheic")
    for name in ("notes.txt", "more.txt", "film.mp4"):
        (folder / name).touch()
    report = predict(arguments(photos, images=[str(folder)]))
    printed = capsys.readouterr().out
    assert f"{folder}: 3 files are no images and are left aside: 2 .txt, 1 .mp4" in printed
    rows = read_predictions(photos / "out" / "labels.jsonl")
    assert [Path(row["image"]).name for row in rows] == ["a.jfif", "b.tga", "c.ppm", "d.jp2", "e.webp"]
    assert list(report["unreadable"]) == [str(folder / "f.heic")]


@pytest.mark.parametrize("name", ["yolo", "labelme"])
def test_labelled_data_of_any_kind(name, photos, capsys):
    EXPORTS[name](photos / "data")
    settings = {"images": [], "dataset": str(photos / "data"), "split": "val", "batch_size": 3}
    predict(arguments(photos, **settings))
    assert f"read as {name}" in capsys.readouterr().out
    rows = read_predictions(photos / "out" / "labels.jsonl")
    assert [Path(row["image"]).name for row in rows] == ["c.png", "d.png"]


def test_names_with_other_line_breaks_are_read_back(photos):
    """A name that holds what `str.splitlines` takes for the end of a line, in a file that somebody wrote so."""
    file = photos / "labels.jsonl"
    row = {"image": "a\u2028b\x85c.png", "labels": ["cat"], "scores": [0.5]}
    file.write_text(f"{json.dumps(row, ensure_ascii=False)}\n" * 2, encoding="utf-8")
    assert read_predictions(file) == [row, row]


def test_an_output_whose_name_is_a_pattern(photos):
    assert predict(arguments(photos, "run[1].jsonl"))["num_images"] == 6
    assert predict(arguments(photos, "run[1].jsonl"))["num_images"] == 6
    assert len(read_predictions(photos / "out" / "run[1].jsonl")) == 6


def test_rows_are_counted_before_anything_is_removed(photos, monkeypatch):
    """A disk, or a person, that takes rows away after they were written."""
    original = predict_module.gather_object

    def lose(shares):
        ((part, _),) = shares
        lines = Path(part).read_text().splitlines(keepends=True)
        Path(part).write_text("".join(lines[:2]) + lines[2][:10])
        return original(shares)

    monkeypatch.setattr(predict_module, "gather_object", lose)
    with pytest.raises(RunError, match="holds 2 of the 7 rows .*; nothing is removed"):
        predict(arguments(photos))
    monkeypatch.setattr(predict_module, "gather_object", original)
    assert predict(arguments(photos))["num_images"] == 6


def test_a_cut_line_costs_itself_alone(photos):
    (photos / "out").mkdir()
    (photos / "out" / ".labels.jsonl.part-7-0").write_text(
        '{"image": "cut o\n{"image": "b", "labels": [], "scores": []}\n'
    )
    predict(arguments(photos))
    assert read_predictions(photos / "out" / "labels.jsonl")[-1]["image"] == "b"


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_images_that_change_are_predicted_anew(ending, photos, capsys):
    predict(arguments(photos, f"labels.{ending}"))
    before = read_predictions(photos / "out" / f"labels.{ending}")
    Image.new("RGB", (30, 21), "red").save(photos / "photos" / "1.png")
    (photos / "photos" / "2.png").write_bytes(b"no image any more")
    capsys.readouterr()
    report = predict(arguments(photos, f"labels.{ending}"))
    assert "2 images have changed since they were predicted" in capsys.readouterr().out
    after = {row["image"]: row for row in read_predictions(photos / "out" / f"labels.{ending}")}
    assert len(after) == report["num_images"] == 5
    assert [row["image"][-5] for row in before if after.get(row["image"]) != row] == ["1", "2"]
    predict(arguments(photos, f"labels.{ending}"))
    assert "have changed" not in capsys.readouterr().out


def test_spellings_of_a_path_are_one_image(photos, monkeypatch):
    monkeypatch.chdir(photos)
    (photos / "link").symlink_to(photos / "photos")
    spellings = ["photos", "./photos", "link", str(photos / "photos"), "photos/sub/../0.png"]
    assert find_images(spellings) == find_images(["photos"])
    predict(arguments(photos))
    assert predict(arguments(photos, images=spellings))["num_images"] == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model, _: model.head.weight.data.mul_(2), "has other weights now"),
        (lambda model, _: setattr(model.config, "csra_lambda", 0.7), "has other weights now"),
        (lambda model, _: setattr(model.config, "thresholds", [0.1, 0.2, 0.3]), "has other classes or thresholds now"),
        (lambda _, processor: setattr(processor, "image_mean", [0.1] * 3), "has other preprocessing now"),
    ],
    ids=["weights", "lambda", "thresholds", "mean"],
)
def test_an_output_of_what_the_folder_held_before_is_left_alone(change, message, photos):
    predict(arguments(photos, threshold=None))
    model, processor = load_trained(str(photos / "model"))
    change(model, processor)
    model.save_pretrained(photos / "model")
    processor.save_pretrained(photos / "model")
    with pytest.raises(RunError, match=message):
        predict(arguments(photos, threshold=None))


def test_a_model_that_moved_is_the_same(photos):
    predict(arguments(photos))
    (photos / "model").rename(photos / "moved")
    settings = arguments(photos)
    settings.model = str(photos / "moved")
    assert predict(settings)["num_images"] == 6


def test_scores_that_are_no_numbers_end_the_run_before_the_first_row(photos):
    file = photos / "model" / "config.json"
    config = file.read_text()
    file.write_text(json.dumps({**json.loads(config), "csra_lambda": float("nan")}))
    with pytest.raises(RunError, match="csra_lambda must be a number, got nan"):
        predict(arguments(photos))
    file.write_text(config)
    model, _ = load_trained(str(photos / "model"))
    with torch.no_grad():
        model.backbone.timm_model.norm.weight.fill_(3e38)  # a number, but what it gives is none
    model.save_pretrained(photos / "model")
    with pytest.raises(RunError, match="0.png: its scores are no numbers"):
        predict(arguments(photos))
    assert not any(part.read_text() for part in (photos / "out").glob(".*part*"))


def test_what_no_name_or_file_is_costs_itself_alone(photos, capsys):
    """A name that is not UTF-8, a pipe that nobody writes to; and neither ends the run, whatever the output."""
    os.rename(photos / "photos" / "1.png", os.fsencode(photos / "photos") + b"/\xff.png")
    os.mkfifo(photos / "photos" / "pipe.png")
    for ending in ("jsonl", "csv", "parquet"):
        report = predict(arguments(photos, f"labels.{ending}"))
        assert report["num_images"] == 5
        messages = " ".join(report["unreadable"].values())
        assert (
            "\\xff.png: its name is not UTF-8" in messages and "pipe.png: cannot be decoded (it is no reg" in messages
        )
        assert "rename it" in capsys.readouterr().out


@pytest.mark.parametrize(
    "labels", [["a;b", "c"], ["=1+1"], ["x", "-y"], ["@a"], ["+"], ["[a]"], [""], ['q"u,o'], ["a\nb"]]
)
def test_csv_keeps_every_class_name_and_no_cell_is_a_formula(labels, tmp_path):
    rows = [{"image": "a.jpg", "labels": labels, "scores": [0.5] * len(labels)}]
    write_predictions(rows, tmp_path / "rows.csv", ".csv")
    assert read_predictions(tmp_path / "rows.csv") == rows
    with (tmp_path / "rows.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)


def test_a_path_that_would_be_a_formula(photos, monkeypatch):
    monkeypatch.chdir(photos / "photos")
    (photos / "photos" / "1.png").rename("=1+1.png")
    for _ in range(2):
        assert predict(arguments(photos, "labels.csv", images=["=1+1.png"]))["num_images"] == 1
    assert [row["image"] for row in read_predictions(photos / "out" / "labels.csv")] == ["./=1+1.png"]


def test_another_process_at_the_same_output_is_refused(photos):
    with (
        locked(photos / "out" / ".labels.jsonl.lock"),
        pytest.raises(RunError, match="another process is writing here"),
    ):
        predict(arguments(photos))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_killed_at_random_moments_every_image_has_one_row(processes, kind, photos):
    for number in range(7, 1500):  # more than are done before the signal comes
        Image.new("RGB", (40, 40), (number % 256, number // 256, 0)).save(photos / "photos" / f"{number}.png")
    recipe = str(Path(__file__).parents[2] / "recipes" / "predict.py")
    command = launched(processes, recipe, "--model", str(photos / "model"), "--images", str(photos / "photos"),
                       "--threshold", "0", "--batch_size", "1", "--use_cpu", "true", "--disable_tqdm", "true",
                       "--output", str(photos / "out" / "labels.jsonl"))  # fmt: skip
    settings = {
        "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "start_new_session": True,
        # What a shell starts in the background ignores SIGINT, and so would what the tests start then.
        "preexec_fn": functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    }  # fmt: skip
    rng, grown = random.Random(processes), 0
    for _ in range(4):
        before = sum(part.stat().st_size for part in (photos / "out").glob(".*part*"))
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **settings)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if sum(part.stat().st_size for part in (photos / "out").glob(".*part*")) > before:
                break
            time.sleep(0.001)
        time.sleep(0.1 * rng.random())
        with contextlib.suppress(ProcessLookupError):  # done before it was killed
            os.killpg(process.pid, kind)
        process.wait(60)
        grown += sum(part.stat().st_size for part in (photos / "out").glob(".*part*")) > before
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, **settings)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = read_predictions(photos / "out" / "labels.jsonl")
    expected = {str(file) for file in (photos / "photos").rglob("*.png")} - {str(photos / "photos" / "3.png")}
    assert grown > 0 and len(rows) == len(expected) and {row["image"] for row in rows} == expected
    assert not list((photos / "out").glob(".*"))


def test_relative_names_are_those_of_the_folder_that_they_began_in(photos, monkeypatch):
    monkeypatch.chdir(photos)
    predict(arguments(photos, images=["photos"]))
    monkeypatch.chdir(photos / "out")
    with pytest.raises(RunError, match="names images from within .*, such as photos/0.png, which is none here"):
        predict(arguments(photos, images=["../photos"]))
    monkeypatch.chdir(photos)
    (photos / "moved").mkdir()
    for name in ("photos", "out"):
        (photos / name).rename(photos / "moved" / name)
    monkeypatch.chdir(photos / "moved")  # everything has moved: nothing is lost
    settings = arguments(photos, images=["photos"])
    settings.output = str(photos / "moved" / "out" / "labels.jsonl")
    assert predict(settings)["num_images"] == 6


def test_other_precision_is_another_output(photos):
    predict(arguments(photos))
    with pytest.raises(RunError, match="with --bf16 False, not True"):
        predict(arguments(photos, bf16=True))


@pytest.mark.parametrize(
    ("ending", "content"),
    [
        ("csv", 'image,labels,scores\n1.png,["a\n'),
        ("csv", "a,b\n1,2\n"),
        ("parquet", "PAR1"),
        ("csv", "image,la\n1,2\n"),
    ],
)
def test_an_output_that_is_damaged_is_a_message(ending, content, photos):
    predict(arguments(photos, f"labels.{ending}"))
    (photos / "out" / f"labels.{ending}").write_text(content)
    with pytest.raises(RunError, match="cannot be read as an output of this command .*; remove it to start anew"):
        predict(arguments(photos, f"labels.{ending}"))


def test_settings_that_are_damaged_are_a_message_or_cost_the_stamps(photos):
    predict(arguments(photos))
    noted = photos / "out" / "labels.jsonl.run.json"
    noted.write_text(json.dumps({**json.loads(noted.read_text()), "stamps": 5}))
    assert predict(arguments(photos))["num_images"] == 6
    noted.write_text("[1]")
    with pytest.raises(RunError, match="run.json: holds a JSON value of the wrong kind"):
        predict(arguments(photos))


def test_a_prediction_that_fails_at_its_start_leaves_nothing(photos, monkeypatch):
    monkeypatch.setattr(predict_module, "predict_batch", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict(arguments(photos))
    assert not list((photos / "out").iterdir())


def test_processors_that_make_images_of_several_sizes_are_refused(photos):
    ViTImageProcessor(size={"shortest_edge": 32}).save_pretrained(photos / "model")
    with pytest.raises(RunError, match="resizes to {'shortest_edge': 32}, so that images keep different sizes"):
        predict(arguments(photos))
