"""Grids, with training recipes that only write down what they were asked for."""

import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from trees import make_checkpoint

from msl_hf.console.errors import RunError
from msl_hf.studies.ablate import AblateArguments, Grid, Run, _Results, ablate, image_passes, summary
from msl_hf.studies.ablate import run as ablate_command

# Clean mAP is the learning rate plus the seed in percent; fails while a file called `broken` lies beside it.
TRAIN = """
import json, pathlib, sys
import yaml
flags = {}
for part in sys.argv[1:]:
    if part.startswith("--"):
        values = flags.setdefault(part[2:], [])
    else:
        values.append(part)
settings = {**yaml.safe_load(open(flags["config"][0])), "learning_rate": 0.1}
rate, seed = float(flags.get("rate", [settings["rate"]])[0]), int(flags["seed"][0])
here = pathlib.Path(__file__).parent
with open(here / "calls.txt", "a") as calls:
    calls.write(f"{rate:g} {seed} {flags['resume_from_checkpoint'][0]}\\n")
if "feature_dir" in flags:
    with open(here / "features.txt", "a") as features:
        features.write(f"{rate:g} {seed} {flags['feature_dir'][0]}\\n")
if (here / "broken").exists() and rate == 0.2:
    sys.exit("error: out of luck")
output = pathlib.Path(flags["output_dir"][0])
output.mkdir(parents=True, exist_ok=True)
weights = [float(value) for value in flags.get("loss_weights", [0.3, 0.2, 0.5])]
run = {"loss_weights": weights, "masked_forward": "auto", "num_train_epochs": 6, "data_dir": "photos",
       "masks": "generated", "eval_masks": None, "mask_hole": "white"}
metrics = {name: 0.5 for name in ("mAP", "CF1", "OF1", "CR")}
report = {"last": {"clean": {**metrics, "mAP": rate + seed / 100}, "masked": metrics}, "num_train_images": 7,
          "num_test_images": 3, "train_seconds": 1.0, "hardware": "an abacus"}
(output / "run.json").write_text(json.dumps(run))
(output / "checkpoint-1").mkdir(exist_ok=True)
(output / "metrics.json").write_text(json.dumps(report))
"""
EVALUATE = """
import json, pathlib, sys
output = pathlib.Path(sys.argv[sys.argv.index("--output_dir") + 1])
output.mkdir()
at = sys.argv.index("--hole_ratio") + 1
ratios = [float(value) for value in sys.argv[at:]]
rows = [{"hole_ratio": [low, high], "mean_hole_ratio": (low + high) / 2, "mAP": 1 - high, "CR": 0.1, "CF1": 0.2}
        for low, high in zip(ratios[::2], ratios[1::2])]
(output / "metrics.json").write_text(json.dumps({"models": {"last": {"robustness": rows}}}))
"""


COMMANDS = """
import pathlib, runpy, sys
runpy.run_path(str(pathlib.Path(__file__).with_name(sys.argv.pop(1).replace("-", "_") + ".py")), run_name="__main__")
"""


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "commands.py").write_text(COMMANDS)
    monkeypatch.setattr("msl_hf.studies.ablate.PROGRAM", (sys.executable, str(folder / "commands.py")))
    (folder / "train_voc.py").write_text(TRAIN)
    (folder / "evaluate.py").write_text(EVALUATE)
    (folder / "bench.yaml").write_text("rate: 0.1")
    return folder


def write_grid(folder: Path, name: str, rows: dict, **more) -> str:
    content = {"title": f"About {name}", "config": "bench.yaml", "seeds": [1, 2], "rows": rows, **more}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return str(folder / f"{name}.yaml")


def calls(recipes: Path) -> list[str]:
    return sorted((recipes / "calls.txt").read_text().splitlines())


