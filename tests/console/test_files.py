import multiprocessing
import os
import signal

import pytest

from msl_hf.console.errors import RunError
from msl_hf.console.files import check_folder, check_results_folder, locked, read_json


def hold(file, connection):
    with locked(file):
        connection.send("held")
        connection.recv()


def test_no_folder_lies_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    check_folder(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    for folder in (tmp_path / "file", tmp_path / "file" / "a" / "b"):
        with pytest.raises(RunError, match="cannot be a folder, because .*file is a file"):
            check_folder(folder)


def test_results_never_overwrite_those_of_another_command(tmp_path):
    check_results_folder(tmp_path, "sheets")
    (tmp_path / "metrics.json").write_text('{"sheets": {}}')
    check_results_folder(tmp_path, "sheets")
    with pytest.raises(RunError, match="holds the metrics.json of another command"):
        check_results_folder(tmp_path, "models")
    (tmp_path / "metrics.json").unlink()
    (tmp_path / "run.json").write_text("{}")  # a run that is under way
    with pytest.raises(RunError, match="holds a trained model, whose metrics.json would be overwritten"):
        check_results_folder(tmp_path, "models")


def test_a_lock_holds_off_others_and_dies_with_its_process(tmp_path):
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path / ".lock", theirs))
    process.start()
    assert ours.recv() == "held"
    with pytest.raises(RunError, match="another process is writing here"), locked(tmp_path / ".lock"):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with locked(tmp_path / ".lock"):
        assert (tmp_path / ".lock").exists()
    assert not list(tmp_path.iterdir())


def test_deep_json_is_a_message(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(RunError, match="a.json: is not valid JSON"):
        read_json(tmp_path / "a.json")
