"""The files for `accelerate launch`, and FSDP where there is no GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

RECIPES = Path(__file__).parents[2] / "recipes"
FILES = sorted((RECIPES / "accelerate").glob("*.yaml"))


def test_there_is_one_for_each_way():
    assert {"one_gpu", "several_gpus", "several_nodes", "fsdp", "deepspeed_zero2"} == {file.stem for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_accelerate_reads_it(file):
    config = load_config_from_file(str(file))
    settings = yaml.safe_load(file.read_text())
    assert config.num_processes == settings["num_processes"] and config.mixed_precision == "bf16"
    assert config.distributed_type.value == settings["distributed_type"]
    arguments = launch_command_parser().parse_args(["--config_file", str(file), "recipes/train_voc.py"])
    assert arguments.training_script == "recipes/train_voc.py"


def test_slurm_script_is_a_shell_script():
    subprocess.run(["bash", "-n", str(RECIPES / "accelerate" / "slurm.sh")], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["--fsdp", "full_shard"], []])
def test_fsdp_on_a_cpu_is_an_error(flags, tmp_path):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"} | ({} if flags else {"ACCELERATE_USE_FSDP": "true"})
    command = [
        sys.executable,
        str(RECIPES / "train_voc.py"),
        "--use_cpu",
        "true",
        "--output_dir",
        str(tmp_path),
        *flags,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 1 and "error: FSDP needs GPUs" in done.stderr, done.stderr[-2000:]