def test_rows_that_differ_in_the_head_alone_share_their_features(recipes, tmp_path):
    cached = {"cache_features": True, "learning_rate": 1}
    rows = {"a": {**cached, "rate": 0.1}, "b": {**cached, "rate": 0.1, "learning_rate": 2, "loss_weights": [1, 0, 0]},
            "other": {**cached, "rate": 0.3}, "not cached": {"rate": 0.4}}  # fmt: skip
    ablate(AblateArguments([write_grid(recipes, "cached", rows)], str(tmp_path / "out")))
    folders = {}
    for line in (recipes / "features.txt").read_text().splitlines():
        rate, seed, folder = line.split()
        folders.setdefault((rate, seed), set()).add(folder)
    assert set(folders) == {("0.1", "1"), ("0.1", "2"), ("0.3", "1"), ("0.3", "2")}
    assert all(len(found) == 1 for found in folders.values()) and len(set.union(*folders.values())) == 4
    assert str(tmp_path / "out" / "features") in min(folders["0.1", "1"])


def test_all_rows_and_seeds_run_once_and_are_tabled(recipes, tmp_path, capsys):
    """Equal settings in two grids are one run; means and deviations by hand; the second time nothing runs."""
    first = write_grid(recipes, "first", {"Low rate": {}, "High": {"rate": 0.3, "loss_weights": [1, 0, 0]}})
    second = write_grid(recipes, "second", {"as ever": {}}, hole_ratio=[0.1, 0.2, 0.4, 0.6])
    arguments = AblateArguments([first, second], str(tmp_path / "out"), jobs=2)
    lines = ablate(arguments)
    assert calls(recipes) == ["0.1 1 false", "0.1 2 false", "0.3 1 false", "0.3 2 false"]
    assert [(line["row"], line["seed"], line["image_passes"]) for line in lines if line["grid"] == "first"] == [
        ("Low rate", 1, 12), ("High", 1, 6), ("Low rate", 2, 12), ("High", 2, 6)
    ]  # fmt: skip
    table = (tmp_path / "out" / "first.md").read_text()
    assert "## About first" in table and "7 training and 3 test images" in table and "an abacus" in table
    assert "| Low rate | 12 | 2 | 11.5 ± 0.7 | 50.0 ± 0.0 |" in table and "| High | 6 | 2 | 31.5 ± 0.7 |" in table
    assert [row["mAP"] for row in lines[-1]["robustness"]] == pytest.approx([0.8, 0.4])
    for picture in ("first.png", "second.png", "second_curves.png"):
        assert Image.open(tmp_path / "out" / picture).size[0] > 500
    stored = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert len(stored) == 6 and not list((tmp_path / "out").rglob("checkpoint-*"))
    assert "6 rows and seeds in 2 grids, 4 to run" in capsys.readouterr().out
    assert ablate(arguments) == lines and len(calls(recipes)) == 4
    assert (tmp_path / "out" / "results.jsonl").read_text().splitlines() == stored
    assert "0 to run" in capsys.readouterr().out


def test_a_failed_run_is_named_and_the_others_go_on(recipes, tmp_path):
    grid = write_grid(recipes, "grid", {"good": {}, "bad": {"rate": 0.2}})
    (recipes / "broken").touch()
    arguments = AblateArguments([grid], str(tmp_path / "out"), seeds=[1])
    with pytest.raises(RunError, match=r"1 runs failed:\n  grid, bad, seed 1: error: out of luck.*\.log"):
        ablate(arguments)
    assert "| good |" in (tmp_path / "out" / "grid.md").read_text()
    (recipes / "broken").unlink()
    assert len(ablate(arguments)) == 2 and calls(recipes) == ["0.1 1 false", "0.2 1 false", "0.2 1 false"]


def test_an_interrupted_run_is_resumed(recipes, tmp_path):
    grid = write_grid(recipes, "grid", {"only": {}})
    arguments = AblateArguments([grid], str(tmp_path / "out"), seeds=[1])
    ablate(arguments)
    (run,) = (tmp_path / "out" / "runs").glob("*-1")
    (run / "metrics.json").unlink()
    (tmp_path / "out" / "results.jsonl").unlink()
    make_checkpoint(run / "checkpoint-5")
    ablate(arguments)
    assert calls(recipes) == ["0.1 1 false", "0.1 1 true"]


