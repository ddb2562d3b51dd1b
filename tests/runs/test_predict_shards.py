import contextlib
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from exports import EXPORTS
from launching import launched
from PIL import Image
from pyarrow import parquet
from torch.utils.data import DataLoader

from msl_hf.console.errors import RunError
from msl_hf.console.files import locked
from msl_hf.data import build_processor
from msl_hf.runs import predict_shards as shards_module
from msl_hf.runs.predict import PredictArguments, predict, read_predictions
from msl_hf.runs.predict_shards import Steps, find_shards

NUM_IMAGES, BROKEN = 11, 3


@pytest.fixture
def photos(tiny_model, tmp_path):
    """A model folder, and eleven images in two folders, one of which is no image."""
    tiny_model("timm_vit").save_pretrained(tmp_path / "model")
    build_processor(None, 32).save_pretrained(tmp_path / "model")
    for number in range(NUM_IMAGES):
        file = tmp_path / "photos" / ("sub" if number > 6 else "") / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content(number))
    (tmp_path / "photos" / "notes.txt").touch()
    return tmp_path


def content(number: int) -> bytes:
    """Of the file of an image."""
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (20 + number, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return b"no image" if number == BROKEN else file.getvalue()


def as_folder(photos: Path) -> dict:
    return {"images": [str(photos / "photos")]}


def as_list(photos: Path) -> dict:
    names = [str(file.relative_to(photos)) for file in sorted((photos / "photos").rglob("*.png"))]
    text = "\r\n".join([str(photos / names[0]), "", *names[1:]])
    (photos / "list.txt").write_text(text, encoding="utf-8-sig", newline="")
    return {"images": [f"@{photos / 'list.txt'}"]}


def as_globs(photos: Path) -> dict:
    return {"images": [str(photos / "photos" / "*.png"), str(photos / "photos" / "sub" / "*.png")]}


def as_parquet(photos: Path) -> dict:
    """Three files, of five, one and five rows."""
    for file, numbers in enumerate((range(5), range(5, 6), range(6, 11))):
        rows = Dataset.from_dict(
            {"picture": [{"bytes": content(number), "path": None} for number in numbers]},
            features=Features({"picture": ImageFeature()}),
        )
        (photos / "set").mkdir(exist_ok=True)
        rows.to_parquet(photos / "set" / f"test-{file:05d}-of-00003.parquet", batch_size=2)
    return {"dataset": str(photos / "set"), "image_column": "picture"}


def as_stream(photos: Path) -> dict:
    return {**as_parquet(photos), "streaming": True}


def as_tars(photos: Path) -> dict:
    (photos / "tars").mkdir(exist_ok=True)
    for file, numbers in enumerate((range(8), range(8, 11))):
        with tarfile.open(photos / "tars" / f"test-{file}.tar", "w") as tar:
            for number in numbers:
                member = tarfile.TarInfo(f"{number:04d}.png")
                member.size = len(content(number))
                tar.addfile(member, io.BytesIO(content(number)))
    return {"dataset": str(photos / "tars"), "image_column": "png", "streaming": True}


SOURCES = {"folder": as_folder, "list": as_list, "globs": as_globs, "data set": as_parquet, "stream": as_stream,
           "tars": as_tars}  # fmt: skip


def arguments(photos: Path, output: str = "labels/", **more) -> PredictArguments:
    settings = {"threshold": 0.0, "batch_size": 2, "rows_per_shard": 4, "cpu_threads": 1, "use_cpu": True,
                "disable_tqdm": True}  # fmt: skip
    return PredictArguments(str(photos / "model"), output=f"{photos / 'out'}/{output}", **{**settings, **more})


def read(folder: Path) -> list[dict]:
    """The rows of all shards, in the order of their names."""
    return [row for file in sorted(folder.glob("*.parquet")) for row in parquet.read_table(file).to_pylist()]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def expected_rows(photos: Path) -> list[dict]:
    """What the output of one file says of the readable images, in order."""
    predict(arguments(photos, "one.jsonl", **as_folder(photos)))
    return read_predictions(photos / "out" / "one.jsonl")


@pytest.mark.parametrize("source", SOURCES)
def test_rows_are_those_of_one_file_in_order_and_each_image_has_one(source, photos, capsys):
    settings = SOURCES[source](photos)
    report = predict(arguments(photos, **settings))
    rows = read(photos / "out" / "labels")
    sizes = {"stream": [5, 1, 5], "tars": [8, 3]}.get(source, [11])
    units = [(file, chunk) for file, size in enumerate(sizes) for chunk in range(-(-size // 4))]
    names = {f"part-{file:05d}-{chunk:06d}.parquet" for file, chunk in units}
    assert {file.name for file in (photos / "out" / "labels").iterdir()} == names | {"_run.json"}
    assert report == {"num_images": NUM_IMAGES, "unreadable": 1, "num_shards": len(names)}
    printed = capsys.readouterr().out
    assert f"11 images in {len(names)} shards" in printed
    assert "1 images could not be read, and have an error instead of labels, in part-00000-000000.parquet" in printed
    assert len(rows) == NUM_IMAGES and rows[BROKEN]["labels"] is None and rows[BROKEN]["scores"] is None
    assert "cannot be decoded" in rows[BROKEN]["error"]
    expected = expected_rows(photos)
    readable = [row for row in rows if row["error"] is None]
    assert [(row["labels"], row["scores"]) for row in readable] == [
        (row["labels"], pytest.approx(row["scores"], abs=1e-5)) for row in expected
    ]
    if settings.get("streaming"):
        names = [f"test/{file:05d}/{number}" for file, size in enumerate(sizes) for number in range(size)]
    elif source == "data set":
        names = [f"test/{number}" for number in range(NUM_IMAGES)]
    else:
        names = [str(file) for file in sorted((photos / "photos").rglob("*.png"))]
    assert [row["image"] for row in rows] == names


def test_columns_have_their_types_whatever_is_in_them(photos):
    predict(arguments(photos, images=[str(photos / "photos" / "03.png")]))
    (file,) = (photos / "out" / "labels").glob("*.parquet")
    assert str(parquet.read_schema(file).remove_metadata()) == (
        "image: string\nlabels: list<element: string>\n  child 0, element: string\n"
        "scores: list<element: double>\n  child 0, element: double\nerror: string"
    )


@pytest.mark.parametrize("source", SOURCES)
def test_what_is_there_is_neither_predicted_nor_decoded_again(source, photos, monkeypatch, capsys):
    """A shard in the middle is missing: its images alone are read, and the folder is as it was."""
    settings = SOURCES[source](photos)
    predict(arguments(photos, **settings))
    folder = photos / "out" / "labels"
    before = contents(folder)
    missing = sorted(before)[1]
    names = parquet.read_table(folder / missing)["image"].to_pylist()
    (folder / missing).unlink()
    seen = []
    original = shards_module.read_pixels

    def watch(row, *arguments):
        seen.append(row["name"])
        return original(row, *arguments)

    monkeypatch.setattr(shards_module, "read_pixels", watch)
    capsys.readouterr()
    predict(arguments(photos, **settings))
    assert seen == names and contents(folder) == before
    assert (
        f"{len(before) - 2} shards with {NUM_IMAGES - len(names)} images are there already" in capsys.readouterr().out
    )


def test_finished_files_of_a_stream_are_not_opened_again(photos, monkeypatch):
    settings = as_stream(photos)
    predict(arguments(photos, **settings))
    (photos / "out" / "labels" / "part-00002-000001.parquet").unlink()
    opened = []
    original = shards_module._Streamed.__iter__

    def watch(self):
        opened.append(self.name)
        return original(self)

    monkeypatch.setattr(shards_module._Streamed, "__iter__", watch)
    predict(arguments(photos, **settings))
    assert opened == ["test/00002"]


class Counting:
    """An input without end that counts how many of its images were asked for and how many were read."""

    def __init__(self):
        self.asked, self.read = 0, 0

    def __iter__(self):
        for self.asked in itertools.count(1):
            yield self.asked - 1

    def row(self, number: int) -> dict:
        self.read += 1
        return {"name": str(number), "image": {"path": "", "bytes": content(0)}}


def test_an_input_without_end_is_read_as_far_as_it_is_predicted(photos):
    """Nothing is listed before: after three shards, no more than the first batch of the fourth was asked for."""
    source = Counting()
    steps = iter(Steps([source], build_processor(None, 32), arguments(photos), {}, 0, 1))
    wholes = [content for _, _, content in itertools.islice(steps, 9) if isinstance(content, shards_module.Whole)]
    assert [whole.rows for whole in wholes] == [4, 4, 4] and source.asked <= 14 and source.read <= 16


@pytest.mark.parametrize(("ranks", "workers"), [(1, 3), (2, 0), (2, 2), (3, 1), (4, 0)])
@pytest.mark.parametrize("source", ["list", "stream"])
def test_every_image_belongs_to_one_process_and_worker(source, ranks, workers, photos):
    """As the loaders of all processes give them, with a shard there already: each chunk in order, by one process."""
    inputs = shards_module._inputs(arguments(photos, **SOURCES[source](photos)))
    sizes = [sum(1 for _ in inputs[file]) for file in range(len(inputs))]
    done = {(0, 1): shards_module.Shard(4, 0, "")}
    found: dict = {}
    for rank in range(ranks):
        steps = Steps(inputs, build_processor(None, 32), arguments(photos), done, rank, ranks)
        own: dict = {}
        for file, chunk, content in DataLoader(steps, batch_size=None, num_workers=workers, collate_fn=tuple):
            if isinstance(content, list):
                own.setdefault((file, chunk), []).extend(name for name, _ in content)
            elif content is not None:
                assert content.rows == len(own.setdefault((file, chunk), [])) or (file, chunk) in done
        assert not own.keys() & found.keys()
        found |= own
    assert found.pop((0, 1)) == []
    names = {file: [inputs[file].row(handle)["name"] for handle in inputs[file]] for file in range(len(inputs))}
    assert found == {
        (file, start // 4): names[file][start : start + 4]
        for file, size in enumerate(sizes)
        for start in range(0, size, 4)
        if (file, start // 4) != (0, 1)
    }


def test_a_process_opens_its_own_files_alone(photos, monkeypatch):
    inputs = shards_module._inputs(arguments(photos, **as_stream(photos)))
    opened = []
    original = shards_module._Streamed.__iter__
    monkeypatch.setattr(shards_module._Streamed, "__iter__", lambda self: opened.append(self.name) or original(self))
    list(Steps(inputs, build_processor(None, 32), arguments(photos), {}, 1, 2))
    assert opened == ["test/00001"]


@pytest.mark.parametrize("source", ["list", "tars"])
def test_workers_change_nothing(source, photos):
    settings = SOURCES[source](photos)
    predict(arguments(photos, **settings))
    predict(arguments(photos, "three/", num_workers=3, **settings))
    alone, three = (contents(photos / "out" / name) for name in ("labels", "three"))
    assert alone.pop("_run.json") == three.pop("_run.json") and alone == three


def test_all_workers_read_all_of_a_stream_into_one_file(photos):
    """datasets gives each worker some of the files, of which a worker must not take a share again."""
    predict(arguments(photos, "labels.jsonl", num_workers=2, **as_stream(photos)))
    rows = read_predictions(photos / "out" / "labels.jsonl")
    assert [row["image"] for row in rows] == [f"test/{number}" for number in range(NUM_IMAGES) if number != BROKEN]


def test_rows_without_an_image(photos):
    rows = Dataset.from_dict(
        {"image": [{"bytes": content(0), "path": None}, None]}, Features({"image": ImageFeature()})
    )
    (photos / "set").mkdir()
    rows.to_parquet(photos / "set" / "test.parquet")
    for output, streaming in (("labels/", False), ("labels.jsonl", True), ("stream/", True)):
        settings = {"dataset": str(photos / "set"), "streaming": streaming, "batch_size": 1, "rows_per_shard": 1}
        for _ in range(2):
            report = predict(arguments(photos, output, **settings))
        assert report["unreadable"] in (1, {"test/1": "test/1: there is no image in this row"})
    assert [row["error"] for row in read(photos / "out" / "stream")][
        1
    ] == "test/00000/1: there is no image in this row"


def test_labelled_data_have_the_names_of_their_files(photos):
    EXPORTS["yolo"](photos / "data")
    predict(arguments(photos, dataset=str(photos / "data"), split="val"))
    assert [Path(row["image"]).name for row in read(photos / "out" / "labels")] == ["c.png", "d.png"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 0.5}, "with --threshold 0.0, not 0.5"),
        ({"rows_per_shard": 5}, "with --rows_per_shard 4, not 5"),
        ({"top_k": 2}, "with --top_k None, not 2"),
        ({"images": ["x.png"]}, "no such image"),
    ],
)
def test_other_settings_are_refused(change, message, photos):
    predict(arguments(photos, **as_folder(photos)))
    with pytest.raises(RunError, match=message):
        predict(arguments(photos, **{**as_folder(photos), **change}))


def test_other_models_and_sources_are_refused(photos, tiny_model):
    predict(arguments(photos, **as_folder(photos)))
    with pytest.raises(RunError, match=r"with --images \[.*photos'\], not \[.*00.png'\]; choose another --output"):
        predict(arguments(photos, images=[str(photos / "photos" / "00.png")]))
    with pytest.raises(RunError, match="with --dataset None, not "):
        predict(arguments(photos, **as_parquet(photos)))
    tiny_model("timm_resnet").save_pretrained(photos / "model")
    with pytest.raises(RunError, match="has other weights now"):
        predict(arguments(photos, **as_folder(photos)))


def test_a_list_that_changed_is_refused(photos):
    """A name that goes shifts the others; names at the end make the last shard, and shards behind it, others."""
    settings = as_list(photos)
    predict(arguments(photos, **settings))
    file, folder = photos / "list.txt", photos / "out" / "labels"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:2] + lines[3:]))
    with pytest.raises(RunError, match=r"part-00000-000001.parquet: its first image is .*04.png, where .*05.png"):
        predict(arguments(photos, **settings))
    file.write_text("\n".join(lines[:5]))
    with pytest.raises(RunError, match="part-00000-000002.parquet is of images that are no longer there"):
        predict(arguments(photos, **settings))
    file.write_text("\n".join([*lines, *lines[2:5]]))
    with pytest.raises(RunError, match="part-00000-000002.parquet: holds 3 images, where the input now has 4; remove"):
        predict(arguments(photos, **settings))
    (folder / "part-00000-000002.parquet").unlink()
    assert predict(arguments(photos, **settings))["num_images"] == 14
    assert [Path(row["image"]).name for row in read(folder)[10:]] == ["10.png", "01.png", "02.png", "03.png"]


