"""The recipe from its command line to its output folder."""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from msl_hf import MSLForImageClassification

RECIPE = str(Path(__file__).parents[2] / "recipes" / "train_voc.py")
TINY = ["--train_split", "train", "--selection_split", "val", "--image_size", "32", "--num_train_epochs", "2",
        "--per_device_train_batch_size", "8", "--masks", "patches", "--use_cpu", "true", "--bf16", "false",
        "--disable_tqdm", "true", "--learning_rate", "1e-3", "--logging_steps", "1", "--cpu_threads", "1",
        "--view_cost", "1"]  # fmt: skip


@pytest.fixture
def recipe(monkeypatch, backbone_folder, scenes):
    """Runs the recipe in this process: flags -> nothing, or SystemExit with the message."""

    def run(*flags):
        command = [RECIPE, "--data_dir", str(scenes), "--backbone", str(backbone_folder("timm_resnet")), *TINY, *flags]
        monkeypatch.setattr(sys, "argv", command)
        runpy.run_path(RECIPE, run_name="__main__")

    return run


def test_output_folder(recipe, tmp_path, capsys):
    recipe("--output_dir", str(tmp_path / "out"))
    out = tmp_path / "out"
    printed = capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["model"] == "best" and metrics["test_split"] == "test" and metrics["selection_split"] == "val"
    assert metrics["num_test_images"] == 11
    for which in ("last", "best"):
        for images in ("clean", "masked"):
            assert set(metrics[which][images]) == {"mAP", "CP", "CR", "CF1", "OP", "OR", "OF1"}
            assert all(0 <= value <= 1 for value in metrics[which][images].values())
            assert f"{100 * metrics[which][images]['mAP']:.1f}" in printed
    assert str(out) in printed and str(out / "last") in printed
    assert [row["covered"] for row in metrics["best"]["occluders"]] == [0, 0.3, 0.5, 0.7]
    card = (out / "README.md").read_text()
    assert "| another photograph covers of each object | nothing | 30 % | 50 % | 70 % |" in card
    assert "".join(f" {100 * row['AP']:.1f} |" for row in metrics["best"]["occluders"]) in card
    files = {path.name for path in out.iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "modeling_msl.py", "README.md", "run.json",
            "curves.png", "report.html", "last"} <= files  # fmt: skip
    assert Image.open(out / "curves.png").size[0] > 500
    # The folder itself is the best model by val, `last` the final step.
    model = MSLForImageClassification.from_pretrained(out)
    assert model.config.num_labels == 10
    last = load_file(out / "last" / "model.safetensors")
    final = load_file(out / "checkpoint-6" / "model.safetensors")
    assert all(torch.equal(value, final[key]) for key, value in last.items())
    log = json.loads((out / "checkpoint-6" / "trainer_state.json").read_text())["log_history"]
    scores = {entry["epoch"]: entry["eval_mAP"] for entry in log if "eval_mAP" in entry}
    assert metrics["best"]["epoch"] == max(scores, key=scores.get)


def test_without_data_it_trains_on_generated_scenes_and_says_so(tmp_path, monkeypatch, scenes, capsys):
    asked = []
    monkeypatch.setattr("msl_hf.runs.reading.make_scenes", lambda path: asked.append(path) or scenes)
    monkeypatch.chdir(Path(RECIPE).parents[1])
    flags = ["--output_dir", str(tmp_path / "out"), "--num_train_epochs", "1", "--per_device_train_batch_size", "8",
             "--masks", "patches", "--use_cpu", "true", "--disable_tqdm", "true", "--cpu_threads", "1"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [RECIPE, *flags])
    runpy.run_path(RECIPE, run_name="__main__")
    assert asked == [tmp_path / "scenes"]
    assert "No --data_dir: training on generated scenes" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["dataset"] == "generated scenes" and metrics["selection_split"] == "val"
    assert "random weights" in (tmp_path / "out" / "README.md").read_text()


def test_plain_training_without_selection(recipe, tmp_path):
    recipe("--output_dir", str(tmp_path / "out"), "--loss_weights", "1", "0", "0", "--selection_split", "none",
           "--num_train_epochs", "1")  # fmt: skip
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["model"] == "last" and "best" not in metrics
    same = [load_file(tmp_path / "out" / name / "model.safetensors") for name in (".", "last")]
    assert all(torch.equal(value, same[1][key]) for key, value in same[0].items())
    assert "plain supervised training" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_seed_is_everything(recipe, tmp_path):
    weights = []
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        recipe("--output_dir", str(tmp_path / name), "--seed", seed, "--num_train_epochs", "1")
        weights.append(load_file(tmp_path / name / "last" / "model.safetensors"))
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert any(not torch.equal(value, weights[2][key]) for key, value in weights[0].items())