def test_a_line_stands_for_a_run_whose_folder_is_gone(recipes, tmp_path):
    """Results that came with the package are not made again, in any grid; curves and other settings are."""
    first = write_grid(recipes, "first", {"a": {}})
    ablate(AblateArguments([first], str(tmp_path / "out"), seeds=[1]))
    shutil.rmtree(tmp_path / "out" / "runs")
    second = write_grid(recipes, "second", {"the same": {}, "other": {"rate": 0.3}})
    lines = ablate(AblateArguments([first, second], str(tmp_path / "out"), seeds=[1]))
    assert calls(recipes) == ["0.1 1 false", "0.3 1 false"]
    by_row = {line["row"]: line for line in lines}
    assert by_row["the same"] == {**by_row["a"], "grid": "second", "row": "the same"}
    third = write_grid(recipes, "third", {"a": {}}, hole_ratio=[0.1, 0.2])
    (line,) = ablate(AblateArguments([third], str(tmp_path / "out"), seeds=[1]))
    assert calls(recipes) == ["0.1 1 false", "0.1 1 false", "0.3 1 false"] and len(line["robustness"]) == 1
    (recipes / "bench.yaml").write_text("rate: 0.4")
    (line,) = ablate(AblateArguments([first], str(tmp_path / "out"), seeds=[1]))
    assert line["clean"]["mAP"] == pytest.approx(0.41)


def test_only_some_rows_and_only_tables(recipes, tmp_path):
    grid = write_grid(recipes, "grid", {"one": {}, "two": {"rate": 0.3}})
    lines = ablate(AblateArguments([grid], str(tmp_path / "out"), seeds=[4], rows=["two"]))
    assert [(line["row"], line["seed"]) for line in lines] == [("two", 4)]
    lines = ablate(AblateArguments([grid], str(tmp_path / "out"), seeds=[4], train=False))
    assert len(lines) == 1 and len(calls(recipes)) == 1
    with pytest.raises(RunError, match="no grid has a row 'three'"):
        ablate(AblateArguments([grid], str(tmp_path / "out"), rows=["three"]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"title": "t", "config": "bench.yaml"}, "has no rows"),
        ({"title": "t", "config": "bench.yaml", "rows": {"a": {}}, "sedes": [1]}, "unknown key sedes"),
        ({"title": "t", "config": "bench.yaml", "rows": ["a"]}, "rows must be"),
        ({"title": "t", "config": "bench.yaml", "rows": {"a": {"seed": 3}}}, "sets seed or output_dir"),
        ({"title": "t", "config": "bench.yaml", "rows": {"a": {"rate": None}}}, "'a' sets rate to nothing; give it a"),
    ],
)
def test_grids_are_checked(content, message, tmp_path):
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(RunError, match=f"grid.yaml: .*{message}"):
        Grid.read(tmp_path / "grid.yaml")


def test_cost_and_summary():
    settings = {"loss_weights": [0.3, 0.2, 0.5], "masked_forward": "auto", "num_train_epochs": 6}
    assert image_passes(settings) == 12 and image_passes({**settings, "masked_forward": "sequential"}) == 18
    assert image_passes({**settings, "loss_weights": [1, 0, 0]}) == 6
    assert image_passes({**settings, "masked_share": 0.5}) == 9
    cached = {**settings, "cache_features": True, "cached_views": 3}
    assert image_passes(cached) == 6 and image_passes({**cached, "loss_weights": [1, 0, 0]}) == 3
    assert summary([0.5]) == "50.0" and summary([0.5, 0.6]) == "55.0 ± 7.1"


