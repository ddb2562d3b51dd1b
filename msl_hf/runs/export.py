r"""A trained model for machines without PyTorch.

    msl-hf export --model outputs/photos --format onnx --output_dir outputs/photos-onnx
    python outputs/photos-onnx/run_onnx.py photo.jpg            # needs onnxruntime, NumPy and Pillow alone
    msl-hf export --model outputs/photos --format onnx int8 --data_dir photos --output_dir outputs/photos-int8

onnx and torch are compared with the model before they are called done; int8 is calibrated and measured on your images.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..console.errors import RunError, user_input
from ..console.files import check_results_folder, write_json
from ..console.flags import parse_flags
from ..console.hardware import choose_workers, keep_freed_memory, set_cpu_threads
from ..data.schema import class_names_of
from ..data.transforms import ImageDataset
from ..evaluation.metrics import multilabel_metrics, probabilities
from ..hub.export import (
    INT8_FILE,
    ONNX_FILE,
    ExportError,
    export_onnx,
    export_torch,
    onnx_network,
    quantize_onnx,
    takes_any_size,
)
from ..model.views_msl import views_of
from .models import ComparisonArguments, choose_split, load_data, load_models, split_targets
from .networks import load_trained
from .splits import check_split, find_split

FORMATS = ("onnx", "int8", "torch")


@dataclass
class ExportArguments(ComparisonArguments):
    """Which formats, and images to calibrate and measure with."""

    format: list[str] = field(
        default_factory=lambda: ["onnx"],
        metadata={"help": "onnx, int8 (ONNX in 8 bits, calibrated and measured on images), torch (torch.export)."},
    )
    views: str | None = field(
        default=None,
        metadata={"help": "How the runner looks at images, such as whole@256 or whole+2x2; default: as the model's "
                          "config says."},
    )  # fmt: skip
    calibration_split: str = field(default="train", metadata={"help": "Split that calibrates int8."})
    calibration_images: int = field(default=256, metadata={"help": "How many of its images."})


def run(argv: list[str]) -> None:
    """`msl-hf export` with these flags."""
    export(*parse_flags(argv, __doc__, ExportArguments))


def export(arguments: ExportArguments) -> dict:
    """Write the files, compare their logits with the model's; measure mAP and speed where int8 or data are asked for.

    Returns:
        What `metrics.json` holds.
    """
    _check(arguments)
    keep_freed_memory()
    threads = set_cpu_threads(arguments.cpu_threads)
    folder = Path(arguments.output_dir)
    check_results_folder(folder, "largest_difference_of_a_logit")
    with user_input():
        network, processor = load_trained(arguments.model[0])
        views = views_of(arguments.views, network.config)
        views.check(network, processor)
        network.config.views = str(views)
    any_size = takes_any_size(network)
    report: dict = {"model": arguments.model[0], "any_size": any_size, "largest_difference_of_a_logit": {}}
    try:
        if {"onnx", "int8"} & set(arguments.format):
            report["largest_difference_of_a_logit"]["onnx"] = export_onnx(network, processor, folder, any_size)
        if "torch" in arguments.format:
            report["largest_difference_of_a_logit"]["torch"] = export_torch(network, processor, folder, any_size)
    except ExportError as error:
        raise RunError(f"{arguments.model[0]}: {error}") from error
    except ImportError as error:
        raise RunError(f"{error} (pip install 'msl_hf[export]' brings what exporting needs)") from error
    if "int8" in arguments.format or arguments.data_dir is not None:
        report["measured"] = _measure(arguments, folder, threads)
    write_json(folder / "metrics.json", report)
    _print(report, folder)
    return report


def _check(arguments: ExportArguments) -> None:
    if len(arguments.model) != 1:
        raise RunError("say which model, one of them: --model FOLDER")
    unknown = sorted(set(arguments.format) - set(FORMATS))
    if unknown or not arguments.format:
        raise RunError(f"--format takes some of {', '.join(FORMATS)}, got {', '.join(unknown) or 'none'}")
    if arguments.output_dir is None:
        raise RunError("say where the files go: --output_dir FOLDER")


def _measure(arguments: ExportArguments, folder: Path, threads: int) -> dict:
    """mAP and images/s of the model and of each exported network on the same test images."""
    with user_input():
        datasets = load_data(arguments)
        split, dataset = choose_split(datasets, arguments.split, arguments)
        (model,) = load_models(arguments.model, class_names_of(dataset))
        workers = choose_workers(arguments.dataloader_num_workers, torch.device("cpu"))  # where all of them are run
        networks: dict[str, Callable] = {"pytorch": _torch_network(model.network)}
        if "int8" in arguments.format:
            name = find_split(datasets, arguments.calibration_split)
            if name == split:
                raise RunError(f"--calibration_split {name} is measured on; name another split")
            chosen = check_split(datasets[name], name, arguments.calibration_images, arguments.drop_bad_images, False)
            quantize_onnx(folder, _batches(ImageDataset(chosen, model.processor), 32, workers))
    if (folder / ONNX_FILE).is_file():
        networks["onnx"] = onnx_network(folder / ONNX_FILE, threads)
    if "int8" in arguments.format:
        networks["int8"] = onnx_network(folder / INT8_FILE, threads)
    size = arguments.per_device_eval_batch_size
    batches = list(_batches(ImageDataset(dataset, model.processor), size, workers))
    targets = split_targets(dataset)
    result: dict = {"split": split, "num_images": len(dataset), "threads": threads}
    for name, network in networks.items():
        logits, seconds = [], []
        network(batches[0])  # warm-up
        for batch in batches:
            start = time.perf_counter()
            logits.append(network(batch))
            seconds.append((time.perf_counter() - start) / len(batch))
        metrics = multilabel_metrics(probabilities(np.concatenate(logits)[:, model.columns]), targets)
        result[name] = {**metrics, "images_per_second": 1 / statistics.median(seconds)}
    return result


def _torch_network(network: torch.nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    network.eval().to(memory_format=torch.channels_last)

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            pixel_values = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
            return network(pixel_values).logits.numpy()

    return run


def _batches(images: ImageDataset, size: int, workers: int) -> Iterator[np.ndarray]:
    def stacked(items: list[dict]) -> np.ndarray:
        return torch.stack([item["pixel_values"] for item in items]).numpy()

    return iter(DataLoader(images, size, num_workers=workers, collate_fn=stacked))


def _print(report: dict, folder: Path) -> None:
    for name, difference in report["largest_difference_of_a_logit"].items():
        print(f"{name}: logits within {difference:.1e} of the model's"
              + (", images of any size" if report["any_size"] else ""))  # fmt: skip
    measured = report.get("measured")
    if measured:
        print(f"\n{measured['num_images']} images of split {measured['split']!r}, {measured['threads']} threads:")
        for name in ("pytorch", "onnx", "int8"):
            if name in measured:
                row = measured[name]
                print(f"{name:<9} mAP {100 * row['mAP']:5.1f}   {row['images_per_second']:7.1f} images/s")
    print(f"\nFiles: {', '.join(sorted(file.name for file in folder.iterdir()))} in {folder}")
