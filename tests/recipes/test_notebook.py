"""The notebook runs from its first to its last cell, and shows what came out."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
NOTEBOOK = Path(__file__).parents[2] / "recipes" / "notebooks" / "photos.ipynb"


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def text_of(notebook) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


def test_its_outputs_are_there():
    codes = [cell for cell in read().cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in codes)
    kinds = [kind for cell in codes for output in cell.outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") == 2 and "mAP 0." in text_of(read())
    assert "/home/" not in NOTEBOOK.read_text() and "/root/" not in NOTEBOOK.read_text()
    assert NOTEBOOK.stat().st_size < 400_000


@pytest.mark.slow
def test_every_cell_runs(backbone_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("BACKBONE", str(backbone_folder("timm_resnet")))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    notebook = read()
    for cell in notebook.cells:
        cell.source = cell.source.replace(
            "num_train=400, num_val=150, num_test=150", "num_train=40, num_val=20, num_test=20"
        )
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert "whole images" in text_of(notebook) and (tmp_path / "outputs" / "photos" / "config.json").is_file()
