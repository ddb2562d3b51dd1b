"""Every block of code in README and the how-to pages runs: in its order, in an empty folder, with small models."""

import contextlib
import functools
import importlib
import io
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

from msl_hf.cli import COMMANDS

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
NOT_HERE = (
    "--download",
    "data/coco",
    "data/wider",
    "--seed S",
    "@images.txt",
    "torchrun",
    "facebook/",
    "openai/",
    "msl_c_voc",
    "--push_to_hub",
    "--resume_from_checkpoint",
)  # data, weights and places that a test has not
PAGES = ["README.md", *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").rglob("*.md")))]
RUN = ["README.md", *(f"docs/how-to/{name}.md" for name in ("evaluate", "export", "images", "thresholds"))]


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, code) of every block."""
    return re.findall(r"```(\w*)\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def commands(page: str) -> list[str]:
    lines = [
        line for language, code in blocks(page) if not language for line in code.replace("\\\n", " ").splitlines()
    ]
    starts = ("accelerate launch", "msl-hf ", "python ", "make ", "pip ", "source ")
    return [" ".join(line.split("#")[0].split()) for line in lines if line.startswith(starts)]


def recipe_of(parts: list[str]) -> str | None:
    """The file of a command: `msl-hf train-voc` is train_voc.py, `msl-hf train` train_folder.py."""
    if parts and parts[0] == "msl-hf":
        return {"train": "train_folder"}.get(parts[1], parts[1].replace("-", "_")) + ".py"
    return next((Path(part).name for part in parts if part.endswith(".py")), None)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_flag_is_known(page):
    """A command of a page is one of the package, with flags that it has."""
    for command in commands(page):
        program = command.split()[0]
        if program in SKIPPED:
            continue
        if program == "msl-hf":
            name = command.split()[1]
            flags = [part[2:].split("=")[0] for part in command.split() if part.startswith("--")]
            assert name in COMMANDS, command
            assert not set(flags) - flags_of(name) - {"config", "base"}, command
            continue
        script = next(part for part in command.split() if part.endswith(".py"))
        assert (ROOT / script).is_file() or script.startswith("outputs/"), command


@functools.cache
def flags_of(command: str) -> set[str]:
    """The flags that `--help` of a command lists."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        importlib.import_module(f"msl_hf.{COMMANDS[command][0]}").run(["--help"])
    return set(re.findall(r"^  --(\w+)", text.getvalue(), re.MULTILINE))


@pytest.fixture(scope="module")
def start(tmp_path_factory, backbone_folder):
    """Where somebody follows a page: the recipes, photographs, a backbone in place of the pretrained one, the demo."""
    folder = tmp_path_factory.mktemp("start")
    os.symlink(ROOT / "recipes", folder / "recipes")
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("validation", 8), ("test", 8)):
        (folder / "photos" / split).mkdir(parents=True)
        lines = []
        for number in range(count):
            file = folder / "photos" / split / f"{number}.jpg"
            Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(file)
            labels = [name for name in ("cat", "dog") if rng.random() < 0.5]
            lines.append(f'{{"file_name": "{number}.jpg", "labels": {labels}}}\n'.replace("'", '"'))
        (folder / "photos" / split / "metadata.jsonl").write_text("".join(lines))
    shutil.copytree(backbone_folder("timm_resnet"), folder / "backbone")
    run(folder, [sys.executable, "recipes/train_voc.py", *SHORT])  # what `make demo` does
    return folder


def run(folder: Path, command: list[str]) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
                   "HF_MODULES_CACHE": str(folder / "modules")}  # fmt: skip
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_every_block_runs(page, start, tmp_path):
    folder = tmp_path / "work"
    shutil.copytree(start, folder, symlinks=True)
    train = f"train --data_dir photos --backbone {folder / 'backbone'} --image_size 64 --output_dir outputs/photos"
    if "outputs/photos" not in "".join(line for line in commands(page) if " train " in line):
        run(folder, [sys.executable, "-m", "msl_hf", *train.split(), *SHORT])  # what the page begins with

    def local(code: str) -> str:
        code = code.replace("timm/resnet50.a1_in1k", str(folder / "backbone"))
        return code.replace("image_size 224", "image_size 64").replace("image_size=224", "image_size=64")

    ran = 0
    for language, code in blocks(page):
        if language == "python":
            short = '("outputs/python", max_steps=2, use_cpu=True)'  # for the trainer of the example
            code = local(code).replace('MSLTrainingArguments("outputs/photos")', f"MSLTrainingArguments{short}")
            code = code.replace('trainer.push_to_hub("me/photos")', "trainer.save_model()")
            code = code.replace("MSLTrainer(model=", f"MSLTrainer(args={SMALL}, model=")
            run(folder, [sys.executable, "-c", code])
            ran += 1
        elif not language:
            for line in code.replace("\\\n", " ").splitlines():
                parts = shlex.split(local(line), comments=True) if line.startswith(("msl-hf", "python")) else []
                recipe = recipe_of(parts)
                if not parts or recipe in ELSEWHERE or any(text in line for text in NOT_HERE):
                    continue
                if parts == ["msl-hf", "train"]:  # which has its own output folder, and is done above
                    parts += ["--output_dir", "outputs/again"]
                start_of = ["-m", "msl_hf"] if parts[0] == "msl-hf" else []
                run(folder, [sys.executable, *start_of, *parts[1:], *EXTRA.get(recipe, [])])
                ran += 1
    assert ran >= 2