def test_a_data_set_that_changed_is_refused(photos):
    settings = as_tars(photos)
    predict(arguments(photos, **settings))
    (photos / "out" / "labels" / "part-00001-000000.parquet").unlink()
    (photos / "out" / "labels" / "part-00000-000001.parquet").unlink()
    with tarfile.open(photos / "tars" / "test-0.tar", "w") as tar:
        member = tarfile.TarInfo("0.png")
        member.size = len(content(9))
        tar.addfile(member, io.BytesIO(content(9)))
    with pytest.raises(
        RunError, match=r"first image is test/00000/0 \(checksum \w+\), where .*test/00000/0 \(checksum"
    ):
        predict(arguments(photos, **settings))
    shutil.copy(photos / "tars" / "test-0.tar", photos / "tars" / "test-2.tar")
    with pytest.raises(RunError, match="was written from 2 inputs, such as files of a data set, and there are 3 now"):
        predict(arguments(photos, **settings))


def test_relative_names_are_those_of_the_folder_that_they_began_in(photos, monkeypatch):
    monkeypatch.chdir(photos)
    predict(arguments(photos, images=["photos"]))
    (photos / "out" / "photos").mkdir()
    shutil.copy(photos / "photos" / "00.png", photos / "out" / "photos")
    monkeypatch.chdir(photos / "out")
    with pytest.raises(RunError, match=f"names images from within {re.escape(str(photos))}; go on from there"):
        predict(arguments(photos, images=["photos"]))


