"""A run that is killed again and again ends as one that was never touched."""

import json
import multiprocessing
import os
import random
import runpy
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from msl_hf import MSLForImageClassification
from msl_hf.console.checkpoints import incompleteness

RECIPE = str(Path(__file__).parents[2] / "recipes" / "train_voc.py")
KILLS = 20


@pytest.fixture
def start(monkeypatch):
    """Starts the recipe in a process of its own, which has its imports behind it: flags -> the process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["msl_hf.runs.train"])

    def run(*flags) -> multiprocessing.Process:
        monkeypatch.setattr(sys, "argv", [RECIPE, *flags])
        process = context.Process(target=runpy.run_path, args=(RECIPE,), kwargs={"run_name": "__main__"})
        process.start()
        return process

    return run


def last_step(folder: Path) -> int:
    return max((int(checkpoint.name.split("-")[1]) for checkpoint in folder.glob("checkpoint-*")), default=0)


@pytest.mark.slow
def test_killed_at_twenty_random_moments(start, backbone_folder, scenes, tmp_path):
    """SIGKILL at random moments between checkpoints and while they are written: the last complete one is gone on from,
    and weights, averages, best epoch, losses and metrics are in the end those of the run that was left alone."""
    flags = ["--data_dir", str(scenes), "--backbone", str(backbone_folder("timm_resnet")), "--train_split", "train",
             "--selection_split", "val", "--image_size", "32", "--num_train_epochs", "60", "--save_strategy", "steps",
             "--save_steps", "2", "--per_device_train_batch_size", "8", "--masks", "patches", "--ema_decay", "0.9",
             "--use_cpu", "true", "--bf16", "false", "--disable_tqdm", "true", "--logging_steps", "1",
             "--cpu_threads", "1", "--robustness_curve", "false"]  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    untouched = start(*flags, "--output_dir", str(whole))
    untouched.join(300)
    assert untouched.exitcode == 0
    rng, half_written, found = random.Random(0), 0, 0
    for _ in range(KILLS):
        # From the next, or a later, checkpoint on: a moment within the time that two steps and a checkpoint take.
        target, delay = last_step(killed) + rng.choice((1, 2, 4)), rng.choice((0.01, 0.1)) * rng.random()
        resume = any(incompleteness(checkpoint) is None for checkpoint in killed.glob("checkpoint-*"))
        process = start(*flags, "--output_dir", str(killed), "--resume_from_checkpoint", str(resume))
        deadline = time.monotonic() + 120
        while last_step(killed) < target and time.monotonic() < deadline and process.is_alive():
            time.sleep(0.001)
        time.sleep(delay)
        assert process.is_alive(), "the run has ended, or failed, before it was killed"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        problems = [incompleteness(checkpoint) for checkpoint in killed.glob("checkpoint-*")]
        half_written += any(problems)
        assert None in problems or last_step(killed) <= 2  # the first one may be half-written
        if (killed / "config.json").exists():  # the best model so far is whole at any moment
            MSLForImageClassification.from_pretrained(killed)
            found += 1
    assert half_written > 0 and found > 0
    print(f"{KILLS} kills, {half_written} of which left a half-written checkpoint")
    process = start(*flags, "--output_dir", str(killed), "--resume_from_checkpoint", "true")
    process.join(300)
    assert process.exitcode == 0
    for name in ("last/model.safetensors", "model.safetensors"):
        one, two = (load_file(run / name) for run in (whole, killed))
        assert all(torch.equal(value, two[key]) for key, value in one.items()), name
    one, two = (json.loads((run / "metrics.json").read_text()) for run in (whole, killed))
    assert one["best"] == two["best"] and one["last"] == two["last"]
    logs = []
    for run in (whole, killed):
        log = json.loads((run / "checkpoint-180" / "trainer_state.json").read_text())["log_history"]
        keys = ("step", "loss", "loss_masked", "loss_consistency", "learning_rate", "eval_loss", "eval_mAP")
        logs.append([{key: entry.get(key) for key in keys} for entry in log])
    assert logs[0] == logs[1]