@pytest.mark.slow
def test_starting_from_the_trained_model(recipe, tmp_path, monkeypatch, scenes, capsys):
    recipe("--output_dir", str(tmp_path / "out"), "--num_train_epochs", "1")
    command = [RECIPE, "--data_dir", str(scenes), "--model", str(tmp_path / "out"), *TINY, "--num_train_epochs", "1"]
    monkeypatch.setattr(sys, "argv", [*command, "--output_dir", str(tmp_path / "more")])
    runpy.run_path(RECIPE, run_name="__main__")
    assert (tmp_path / "more" / "metrics.json").is_file()
    assert "replaced" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data_dir", "missing"], "missing/VOC2007"),
        (["--backbone", "no-such-network"], "no-such-network"),
        (["--masks", "no-such-masks"], "no-such-masks: no such folder of masks"),
        (["--num_heads", "3"], "num_heads must be one of"),
        (["--selection_split", "tset"], "no split 'tset'"),
        (["--resume_from_checkpoint"], "no complete checkpoint"),
        (["--selection_split", "test"], "test images"),
        (["--masked_forward", "visible"], "plain ViT"),
        (["--no_such_flag"], "unknown arguments: --no_such_flag"),
    ],
)
def test_mistakes_end_with_a_message_and_leave_no_trace(flags, message, recipe, tmp_path):
    with pytest.raises(SystemExit, match=message) as error:
        recipe("--output_dir", str(tmp_path / "out"), *flags)
    assert str(error.value).startswith("error: ")
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_different_run_is_not_overwritten(recipe, tmp_path):
    recipe("--output_dir", str(tmp_path / "out"), "--num_train_epochs", "1")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit, match="already holds a different run"):
        recipe("--output_dir", str(tmp_path / "out"), "--num_train_epochs", "1", "--seed", "9")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before


def test_broken_images_stop_the_run_or_are_dropped(recipe, tmp_path, scenes, capsys):
    broken = shutil.copytree(scenes, tmp_path / "VOCdevkit")
    images = sorted((broken / "VOC2007" / "JPEGImages").iterdir())
    images[2].write_bytes(images[2].read_bytes()[:300])
    images[5].unlink()
    flags = ["--data_dir", str(broken), "--output_dir", str(tmp_path / "out"), "--num_train_epochs", "1"]
    with pytest.raises(SystemExit, match=rf"(?s){images[2].name}.*{images[5].name}.*--drop_bad_images"):
        recipe(*flags)
    recipe(*flags, "--drop_bad_images", "true")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["num_train_images"] == 22
    assert capsys.readouterr().out.count("Left out: ") == 2
    with pytest.raises(SystemExit, match="do not turn it off"):
        recipe(*flags, "--drop_bad_images", "true", "--check_images", "false")
    later = ["--data_dir", str(broken), "--output_dir", str(tmp_path / "later"), "--check_images", "false"]
    with pytest.raises(SystemExit, match=f"{images[2].name}|{images[5].name}"):
        recipe(*later)
    assert not list((tmp_path / "later").iterdir())  # the mended command may use the folder


