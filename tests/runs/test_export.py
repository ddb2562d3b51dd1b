import json

import pytest

from msl_hf.console.errors import RunError
from msl_hf.data import build_processor
from msl_hf.runs.export import ExportArguments, export

pytest.importorskip("onnxruntime")


@pytest.fixture
def settings(tiny_model, scenes, tmp_path):
    """A model of the classes of the scenes, and the scenes."""
    from msl_hf.data import load_voc
    from msl_hf.data.schema import class_names_of

    names = class_names_of(load_voc(scenes)["train"])
    tiny_model("timm_resnet", label_names=names, image_size=64).save_pretrained(tmp_path / "model")
    build_processor(None, 64).save_pretrained(tmp_path / "model")
    return {"model": [str(tmp_path / "model")], "data_dir": str(scenes), "output_dir": str(tmp_path / "out"),
            "cpu_threads": 1, "disable_tqdm": True, "use_cpu": True}  # fmt: skip


@pytest.mark.slow
def test_formats_are_written_and_measured(settings, tmp_path, capsys):
    report = export(ExportArguments(**settings, format=["onnx", "int8", "torch"], calibration_images=8))
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert files == {"model.onnx", "model_int8.onnx", "model.pt2", "model.json", "run_onnx.py", "metrics.json"}
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == report
    assert set(report["largest_difference_of_a_logit"]) == {"onnx", "torch"} and report["any_size"]
    measured = report["measured"]
    assert measured["split"] == "test" and measured["num_images"] == 11
    assert measured["onnx"]["mAP"] == pytest.approx(measured["pytorch"]["mAP"], abs=1e-3)
    assert measured["int8"]["images_per_second"] > 0 and "int8" in capsys.readouterr().out


@pytest.mark.slow
def test_without_data_nothing_is_measured(settings, tmp_path):
    report = export(ExportArguments(**{**settings, "data_dir": None}))
    assert "measured" not in report and (tmp_path / "out" / "model.onnx").is_file()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": []}, "one of them"),
        ({"format": ["tflite"]}, "onnx, int8, torch, got tflite"),
        ({"output_dir": None}, "--output_dir"),
        ({"format": ["int8"], "calibration_split": "test"}, "is measured on"),
    ],
)
def test_wrong_arguments(wrong, message, settings):
    with pytest.raises(RunError, match=message):
        export(ExportArguments(**{**settings, **wrong}))
