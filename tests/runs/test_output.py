import json
import os
import re
import shutil

import pytest
from trees import make_checkpoint

from msl_hf.console.errors import RunError
from msl_hf.console.files import check_results_folder
from msl_hf.runs.arguments import parse_arguments
from msl_hf.runs.output import check_output_dir, claimed_output_dir, find_checkpoint, run_settings
from msl_hf.runs.train_images import OwnImagesArguments

SETTINGS = {"seed": 1}


def arguments(folder, *argv):
    return parse_arguments(["--output_dir", str(folder), "--use_cpu", "true", "--bf16", "false", *argv], "")[0]


def test_no_run_lies_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be a folder"):
        check_output_dir(arguments(tmp_path / "file" / "a", "--backbone", "net"))


def test_same_run_may_come_back_another_may_not(tmp_path):
    with claimed_output_dir(arguments(tmp_path, "--seed", "1", "--backbone", "net")):
        pass
    check_output_dir(arguments(tmp_path, "--seed", "1", "--backbone", "net", "--cpu_threads", "1"))
    with pytest.raises(RunError, match="already holds a different run .*seed 1 -> 2.*--model .* to train on"):
        check_output_dir(arguments(tmp_path, "--seed", "2", "--backbone", "net"))
    assert json.loads((tmp_path / "run.json").read_text())["seed"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_a_stream_goes_on_with_as_many_who_read_it(tmp_path):
    """The order of its images hangs on them; that of a data set does not."""

    def settings(*argv):
        found, _ = parse_arguments(["--output_dir", str(tmp_path), "--use_cpu", "true", *argv], "", OwnImagesArguments)
        return run_settings(found)

    few, many = (settings("--streaming", "true", "--dataloader_num_workers", count) for count in "24")
    assert few["dataloader_num_workers"] == 2 and few["processes"] == 1 and few != many
    assert settings("--dataloader_num_workers", "2") == settings("--dataloader_num_workers", "4")


def test_foreign_models_are_not_overwritten(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RunError, match="of something else"):
        check_output_dir(arguments(tmp_path))


def test_last_complete_checkpoint_is_found(tmp_path, capsys):
    make_checkpoint(tmp_path / "checkpoint-90")
    make_checkpoint(tmp_path / "checkpoint-100")
    make_checkpoint(tmp_path / "checkpoint-200", without="optimizer.pt")
    make_checkpoint(tmp_path / "checkpoint-300", state='{"global_st')
    make_checkpoint(tmp_path / "checkpoint-400", state=None)
    assert find_checkpoint(str(tmp_path), "true", SETTINGS) == str(tmp_path / "checkpoint-100")
    assert capsys.readouterr().out.count("half-written") == 3
    assert find_checkpoint(str(tmp_path), None, {}) is None and find_checkpoint(str(tmp_path), "false", {}) is None
    assert find_checkpoint("elsewhere", str(tmp_path / "checkpoint-90"), SETTINGS) == str(tmp_path / "checkpoint-90")
    with pytest.raises(RunError, match="lacks optimizer.pt"):
        find_checkpoint(str(tmp_path), str(tmp_path / "checkpoint-200"), SETTINGS)
    with pytest.raises(RunError, match="no such checkpoint"):
        find_checkpoint(str(tmp_path), "checkpoint-7", SETTINGS)


def test_adapters_are_weights_too(tmp_path):
    make_checkpoint(tmp_path / "checkpoint-90")
    (tmp_path / "checkpoint-90" / "model.safetensors").rename(tmp_path / "checkpoint-90" / "adapter_model.safetensors")
    assert find_checkpoint(str(tmp_path), "true", SETTINGS) == str(tmp_path / "checkpoint-90")


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_checkpoint_with_a_file_that_is_cut_off_is_left_for_the_one_before(name, share, tmp_path, capsys):
    make_checkpoint(tmp_path / "checkpoint-90")
    make_checkpoint(tmp_path / "checkpoint-100")
    file = tmp_path / "checkpoint-100" / name
    os.truncate(file, int(share * file.stat().st_size))
    assert find_checkpoint(str(tmp_path), "true", SETTINGS) == str(tmp_path / "checkpoint-90")
    assert f"checkpoint-100: half-written checkpoint, {name} is missing or cut off" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "reason"), [('{"seed": 2}', "of another run (seed 2 -> 1)"), (None, "lacks run.json")]
)
def test_a_checkpoint_of_another_run_is_left_for_the_one_before(settings, reason, tmp_path, capsys):
    make_checkpoint(tmp_path / "checkpoint-90")
    make_checkpoint(tmp_path / "elsewhere" / "checkpoint-100", settings=settings)
    shutil.copytree(tmp_path / "elsewhere" / "checkpoint-100", tmp_path / "checkpoint-100")
    assert find_checkpoint(str(tmp_path), "true", SETTINGS) == str(tmp_path / "checkpoint-90")
    assert reason in capsys.readouterr().out
    with pytest.raises(RunError, match=f"{re.escape(reason)}.*pass them with --model"):
        find_checkpoint(str(tmp_path), str(tmp_path / "checkpoint-100"), SETTINGS)


def test_nothing_to_resume_is_an_error(tmp_path):
    with pytest.raises(RunError, match="no complete checkpoint"):
        find_checkpoint(str(tmp_path), "true", SETTINGS)


@pytest.mark.parametrize("content", ["[]", "3", '{"a"'])
@pytest.mark.parametrize("name", ["trainer_state.json", "run.json", "config.json"])
def test_a_checkpoint_with_another_kind_of_json_is_left_for_the_one_before(name, content, tmp_path, capsys):
    make_checkpoint(tmp_path / "checkpoint-90")
    make_checkpoint(tmp_path / "checkpoint-100")
    (tmp_path / "checkpoint-100" / name).write_text(content)
    assert find_checkpoint(str(tmp_path), "true", SETTINGS) == str(tmp_path / "checkpoint-90")
    assert "checkpoint-100: half-written checkpoint" in capsys.readouterr().out


def test_a_checkpoint_damaged_in_the_middle_or_without_its_average(tmp_path, capsys):
    make_checkpoint(tmp_path / "checkpoint-90", settings='{"ema_decay": 0.5}')
    make_checkpoint(tmp_path / "checkpoint-80", settings='{"ema_decay": 0.0}')
    file = tmp_path / "checkpoint-80" / "optimizer.pt"
    content = bytearray(file.read_bytes())
    content[1500:1600] = b"x" * 100
    file.write_bytes(content)
    for name, reason in (("checkpoint-90", "averaged.safetensors"), ("checkpoint-80", "optimizer.pt")):
        with pytest.raises(RunError, match=f"{reason} is missing or cut off"):
            find_checkpoint(str(tmp_path), str(tmp_path / name), {})


def test_a_run_that_fails_at_its_start_leaves_no_note(tmp_path):
    with pytest.raises(KeyError), claimed_output_dir(arguments(tmp_path, "--backbone", "net")):
        raise KeyError
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyError), claimed_output_dir(arguments(tmp_path, "--backbone", "other")):
        (tmp_path / "checkpoint-1").mkdir()
        raise KeyError
    assert (tmp_path / "run.json").is_file()


def test_training_never_overwrites_results(tmp_path):
    (tmp_path / "metrics.json").write_text('{"models": {}}')
    with pytest.raises(RunError, match="already holds a model, checkpoints or results of something else"):
        check_output_dir(arguments(tmp_path, "--backbone", "net"))
    (tmp_path / "metrics.json").write_text("3")
    with pytest.raises(RunError, match="metrics.json: holds a JSON value of the wrong kind"):
        check_results_folder(tmp_path, "models")
