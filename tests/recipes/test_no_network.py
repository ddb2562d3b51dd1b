"""Nothing of a run on local files asks the network: no telemetry, no look whether the Hub has something newer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[2] / "recipes"
SCRIPT = """
import os, runpy, socket, sys

def refuse(self, address, *_):
    if self.family != socket.AF_UNIX:
        open(os.environ["ATTEMPTS"], "a").write(f"{address}\\n")
        raise OSError("no network in this test")

def no_names(host, *_, **__):
    if host not in (None, "localhost", "127.0.0.1", "::1", ""):
        open(os.environ["ATTEMPTS"], "a").write(f"{host}\\n")
        raise OSError("no network in this test")
    return []

socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = no_names
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_training_evaluation_and_prediction_ask_for_nothing(backbone_folder, scenes, tmp_path):
    script, attempts, out = tmp_path / "script.py", tmp_path / "attempts.txt", tmp_path / "out"
    photographs = scenes / "VOC2007" / "JPEGImages"
    script.write_text(SCRIPT)
    # Not told to stay offline: it has to stay so by itself.
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_OFFLINE")}
    common = ["--use_cpu", "true", "--disable_tqdm", "true", "--cpu_threads", "1"]
    commands = [
        ["train_voc.py", "--data_dir", scenes, "--backbone", backbone_folder("timm_resnet"), "--image_size", "32",
         "--num_train_epochs", "1", "--per_device_train_batch_size", "8", "--masks", "patches", "--output_dir", out,
         *common],
        ["evaluate.py", "--model", out, "--data_dir", scenes, "--masks", "patches", "--output_dir", tmp_path / "found",
         *common],
        ["predict.py", "--model", out, "--images", photographs, "--output", tmp_path / "out.csv"],
    ]  # fmt: skip
    for recipe, *flags in commands:
        command = [sys.executable, str(script), str(RECIPES / recipe), *map(str, flags)]
        done = subprocess.run(command, env={**environment, "ATTEMPTS": str(attempts)}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        assert not attempts.exists(), f"{recipe} asked for {attempts.read_text()}"
    command[command.index("--model") + 1] = "somebody/something"  # which the Hub alone may have: it is noticed
    done = subprocess.run(command, env={**environment, "ATTEMPTS": str(attempts)}, capture_output=True, text=True)
    assert done.returncode != 0 and "huggingface.co" in attempts.read_text()