def test_grids_of_the_package_are_complete():
    """Every setting of every grid is a flag of its recipe, and names of rows with equal settings agree."""
    names = {}
    files = sorted((Path(__file__).parents[2] / "recipes" / "ablations").glob("*.yaml"))
    grids = [Grid.read(file) for file in files if not file.stem.startswith("bench")]
    assert {
        "plus",
        "coco80",
        "scenes",
        "visible",
        "table_3",
        "table_4",
        "table_5",
        "table_6",
        "table_7",
        "table_8",
        "table_13",
        "batch_size",
        "figure_3",
    } <= {grid.name for grid in grids}
    for grid in grids:
        assert grid.config.is_file()
        for row, settings in grid.rows.items():
            key = str(grid.config), json.dumps(settings, sort_keys=True)
            names.setdefault(key, set()).add(row)
    assert all(len(found) == 1 or "MSL" in found for found in names.values()), names


@pytest.mark.slow
def test_one_command_a_run_for_a_cluster(recipes, tmp_path, capsys, monkeypatch):
    """Each line does its run alone, and what all have written makes the table; equal settings are in one line."""
    first = write_grid(recipes, "first", {"it's low": {}, "High": {"rate": 0.3}})
    second = write_grid(recipes, "second", {"as ever": {}}, hole_ratio=[0.1, 0.2])
    arguments = AblateArguments([first, second], str(tmp_path / "out"), list=True)
    assert ablate(arguments) == [] and not (recipes / "calls.txt").exists()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and sum(" && " in line for line in lines) == 2
    for line in lines:
        for command in line.split(" && "):
            program, name, *flags = shlex.split(command)
            assert (program, name) == ("msl-hf", "ablate")
            ablate_command(flags)
    assert calls(recipes) == ["0.1 1 false", "0.1 2 false", "0.3 1 false", "0.3 2 false"]
    arguments.list, arguments.train = False, False
    assert len(ablate(arguments)) == 6 and len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 6
    arguments.list = True
    capsys.readouterr()
    assert ablate(arguments) == [] and capsys.readouterr().out == ""  # nothing is left


def test_results_of_commands_at_once_are_all_kept(recipes, tmp_path):
    """Two that have read the file before either writes."""
    grid = Grid.read(write_grid(recipes, "grid", {"a": {}, "b": {"rate": 0.3}}))
    ablate(AblateArguments([str(recipes / "grid.yaml")], str(tmp_path / "out"), seeds=[1]))
    file = tmp_path / "out" / "results.jsonl"
    file.unlink()
    runs = [Run.make(grid, row, 1, tmp_path / "out") for row in ("a", "b")]
    both = _Results(tmp_path / "out"), _Results(tmp_path / "out")
    for results, run in zip(both, runs, strict=True):
        results.write([run])
    assert [json.loads(line)["row"] for line in file.read_text().splitlines()] == ["a", "b"]
    assert len(both[0].write(runs)) == 2 and len(file.read_text().splitlines()) == 2


@pytest.mark.slow
def test_time_that_is_up_stops_a_run_which_goes_on_later(recipes, tmp_path, capsys):
    """The run is told by SIGTERM; those that have not begun are not begun."""
    script = (recipes / "train_voc.py").read_text()
    told = f"""
import signal, sys, time, pathlib
signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(tmp_path / "told")!r}).touch(), sys.exit(143)))
time.sleep(60)
"""
    (recipes / "train_voc.py").write_text(told)
    grid = write_grid(recipes, "grid", {"a": {}, "b": {"rate": 0.3}}, seeds=[1])
    arguments = AblateArguments([grid], str(tmp_path / "out"), minutes=0.05)
    assert ablate(arguments) == [] and (tmp_path / "told").exists()
    assert "2 runs are not finished, and the same command goes on" in capsys.readouterr().out
    (recipes / "train_voc.py").write_text(script)
    arguments.minutes = 5
    assert len(ablate(arguments)) == 2
