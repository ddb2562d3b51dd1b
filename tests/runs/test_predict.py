import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from exports import EXPORTS
from PIL import Image
from transformers import pipeline

from msl_hf.data import build_processor
from msl_hf.runs import predict as predict_module
from msl_hf.runs.arguments import RunError
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
    original = predict_module._predict_batch

    def watch(items, *more):
        if len(seen) >= 4 and stop:
            raise KeyboardInterrupt
        seen.extend(name for name, _ in items)
        return original(items, *more)

    monkeypatch.setattr(predict_module, "_predict_batch", watch)
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


def test_two_shares_are_all_images_once(photos):
    rows = predict_module._Files(find_images([str(photos / "photos")]))
    processor = build_processor(None, 32)
    shares = [[name for name, _ in predict_module._Images(rows, processor, {}, rank, 2)] for rank in range(2)]
    assert sorted(shares[0] + shares[1]) == sorted(rows.positions) and abs(len(shares[0]) - len(shares[1])) <= 1


@pytest.mark.slow
def test_two_processes_share_the_work(photos):
    recipe = str(Path(__file__).parents[2] / "recipes" / "predict.py")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu", recipe,
               "--model", str(photos / "model"), "--images", str(photos / "photos"), "--threshold", "0",
               "--batch_size", "2", "--use_cpu", "true", "--output", str(photos / "out" / "labels.jsonl")]  # fmt: skip
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
