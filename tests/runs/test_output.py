import json

import pytest

from msl_hf.runs.arguments import RunError, parse_arguments
from msl_hf.runs.output import check_output_dir, claim_output_dir, find_checkpoint


def arguments(folder, *argv):
    return parse_arguments(["--output_dir", str(folder), "--use_cpu", "true", "--bf16", "false", *argv], "")[0]


def test_same_run_may_come_back_another_may_not(tmp_path):
    claim_output_dir(arguments(tmp_path, "--seed", "1", "--backbone", "net"))
    check_output_dir(arguments(tmp_path, "--seed", "1", "--backbone", "net", "--cpu_threads", "1"))
    with pytest.raises(RunError, match="already holds a different run .*seed 1 -> 2"):
        check_output_dir(arguments(tmp_path, "--seed", "2", "--backbone", "net"))
    assert json.loads((tmp_path / "run.json").read_text())["seed"] == 1


def test_foreign_models_are_not_overwritten(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RunError, match="of something else"):
        check_output_dir(arguments(tmp_path))


def make_checkpoint(folder, without=None, state='{"global_step": 1}'):
    folder.mkdir(parents=True)
    for name in {"model.safetensors", "optimizer.pt", "scheduler.pt"} - {without}:
        (folder / name).write_bytes(b"x")
    if state is not None:
        (folder / "trainer_state.json").write_text(state)


def test_last_complete_checkpoint_is_found(tmp_path, capsys):
    make_checkpoint(tmp_path / "checkpoint-90")
    make_checkpoint(tmp_path / "checkpoint-100")
    make_checkpoint(tmp_path / "checkpoint-200", without="optimizer.pt")
    make_checkpoint(tmp_path / "checkpoint-300", state='{"global_st')
    make_checkpoint(tmp_path / "checkpoint-400", state=None)
    assert find_checkpoint(str(tmp_path), "true") == str(tmp_path / "checkpoint-100")
    assert capsys.readouterr().out.count("half-written") == 3
    assert find_checkpoint(str(tmp_path), None) is None and find_checkpoint(str(tmp_path), "false") is None
    assert find_checkpoint("elsewhere", str(tmp_path / "checkpoint-90")) == str(tmp_path / "checkpoint-90")
    with pytest.raises(RunError, match="lacks optimizer.pt"):
        find_checkpoint(str(tmp_path), str(tmp_path / "checkpoint-200"))
    with pytest.raises(RunError, match="no such checkpoint"):
        find_checkpoint(str(tmp_path), "checkpoint-7")


def test_nothing_to_resume_is_an_error(tmp_path):
    with pytest.raises(RunError, match="no complete checkpoint"):
        find_checkpoint(str(tmp_path), "true")