def test_what_is_no_place_for_shards(photos):
    settings = as_folder(photos)
    with pytest.raises(RunError, match=r"labels/? holds 00.png and no _run.json"):
        shutil.copytree(photos / "photos", photos / "out" / "labels")
        predict(arguments(photos, "labels", **settings))  # a folder that exists needs no / at its end
    (photos / "out" / "file").touch()
    with pytest.raises(RunError, match="file: cannot be a folder, because .*file is a file"):
        predict(arguments(photos, "file/", **settings))
    with pytest.raises(RunError, match="--output takes a folder, whose name ends in /, or a file"):
        predict(arguments(photos, "new", **settings))
    (photos / "out" / "run").mkdir()
    (photos / "out" / "run" / "_run.json").write_text("{}")
    with pytest.raises(RunError, match="holds the _run.json of another command"):
        predict(arguments(photos, "run/", **settings))
    with locked(photos / "out" / "busy" / ".lock"), pytest.raises(RunError, match="another process is writing here"):
        predict(arguments(photos, "busy/", **settings))


def test_lists_that_cannot_be_used(photos, monkeypatch):
    monkeypatch.chdir(photos)
    (photos / "empty.txt").write_text("\n\n")
    for output in ("labels/", "labels.jsonl"):
        with pytest.raises(RunError, match="@empty.txt: the list is empty"):
            predict(arguments(photos, output, images=["@empty.txt"]))
        with pytest.raises(
            RunError, match="@none.txt: the list cannot be read .*an image of that name is ./@none.txt"
        ):
            predict(arguments(photos, output, images=["@none.txt"]))
    with pytest.raises(RunError, match="--rows_per_shard"):
        predict(arguments(photos, rows_per_shard=0, **as_folder(photos)))


