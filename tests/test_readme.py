"""Every block of code in the README runs: in its order, in an empty folder, with small models and few images."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
SKIPPED = ("make", "pip", "source")  # the environment; `make demo` is done here as its recipe, shortened
SHORT = ["--max_steps", "2", "--max_train_samples", "24", "--max_eval_samples", "24", "--use_cpu", "true",
         "--per_device_train_batch_size", "8", "--disable_tqdm", "true", "--cpu_threads", "1", "--bf16", "false",
         "--robustness_curve", "false"]  # fmt: skip
EXTRA = {  # what makes a command of the README short, by its recipe; what it needs and a test has not
    "train_voc.py": SHORT,
    "train_coco.py": SHORT,
    "train_wider.py": SHORT,
    "train_folder.py": SHORT,
    "evaluate.py": ["--use_cpu", "true", "--max_eval_samples", "60", "--num_bootstrap", "20", "--cpu_threads", "1"],
    "figures.py": ["--use_cpu", "true", "--max_eval_samples", "60", "--cpu_threads", "1"],
    "export.py": ["--max_eval_samples", "40", "--calibration_images", "8", "--cpu_threads", "1"],
    "predict.py": ["--use_cpu", "true", "--cpu_threads", "1"],
}
SMALL = ('__import__("msl_hf").MSLTrainingArguments("outputs/three", use_cpu=True, max_steps=2, '
         'model_init_kwargs={"image_size": 64})')  # fmt: skip
ELSEWHERE = ("benchmark.py", "ablate.py", "app.py", "convert_checkpoint.py")  # have tests of their own; take minutes
NOT_HERE = ("--download", "data/coco", "data/wider", "--seed S", "recipes/configs/voc_")  # data that a test has not


def blocks() -> list[tuple[str, str]]:
    """(language, code) of every block."""
    return re.findall(r"```(\w*)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def commands() -> list[str]:
    lines = [line for language, code in blocks() if not language for line in code.replace("\\\n", " ").splitlines()]
    starts = ("accelerate launch", "msl-hf ", "python ", "make ", "pip ", "source ")
    return [" ".join(line.split("#")[0].split()) for line in lines if line.startswith(starts)]


def recipe_of(parts: list[str]) -> str | None:
    """The file of a command: `msl-hf train-voc` is train_voc.py, `msl-hf train` train_folder.py."""
    if parts and parts[0] == "msl-hf":
        return {"train": "train_folder"}.get(parts[1], parts[1].replace("-", "_")) + ".py"
    return next((Path(part).name for part in parts if part.endswith(".py")), None)


def test_every_command_is_known():
    """A new command is either run below or named as one that is not."""
    for command in commands():
        program = command.split()[0]
        if program in SKIPPED:
            continue
        if program == "msl-hf":
            assert recipe_of(command.split()) in (*EXTRA, *ELSEWHERE), command
            continue
        script = next(part for part in command.split() if part.endswith(".py"))
        assert (ROOT / script).is_file() or script.startswith("outputs/"), command
        assert Path(script).name in (*EXTRA, *ELSEWHERE, "run_onnx.py"), command


@pytest.fixture
def folder(tmp_path, backbone_folder):
    """Where somebody follows the README: the recipes, photographs, and a backbone in place of the pretrained one."""
    os.symlink(ROOT / "recipes", tmp_path / "recipes")
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("validation", 8)):
        (tmp_path / "photos" / split).mkdir(parents=True)
        lines = []
        for number in range(count):
            Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(
                tmp_path / "photos" / split / f"{number}.jpg"
            )
            labels = [name for name in ("cat", "dog") if rng.random() < 0.5]
            lines.append(f'{{"file_name": "{number}.jpg", "labels": {labels}}}\n'.replace("'", '"'))
        (tmp_path / "photos" / split / "metadata.jsonl").write_text("".join(lines))
    shutil.copytree(backbone_folder("timm_resnet"), tmp_path / "backbone")
    return tmp_path


@pytest.mark.slow
def test_every_block_runs(folder):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
                   "HF_MODULES_CACHE": str(folder / "modules")}  # fmt: skip

    def run(command: list[str]) -> None:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"

    def local(code: str) -> str:
        code = code.replace("timm/resnet50.a1_in1k", str(folder / "backbone"))
        return code.replace("image_size 224", "image_size 64").replace("image_size=224", "image_size=64")

    run([sys.executable, "recipes/train_voc.py", *SHORT])  # what `make demo` does
    ran = 0
    for language, code in blocks():
        if language == "python":
            short = '("outputs/python", max_steps=2, use_cpu=True)'  # for the trainer of the example
            code = local(code).replace('("outputs/photos")', short)
            code = code.replace('trainer.push_to_hub("me/photos")', "trainer.save_model()")
            code = code.replace("MSLTrainer(model=", f"MSLTrainer(args={SMALL}, model=")
            run([sys.executable, "-c", code])
            ran += 1
        elif not language:
            for line in code.replace("\\\n", " ").splitlines():
                parts = shlex.split(local(line), comments=True)
                recipe = recipe_of(parts)
                if not parts or parts[0] not in ("accelerate", "msl-hf", "python") or recipe in ELSEWHERE:
                    continue
                if any(text in line for text in NOT_HERE):
                    continue
                if parts == ["msl-hf", "train"]:  # which has its own output folder, and is done above
                    parts += ["--output_dir", "outputs/again"]
                start = ["-m", "msl_hf"] if parts[0] == "msl-hf" else []
                at = 1 if start else next(number for number, part in enumerate(parts) if part.endswith(".py"))
                run([sys.executable, *start, *parts[at:], *EXTRA.get(recipe, [])])
                ran += 1
    assert ran >= 8
