"""The command msl-hf: one parser, the recipes over it, shipped configurations, what a newcomer sees."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from msl_hf import cli
from msl_hf.console.configs import find_yaml, read_yaml, shipped
from msl_hf.console.errors import RunError
from msl_hf.runs.arguments import parse_arguments
from msl_hf.runs.output import command_line

RECIPES = Path(__file__).parents[1] / "recipes"


def run(monkeypatch, *argv):
    monkeypatch.setattr(sys, "argv", ["msl-hf", *argv])
    cli.main()


@pytest.mark.parametrize("argv", [[], ["--help"]])
def test_alone_it_says_what_to_do_next(monkeypatch, capsys, argv):
    run(monkeypatch, *argv)
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in cli.COMMANDS)
    assert "msl-hf train  " in printed and "--data_dir photos" in printed


def test_a_misspelt_command(monkeypatch):
    with pytest.raises(SystemExit, match="no command 'trian'; did you mean train?"):
        run(monkeypatch, "trian")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_every_command(monkeypatch, capsys, name):
    if name == "app":
        pytest.importorskip("gradio")
    with pytest.raises(SystemExit) as done:
        run(monkeypatch, name, "--help")
    printed = capsys.readouterr().out
    assert done.value.code == 0 and f"msl-hf {name}" in printed and "recipes/" not in printed.split("\n\n")[0]
    titles = re.findall(r"^(\w.*):$", printed, re.MULTILINE)
    assert titles[-1] == "Beside them" and "options" not in titles
    if name.startswith("train"):
        assert titles[-2].startswith("All other flags of")
        assert printed.index("--output_dir") < printed.index("--loss_weights") < printed.index("--adam_beta1")
        assert printed.count("--image_size ") == 1 and "--image-size" not in printed and "--no_" not in printed


def test_every_command_has_a_recipe_of_a_few_lines():
    asked = {}
    for file in [*RECIPES.glob("*.py"), RECIPES / "app" / "app.py"]:
        (asked[file.stem],) = re.findall(r'main\("([\w-]+)"\)', file.read_text())
        assert len(file.read_text().splitlines()) < 16
    assert sorted(asked.values()) == sorted(cli.COMMANDS)
    assert all(name == command.replace("-", "_") for name, command in asked.items() if name != "train_folder")


def test_a_recipe_is_the_command(monkeypatch):
    """The same message for the same mistake."""
    for argv, start in (
        (["msl-hf", "predict"], cli.main),
        ([str(RECIPES / "predict.py")], lambda: runpy.run_path(str(RECIPES / "predict.py"), run_name="__main__")),
    ):
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit, match="error: say .*--model"):
            start()


def test_a_package_that_is_missing(monkeypatch):
    def fail(*_):
        raise ModuleNotFoundError("No module named 'gradio'", name="gradio")

    monkeypatch.setattr(cli.importlib, "import_module", fail)
    with pytest.raises(SystemExit, match="msl-hf app needs gradio, which is not installed: pip install 'msl_hf.app.'"):
        run(monkeypatch, "app")


@pytest.mark.slow
def test_as_a_module_and_as_a_script(tmp_path):
    for command in ([sys.executable, "-m", "msl_hf"], [str(Path(sys.executable).with_name("msl-hf"))]):
        done = subprocess.run([*command, "predict"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1 and done.stderr.startswith("error: say")


@pytest.mark.parametrize(
    ("argv", "written"),
    [
        (["/site/msl_hf/__main__.py", "train", "--data_dir", "my photos"],
         "accelerate launch -m msl_hf train --data_dir 'my photos'"),
        (["/usr/bin/msl-hf", "train"], "msl-hf train"),
        (["recipes/train_voc.py", "--seed", "1"], "accelerate launch recipes/train_voc.py --seed 1"),
    ],
)  # fmt: skip
def test_the_command_in_the_card_can_be_typed_anywhere(monkeypatch, argv, written):
    monkeypatch.setattr(sys, "argv", argv)
    assert command_line() == written


def parse(*argv):
    return parse_arguments(["--output_dir", "out", "--use_cpu", "true", *argv], "")[0]


def test_shipped_configurations_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert set(shipped()) >= {"plus", "paper", "demo", "voc_msl_c"} and "plus" in shipped("ablations")
    named, file = parse("--config", "paper"), parse("--config", str(RECIPES / "configs" / "paper.yaml"))
    assert named.training.loss_weights == file.training.loss_weights == [0.3, 0.2, 0.5]
    assert named.training.lr_step_epochs == 4 and named.training.freeze_batch_norm is False
    assert parse("--config", "voc_msl_v", "--base", "reference").model.interpolation == "bilinear"
    (tmp_path / "mine.yaml").write_text("base: paper\nseed: 5\n")
    mine = parse("--config", "mine.yaml")
    assert mine.training.seed == 5 and mine.training.lr_step_epochs == 4
    (tmp_path / "plus").mkdir()
    assert find_yaml("plus") == shipped()["plus"]  # a folder of that name is no configuration
    with pytest.raises(RunError, match="papr: there is no such file, and the package has .*paper"):
        parse("--config", "papr")


def test_a_backbone_beside_its_configuration_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(parse("--config", "demo").model.backbone) == RECIPES / "configs" / "demo_backbone.json"
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "net.json").write_text("{}")
    (tmp_path / "sub" / "a.yaml").write_text("backbone: net.json\n")
    (tmp_path / "b.yaml").write_text("base: sub/a.yaml\n")
    assert read_yaml("b.yaml")["backbone"] == str(Path("sub/net.json"))


def test_dashes_are_underscores():
    assert parse("--image-size=96", "--hole-ratio", "0.1", "0.2").model.image_size == 96
    arguments = parse_arguments(["--data-dir", "photos", "--output-dir", "o", "--use-cpu", "true"], "",
                                without_data="demo")[0]  # fmt: skip
    assert arguments.model.backbone is None and arguments.training.output_dir == "o"