def test_a_list_gives_one_file_as_well(photos):
    predict(arguments(photos, "list.jsonl", **as_list(photos)))
    assert read_predictions(photos / "out" / "list.jsonl") == expected_rows(photos)


def test_names_that_are_no_utf_8(photos):
    os.rename(photos / "photos" / "00.png", os.fsencode(photos / "photos") + b"/\xff.png")
    for _ in range(2):
        assert predict(arguments(photos, **as_folder(photos)))["unreadable"] == 2
    assert sum("its name is not UTF-8" in (row["error"] or "") for row in read(photos / "out" / "labels")) == 1


def test_damaged_shards_are_named_and_leftovers_removed(photos):
    predict(arguments(photos, **as_folder(photos)))
    folder = photos / "out" / "labels"
    before = contents(folder)
    damaged = folder / "part-00000-000001.parquet"
    damaged.write_bytes(before[damaged.name][:-20])
    with pytest.raises(RunError, match="part-00000-000001.parquet: cannot be read as a shard .*; remove it"):
        predict(arguments(photos, **as_folder(photos)))
    damaged.rename(folder / ".part-00000-000001.0123")
    predict(arguments(photos, **as_folder(photos)))
    assert contents(folder) == before


def test_a_prediction_that_fails_at_its_start_leaves_nothing(photos, monkeypatch):
    monkeypatch.setattr(shards_module, "predict_batch", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict(arguments(photos, **as_folder(photos)))
    assert not list((photos / "out" / "labels").iterdir())


def command(photos: Path, ranks: int, output: str, *more: str) -> list[str]:
    return launched(ranks, "-m", "msl_hf", "predict", "--model", str(photos / "model"), "--threshold", "0",
                    "--use_cpu", "true", "--disable_tqdm", "true", "--output", f"{photos / 'out'}/{output}/",
                    *more)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("source", ["list", "stream"])
def test_two_processes_write_what_one_writes(source, photos):
    settings = SOURCES[source](photos)
    predict(arguments(photos, **settings))
    flags = ["--batch_size", "2", "--rows_per_shard", "4"]
    for name, value in settings.items():
        flags += [f"--{name}", *(value if isinstance(value, list) else [str(value)])]
    for workers in ("0", "2"):
        done = subprocess.run(
            command(photos, 2, workers, *flags, "--num_workers", workers),
            capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("11 images in") == 1
        one, two = (contents(photos / "out" / name) for name in ("labels", workers))
        assert one.pop("_run.json") and two.pop("_run.json") and one == two


@pytest.mark.slow
def test_killed_at_random_moments_and_gone_on_with_by_others_every_image_has_one_row(photos):
    names = []
    for number in range(1500):
        names.append(f"photos/{number:04d}.png")
        Image.new("RGB", (40, 40), (number % 256, number // 256, 0)).save(photos / names[-1])
    (photos / "photos" / "0700.png").write_bytes(b"no image")
    (photos / "list.txt").write_text("\n".join(names))
    folder, rng, grown = photos / "out" / "labels", random.Random(0), 0
    flags = ["--images", f"@{photos / 'list.txt'}", "--batch_size", "1", "--rows_per_shard", "16"]
    settings = {"env": {**os.environ, "OMP_NUM_THREADS": "1"}, "start_new_session": True}
    for ranks, workers in ((1, 0), (2, 1), (3, 0)):
        before = set(folder.glob("part-*"))
        run = command(photos, ranks, "labels", *flags, "--num_workers", str(workers))
        process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **settings)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline and set(folder.glob("part-*")) == before:
            time.sleep(0.001)
        time.sleep(0.2 * rng.random())
        with contextlib.suppress(ProcessLookupError):  # done before it was killed
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
        after = set(folder.glob("part-*"))
        grown += before < after and len(after) < 94
    run = command(photos, 1, "labels", *flags, "--num_workers", "3")
    done = subprocess.run(run, capture_output=True, text=True, timeout=200, **settings)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = read(folder)
    assert grown > 0 and [row["image"] for row in rows] == [str(photos / name) for name in names]
    assert [number for number, row in enumerate(rows) if row["error"] is not None] == [700]
    assert sum(shard.rows for shard in find_shards(folder).values()) == 1500
    assert {file.name for file in folder.glob(".*")} == set()
    assert json.loads((folder / "_run.json").read_text())["rows_per_shard"] == 16
