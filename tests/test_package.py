"""The package as a whole: its public names, its floors, what importing it needs, the wheel."""

import ast
import doctest
import importlib
import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from msl_hf import __version__

ROOT = Path(__file__).parents[1]
FLOORS = {
    "cores": 0,
    "masks": 1,
    "model": 1,
    "data": 1,
    "evaluation": 2,
    "hub": 2,
    "training": 3,
    "console": 4,
    "runs": 5,
    "studies": 5,
    "cli": 6,
    "__main__": 7,
}
TRAIN_ONLY = {"pyarrow", "datasets", "evaluate", "sklearn", "matplotlib", "yaml", "jinja2", "tqdm"}


def sources() -> list[Path]:
    return sorted((ROOT / "msl_hf").rglob("*.py"))


def imports(path: Path, top_level: bool = False) -> set[str]:
    """Absolute names of what a file of the package imports."""
    tree = ast.parse(path.read_text())
    package = path.relative_to(ROOT).parts[:-1]
    names = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            names.add(".".join((*base, *([node.module] if node.module else []))))
    return names


def test_public_names():
    import msl_hf
    import msl_hf.data

    assert set(msl_hf.__all__) >= {
        "MSLConfig", "MSLForImageClassification", "MSLTrainer", "MSLTrainingArguments", "MaskBank", "MSLLoss",
        "apply_mask", "multilabel_metrics",
    }  # fmt: skip
    assert all(hasattr(msl_hf, name) for name in msl_hf.__all__)
    assert all(hasattr(msl_hf.data, name) for name in ("load_voc", "load_image_folder", "make_scenes"))


def test_imports_only_go_down():
    for path in sources():
        parts = path.relative_to(ROOT / "msl_hf").with_suffix("").parts
        if parts == ("__init__",):
            continue
        room = parts[0]
        for name in imports(path):
            if name.startswith("msl_hf."):
                other = name.split(".")[1]
                assert other == room or FLOORS[other] < FLOORS[room], f"{path} imports {name}"


def test_model_files_need_no_other_part_of_the_package():
    allowed = {"torch", "transformers", "huggingface_hub", "timm", "scipy"} | sys.stdlib_module_names
    for path in (ROOT / "msl_hf" / "model").glob("*_msl.py"):
        for name in imports(path):
            assert name.split(".")[0] in allowed or name.startswith("msl_hf.model."), f"{path} imports {name}"
        assert "from __future__" not in path.read_text().replace("No `from __future__", "")


@pytest.mark.slow
def test_importing_needs_no_package_of_training():
    shown = "m.__file__ for n, m in sys.modules.items() if n.startswith('msl_hf')"
    code = f"import sys, msl_hf, msl_hf.data; print('\\n'.join({shown}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    files = [Path(line) for line in done.stdout.splitlines() if line.endswith(".py")]
    assert len(files) > 10
    for path in files:
        needed = {name.split(".")[0] for name in imports(path, top_level=True)}
        assert not needed & TRAIN_ONLY, f"{path} imports {needed & TRAIN_ONLY}"


def test_no_file_names_a_path_of_a_machine():
    written = [*(ROOT / "docs").rglob("*.*"), *(ROOT / "model_cards").rglob("*.*"), *ROOT.glob("*.*")]
    for path in [*sources(), *(ROOT / "recipes").rglob("*.*"), *written]:
        if path.suffix in (".py", ".yaml", ".yml", ".md", ".json", ".jsonl", ".cff", ".toml"):
            assert str(Path.home()) + "/" not in path.read_text() and str(ROOT) not in path.read_text(), path


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
                   check=True, capture_output=True, timeout=240)  # fmt: skip
    (wheel,) = folder.glob("msl_hf-*.whl")
    return wheel


@pytest.mark.slow
def test_wheel_holds_the_package_its_data_and_the_command(wheel):
    archive = zipfile.ZipFile(wheel)
    names = set(archive.namelist())
    assert {str(path.relative_to(ROOT)) for path in sources()} <= names
    assert {"msl_hf/py.typed", "msl_hf/hub/card_template.md", "msl_hf/hub/report_template.html"} <= names
    for kind in ("configs", "ablations"):
        assert {f"msl_hf/{kind}/{file.name}" for file in (ROOT / "recipes" / kind).iterdir()} <= names
    assert "msl-hf = msl_hf.cli:main" in archive.read(f"msl_hf-{__version__}.dist-info/entry_points.txt").decode()


# What hosted notebooks and clusters have, older and newer.
HOSTED = [
    {"torch": "2.11.0", "torchvision": "0.26.0", "transformers": "5.15.0", "huggingface_hub": "1.27.0",
     "numpy": "2.1.0", "pillow": "11.3.0", "datasets": "4.0.0", "scikit-learn": "1.6.0", "matplotlib": "3.10.0"},
    {"torch": "2.11.0+cu128", "torchvision": "0.26.0+cu128", "transformers": "5.17.0", "huggingface_hub": "1.33.0",
     "numpy": "2.5.0", "pillow": "11.3.0", "datasets": "4.0.0", "scikit-learn": "1.6.1", "matplotlib": "3.10.0"},
]  # fmt: skip
BESIDE = {"accelerate": "1.12.0", "timm": "1.0.24", "safetensors": "0.6.2", "evaluate": "0.4.6", "PyYAML": "6.0.2",
          "Jinja2": "3.1.6", "tqdm": "4.67.1", "filelock": "3.18.0", "scipy": "1.15.3"}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("hosted", HOSTED, ids=["older", "newer"])
def test_installing_replaces_nothing(wheel, hosted, tmp_path):
    """pip decides by names and versions: an environment of empty packages has these."""
    venv.create(tmp_path / "venv", with_pip=False)
    (site,) = tmp_path.glob("venv/lib/python*/site-packages")
    for name, version in (hosted | BESIDE).items():
        folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (folder / "INSTALLER").write_text("pip\n")
        (folder / "RECORD").write_text("")
    command = [sys.executable, "-m", "pip", "--python", str(tmp_path / "venv"), "install", "--dry-run", "--no-index",
               "--quiet", "--report", "-", str(wheel)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert [item["metadata"]["name"] for item in json.loads(done.stdout)["install"]] == ["msl_hf"]


@pytest.mark.parametrize(
    "name",
    [
        "masks.bank",
        "masks.painting",
        "model.heads_msl",
        "model.views_msl",
        "training.losses",
        "evaluation.metrics",
        "evaluation.evaluate_metric",
        "data.schema",
    ],
)
def test_examples_of_docstrings_run(name):
    module = importlib.import_module(f"msl_hf.{name}")
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0
