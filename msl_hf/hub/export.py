"""A model as ONNX or torch.export program, with what a machine without PyTorch needs around it."""

import copy
import json
import math
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..data.transforms import input_size
from ..model import MSLForImageClassification
from ..model.views_msl import views_of

RUNNER = Path(__file__).parent / "run_onnx.py"  # goes into the folder of every ONNX export as it is
ONNX_FILE, INT8_FILE, PROGRAM_FILE, DESCRIPTION_FILE = "model.onnx", "model_int8.onnx", "model.pt2", "model.json"


class ExportError(RuntimeError):
    """An exported file does not compute what the model computes, or a package is missing."""


class _Logits(torch.nn.Module):
    def __init__(self, model: MSLForImageClassification):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) normalised images -> (B, C) logits."""
        return self.model(pixel_values).logits


def describe(model: MSLForImageClassification, processor, any_size: bool = True) -> dict:
    """Labels, thresholds, preprocessing and views, as `model.json` holds them for programs without transformers.

    Raises:
        ExportError: where the image processor does what `model.json` cannot say, or the model's views are of another
            size than an export that takes one size alone.
    """
    config = model.config
    does = {name: getattr(processor, f"do_{name}", False) for name in ("resize", "rescale", "normalize")}
    lacking = [name for name, is_done in does.items() if not is_done]
    if lacking or getattr(processor, "do_center_crop", False) or not math.isclose(processor.rescale_factor, 1 / 255):
        other = f"does not {lacking[0]}" if lacking else "crops, or divides by another number"
        raise ExportError(f"the image processor {other}; model.json can say to resize to a height and width, to "
                          "divide by 255 and to normalise")  # fmt: skip
    try:
        height, width = input_size(processor)
    except ValueError as error:
        raise ExportError(str(error)) from error
    views = views_of(None, config)
    other = [part for part in views.parts if part.size((height, width)) != (height, width)]
    if other and not any_size:
        raise ExportError(f"the model looks at images as {views}, and the export of this network takes images of "
                          f"{height} x {width} pixels alone, not {other[0]}. Have it look at whole images first, with "
                          "thresholds for that: msl-hf evaluate --model ... --tune_views validation --views whole "
                          "--view_cost 1")  # fmt: skip
    return {
        "labels": [config.id2label[index] for index in range(config.num_labels)],
        "thresholds": config.thresholds or [0.5] * config.num_labels,
        "height": height,
        "width": width,
        "resample": Image.Resampling(processor.resample).name.lower(),
        "mean": list(processor.image_mean),
        "std": list(processor.image_std),
        "views": str(views),
        "any_size": any_size,
    }


def takes_any_size(model: MSLForImageClassification) -> bool:
    """Whether the export takes images of every size: of CNNs, whose weights fit them all.

    Not of those with TensorFlow's "same" padding (`tf_efficientnet_...`), which is computed anew from the size in
    every layer: torch.export reasons about that for ever.
    """
    modules = list(model.backbone.modules())
    if any(isinstance(module, torch.nn.LayerNorm) or "Same" in type(module).__name__ for module in modules):
        return False
    return any(isinstance(module, torch.nn.Conv2d) for module in modules)


def export_program(model: MSLForImageClassification, any_size: bool) -> torch.export.ExportedProgram:
    """The model as a program of torch.export, for batches of any size, and images of any size where `any_size`."""
    height, width = model.config.image_height_width
    model = copy.deepcopy(model).to("cpu", torch.float32, memory_format=torch.contiguous_format).eval()
    shapes = {0: torch.export.Dim.DYNAMIC}
    if any_size:
        shapes |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
        height, width = height + 64, width + 32  # not square, so that no side is taken for the other
    with torch.no_grad():
        images = torch.zeros(2, 3, height, width)
        return torch.export.export(_Logits(model), (images,), dynamic_shapes={"pixel_values": shapes})


def export_torch(model: MSLForImageClassification, processor, folder: str | os.PathLike, any_size: bool) -> float:
    """Write `model.pt2` and `model.json`.

    Returns:
        The largest difference of a logit to the model's own on random images.

    Raises:
        ExportError: where it exceeds 1e-4.
    """
    folder = _prepare(model, processor, folder, any_size)
    torch.export.save(export_program(model, any_size), folder / PROGRAM_FILE)
    program = torch.export.load(folder / PROGRAM_FILE).module()
    return _check(model, lambda images: program(torch.from_numpy(images)).detach().numpy(), any_size, PROGRAM_FILE)


def export_onnx(model: MSLForImageClassification, processor, folder: str | os.PathLike, any_size: bool) -> float:
    """Write `model.onnx`, `model.json` and `run_onnx.py`, which needs onnxruntime, NumPy and Pillow alone.

    Returns:
        The largest difference of a logit to the model's own on random images.

    Raises:
        ExportError: where it exceeds 1e-4.
    """
    folder = _prepare(model, processor, folder, any_size)
    program = export_program(model, any_size)
    names = {"input_names": ["pixel_values"], "output_names": ["logits"]}
    exported = torch.onnx.export(program, **names, dynamo=True, verbose=False, external_data=False)
    exported.save(folder / ONNX_FILE)
    shutil.copyfile(RUNNER, folder / RUNNER.name)
    return _check(model, onnx_network(folder / ONNX_FILE), any_size, ONNX_FILE)


def quantize_onnx(folder: str | os.PathLike, images: Iterable[np.ndarray]) -> Path:
    """`model_int8.onnx` beside `model.onnx`: weights and activations in 8 bits, calibrated on images.

    Args:
        folder: Of `export_onnx`.
        images: Batches (B, 3, H, W) of normalised training images; a few hundred images do.

    Returns:
        The file.
    """
    from onnxruntime import quantization

    class Images(quantization.CalibrationDataReader):
        def __init__(self):
            self.batches = iter(images)

        def get_next(self):
            batch = next(self.batches, None)
            return None if batch is None else {"pixel_values": batch}

    folder = Path(folder)
    prepared = folder / ".prepared.onnx"
    try:
        quantization.shape_inference.quant_pre_process(
            str(folder / ONNX_FILE), str(prepared), skip_symbolic_shape=True
        )
        quantization.quantize_static(
            str(prepared),
            str(folder / INT8_FILE),
            Images(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
        )
    finally:
        prepared.unlink(missing_ok=True)
    return folder / INT8_FILE


def onnx_network(file: str | os.PathLike, threads: int | None = None):
    """(B, 3, H, W) float32 -> (B, C) logits, through onnxruntime on the CPU."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError("ONNX files need more packages: pip install 'msl_hf[export]'") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["logits"], {"pixel_values": images})[0]


def _prepare(model: MSLForImageClassification, processor, folder: str | os.PathLike, any_size: bool) -> Path:
    folder, description = Path(folder), describe(model, processor, any_size)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return folder


def _check(model: MSLForImageClassification, network, any_size: bool, name: str) -> float:
    """Compare on batches, and where it matters sizes, that the export did not see."""
    height, width = model.config.image_height_width
    shapes = [(1, height, width), (3, height, width)] + ([(2, height + 64, width + 32)] if any_size else [])
    generator, worst = torch.Generator().manual_seed(0), 0.0
    model = copy.deepcopy(model).to("cpu", torch.float32).eval()
    for count, *size in shapes:
        images = torch.randn(count, 3, *size, generator=generator)
        with torch.no_grad():
            expected = model(images).logits.numpy()
        worst = max(worst, float(np.abs(network(images.numpy()) - expected).max()))
    if not worst <= 1e-4:
        raise ExportError(f"{name}: its logits differ from the model's by {worst:.2g}, more than 1e-4")
    return worst