def launch(*flags, launcher=("accelerate.commands.launch",)) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *(("-m", *launcher) if launcher else ()), RECIPE, *flags],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_weights(backbone_folder, scenes, tmp_path):
    """SIGKILL in mid-epoch, then `--resume_from_checkpoint`: bit for bit the run that was not interrupted."""
    flags = ["--data_dir", str(scenes), "--backbone", str(backbone_folder("timm_resnet")), *TINY,
             "--num_train_epochs", "40", "--save_strategy", "steps", "--save_steps", "2"]  # fmt: skip
    whole = launch(*flags, "--output_dir", str(tmp_path / "whole"))
    killed = launch(*flags, "--output_dir", str(tmp_path / "killed"))
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / "checkpoint-20").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "killed" / "metrics.json").exists()
    output, _ = whole.communicate(timeout=240)
    assert whole.returncode == 0, output[-2000:]
    resumed = launch(*flags, "--output_dir", str(tmp_path / "killed"), "--resume_from_checkpoint")
    output, _ = resumed.communicate(timeout=240)
    assert resumed.returncode == 0, output[-2000:]
    for name in ("last/model.safetensors", "model.safetensors"):
        one, two = (load_file(tmp_path / run / name) for run in ("whole", "killed"))
        assert all(torch.equal(value, two[key]) for key, value in one.items()), name
    results = [json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("whole", "killed")]
    assert results[0]["best"] == results[1]["best"] and results[0]["last"] == results[1]["last"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_saves_and_exits(processes, backbone_folder, scenes, tmp_path):
    """The scheduler's warning: a checkpoint of the step at hand, a message, and the same weights after all."""
    flags = ["--data_dir", str(scenes), "--backbone", str(backbone_folder("timm_resnet")), *TINY,
             "--num_train_epochs", "30", "--save_strategy", "steps", "--save_steps", "1000"]  # fmt: skip
    launcher = ("torch.distributed.run", "--standalone", f"--nproc_per_node={processes}") if processes > 1 else ()
    whole = launch(*flags, "--output_dir", str(tmp_path / "whole"), launcher=launcher)
    stopped = launch(*flags, "--output_dir", str(tmp_path / "stopped"), "--logging_steps", "1", launcher=launcher)
    for line in stopped.stdout:
        if "'loss'" in line:
            break
    os.killpg(stopped.pid, signal.SIGTERM)
    output, _ = stopped.communicate(timeout=120)
    assert stopped.returncode != 0 and "Stopped by SIGTERM after step" in output, output[-2000:]
    assert processes > 1 or ("Traceback" not in output and stopped.returncode == 128 + signal.SIGTERM)
    (checkpoint,) = (tmp_path / "stopped").glob("checkpoint-*")
    assert f"step {checkpoint.name.split('-')[1]}" in output and not (tmp_path / "stopped" / "metrics.json").exists()
    whole.communicate(timeout=240)
    resumed = launch(*flags, "--output_dir", str(tmp_path / "stopped"), "--resume_from_checkpoint", launcher=launcher)
    output, _ = resumed.communicate(timeout=240)
    assert resumed.returncode == 0, output[-2000:]
    for name in ("last/model.safetensors", "model.safetensors"):
        one, two = (load_file(tmp_path / run / name) for run in ("whole", "stopped"))
        assert all(torch.equal(value, two[key]) for key, value in one.items()), name


def test_a_full_disk_is_called_so(tmp_path, monkeypatch):
    from msl_hf.console.errors import RunError
    from msl_hf.runs import train as module

    def run(free: int, error: Exception):
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
        with module._full_disk_explained(tmp_path):
            raise error

    for error in (OSError(28, "No space left"), RuntimeError("PytorchStreamWriter failed")):
        with pytest.raises(RunError, match="the disk is full .* --resume_from_checkpoint"):
            run(1000, error)
        with pytest.raises(type(error)):
            run(10**12, error)


@pytest.mark.slow
def test_two_processes(backbone_folder, scenes, tmp_path):
    process = launch(
        "--data_dir", str(scenes), "--backbone", str(backbone_folder("timm_resnet")), *TINY,
        "--output_dir", str(tmp_path / "out"),
        launcher=("torch.distributed.run", "--standalone", "--nproc_per_node=2"),
    )  # fmt: skip
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output[-2000:]
    assert output.count("Test split 'test', 11 images") == 1
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["hardware"].startswith("2 x") and metrics["num_test_images"] == 11


@pytest.mark.slow
def test_only_the_first_process_writes(backbone_folder, scenes, tmp_path):
    """Two processes that were told two folders: the second one's stays empty."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import os, runpy, sys\nsys.argv = [{RECIPE!r}, *sys.argv[1:], '--output_dir', "
        f"{str(tmp_path / 'out')!r} + os.environ['RANK']]\nrunpy.run_path({RECIPE!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script),
         "--data_dir", str(scenes), "--backbone", str(backbone_folder("timm_resnet")), *TINY, "--ema_decay", "0.9"],
        capture_output=True, text=True, timeout=240, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out0" / "metrics.json").is_file() and list((tmp_path / "out0").glob("checkpoint-*"))
    written = [path for path in (tmp_path / "out1").rglob("*") if path.is_file()]
    # The state of its generators is the one thing that a rank has to save itself.
    assert all(path.name == "rng_state_1.pth" for path in written), written


@pytest.mark.slow
def test_a_few_steps_on_real_photographs(shared, tmp_path):
    data, backbone = shared / "data/voc20/VOCdevkit", shared / "weights/tf_efficientnet_lite0"
    process = launch(
        "--data_dir", str(data), "--backbone", str(backbone), "--image_size", "96", "--train_split", "train",
        "--masks", str(shared / "data/masks/nvidia"),
        "--max_train_samples", "48", "--max_eval_samples", "60", "--num_train_epochs", "1", "--use_cpu", "true",
        "--output_dir", str(tmp_path), "--disable_tqdm", "true", "--logging_steps", "1",
    )  # fmt: skip
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output[-2000:]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["num_train_images"] == 48 and metrics["num_test_images"] == 60
    assert "'loss_consistency':" in output and 0 < metrics["last"]["clean"]["mAP"] < 1
