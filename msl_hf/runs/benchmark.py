"""What a training step and inference cost: plain, the published MSL step, and this package's, side by side."""

import copy
import json
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..masks import MaskBank
from ..model import MSLForImageClassification
from ..training.trainer import joint_equals_separate
from .arguments import RunError
from .benchmark_labels import measure_label_file, process_memory
from .benchmark_loading import LOADS, measure_loading, measure_masking, measure_pipeline, measure_trainer
from .benchmark_steps import NETWORKS, VARIANTS, Batch, compare_steps, make_step
from .hardware import keep_freed_memory, set_cpu_threads
from .output import write_json
from .speed import measure_inference, time_calls

QUICK = ("lite0_224", "resnet50_224", "vit_small_224")
# Images/s of the first over images/s of the second; for `_time` that is time of the second over time of the first.
RATIOS = {
    "train_fp32": ("ours", "reference"),
    "train_bf16": ("ours_bf16", "reference"),
    "msl_over_plain_time": ("plain", "ours"),
    "visible_over_plain_time": ("plain", "visible"),
    "sequential_over_plain_time": ("plain", "sequential"),
    "channels_last_alone": ("reference_channels_last", "reference"),
    "one_product_alone": ("reference_one_product", "reference"),
    "joint_alone": ("reference_joint", "reference"),
    "bf16_alone": ("reference_bf16", "reference"),
}
MEMORY_RATIOS = {
    "msl_over_plain_memory": ("ours", "plain"),
    "visible_over_plain_memory": ("visible", "plain"),
    "sequential_over_plain_memory": ("sequential", "plain"),
}


@dataclass
class BenchmarkArguments:
    """What to measure."""

    output: str | None = field(default=None, metadata={"help": "JSON file for the results."})
    quick: bool = field(default=False, metadata={"help": f"Only {', '.join(QUICK)}."})
    networks: list[str] | None = field(default=None, metadata={"help": f"Some of {', '.join(NETWORKS)}."})
    variants: list[str] | None = field(default=None, metadata={"help": f"Some of {', '.join(VARIANTS)}."})
    batch_size: int | None = field(default=None, metadata={"help": "Batch size of every network."})
    rounds: int = field(default=5, metadata={"help": "Times that each variant is measured, in turn."})
    use_cpu: bool = field(default=False, metadata={"help": "Leave an accelerator alone."})
    cpu_threads: int | None = field(default=None, metadata={"help": "Threads; default: all cores."})
    seed: int = field(default=0, metadata={"help": "Seed of weights, images and masks."})
    memory_of: str | None = field(default=None, metadata={"help": "Print the peak memory of one variant and end."})


def benchmark(arguments: BenchmarkArguments) -> dict:
    """Measure all variants of all networks, write the JSON file, print a table.

    Returns:
        What the file holds.
    """
    keep_freed_memory()
    threads = set_cpu_threads(arguments.cpu_threads)
    names = arguments.networks or (QUICK if arguments.quick else tuple(NETWORKS))
    unknown = [name for name in (*names, *(arguments.variants or ())) if name not in (*NETWORKS, *VARIANTS)]
    if unknown:
        raise RunError(f"unknown {', '.join(unknown)}; there are {', '.join((*NETWORKS, *VARIANTS))}")
    if arguments.memory_of:
        print(json.dumps(_peak_memory(arguments.memory_of, names[0], arguments)))
        return {}
    if arguments.output is None:
        raise RunError("say where the results go: --output FILE.json")
    report: dict = {"machine": _machine(threads, arguments), "networks": {}, "ratios": {}, "loading": {}}
    for name in LOADS:
        row = report["loading"][name] = measure_loading(name, arguments.rounds, arguments.seed)
        print(
            f"loading {name:<22} {row['ours']:>8.1f} images/s, usual way {row['usual']:>8.1f}, {_text(row['ratio'])}"
        )
    labels = report["labels"] = measure_label_file(arguments.seed)
    print("load_coco of {num_images} images ({file_mb:.0f} MB of JSON): {seconds:.1f} s, {peak_memory_mb:.0f} MB at "
          "its peak, {dataset_mb:.0f} MB after".format(**labels))  # fmt: skip
    for name in names:
        batch = _batch(name, arguments)
        masks = MaskBank.generate(200, hole_ratio=(0.5, 0.6))
        variants = [v for v in arguments.variants or VARIANTS if _applies(v, batch.model)]
        # With batch normalisation and random weights, gradients in float32 hang on the last digits; float64 shows what
        # the two steps compute.
        exact = Batch(copy.deepcopy(batch.model).double(), batch.images.double(), batch.labels.double())
        same = {"float32": compare_steps(batch), "float64": compare_steps(exact)}
        result: dict = {"batch_size": len(batch.images), "same_numbers": same}
        result["variants"] = _side_by_side(variants, batch, masks, arguments.rounds)
        for variant in variants:
            result["variants"][variant]["peak_memory_mb"] = _memory_in_child(variant, name, arguments)
        result["inference"] = measure_inference(
            batch.model, batch.images.shape[-2:], batch.images.device, len(batch.images)
        )
        result["masking"] = measure_masking(batch, arguments.rounds)
        result["trainer"] = measure_trainer(batch, arguments.rounds)
        result["pipeline"] = measure_pipeline(batch, arguments.rounds, arguments.seed)
        report["networks"][name] = result
        report["ratios"][name] = {
            **_ratios(result["variants"]),
            "masking_share": result["masking"]["share"],
            "trainer_over_bare_time": result["trainer"]["ratio"],
            "inference_over_pipeline": result["pipeline"]["ratio"],
        }
        _print(name, result, report["ratios"][name])
        write_json(Path(arguments.output), report)  # after each network: an interruption loses one
    print(f"\nResults: {arguments.output}")
    return report


def _batch(network: str, arguments: BenchmarkArguments) -> Batch:
    return Batch.make(network, arguments.batch_size, arguments.use_cpu, arguments.seed)


def _applies(variant: str, model: MSLForImageClassification) -> bool:
    """Joint forwards need a network without batch statistics, visible patches a plain ViT."""
    if variant == "reference_joint":
        return joint_equals_separate(model)
    return variant != "visible" or model.can_skip_removed_patches


def _side_by_side(variants: list[str], batch: Batch, masks, rounds: int) -> dict[str, dict]:
    """Images/s of each variant, measured in turn, round by round."""
    device, speeds = batch.images.device, {variant: [] for variant in variants}
    steps = {variant: make_step(variant, batch, masks) for variant in variants}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for variant, step in steps.items():
            durations = time_calls(step, device, min_calls=1, seconds=0.5, warm_up=0)
            speeds[variant].append(len(batch.images) / statistics.median(durations))
    return {
        variant: {
            "images_per_second": statistics.median(values),
            "spread": [min(values), max(values)],
            "rounds": values,
        }
        for variant, values in speeds.items()
    }


def _ratios(variants: dict[str, dict]) -> dict[str, dict]:
    """Median and spread, over the rounds, of the ratio within a round."""
    ratios = {}
    for name, (over, under) in RATIOS.items():
        if over in variants and under in variants:
            pairs = zip(variants[over]["rounds"], variants[under]["rounds"], strict=True)
            values = sorted(a / b for a, b in pairs)
            ratios[name] = {"median": statistics.median(values), "spread": [values[0], values[-1]]}
    for name, (over, under) in MEMORY_RATIOS.items():
        if over in variants and under in variants:
            ratios[name] = {"median": variants[over]["peak_memory_mb"] / variants[under]["peak_memory_mb"]}
    return ratios


def _memory_in_child(variant: str, network: str, arguments: BenchmarkArguments) -> float:
    command = [
        sys.executable,
        sys.argv[0],
        "--memory_of",
        variant,
        "--networks",
        network,
        "--seed",
        str(arguments.seed),
    ]
    for flag in ("batch_size", "cpu_threads"):
        if getattr(arguments, flag) is not None:
            command += [f"--{flag}", str(getattr(arguments, flag))]
    done = subprocess.run([*command, "--use_cpu", str(arguments.use_cpu)], capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"measuring the memory of {variant} on {network} failed: {done.stderr[-1000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _peak_memory(variant: str, network: str, arguments: BenchmarkArguments) -> float:
    """MB that the network, its gradients, optimizer state and activations take, beyond the loaded libraries."""
    masks = MaskBank.generate(200, hole_ratio=(0.5, 0.6))
    before = process_memory("VmRSS")
    batch = _batch(network, arguments)
    step = make_step(variant, batch, masks)
    for _ in range(3):
        step()
    if batch.images.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return process_memory("VmHWM") - before


def _machine(threads: int, arguments: BenchmarkArguments) -> dict:
    on_gpu = torch.cuda.is_available() and not arguments.use_cpu
    return {
        "device": torch.cuda.get_device_name() if on_gpu else f"{threads} CPU threads",
        "processor": platform.machine(),
        "torch": torch.__version__,
    }


def _print(name: str, result: dict, ratios: dict) -> None:
    print(f"\n{name}, batch {result['batch_size']}; trainer's and published step apart by "
          "{loss:.1e} (loss), {gradient:.1e} (gradient)".format(**result["same_numbers"]["float64"]))  # fmt: skip
    print(f"{'variant':<26}{'images/s':>10}{'least':>8}{'most':>8}{'MB':>8}")
    for variant, row in result["variants"].items():
        low, high = row["spread"]
        print(f"{variant:<26}{row['images_per_second']:>10.1f}{low:>8.1f}{high:>8.1f}{row['peak_memory_mb']:>8.0f}")
    inference = result["inference"]
    print(
        f"{'inference':<26}{inference['images_per_second']:>10.1f}   {inference['latency_ms']:.1f} ms an image alone"
    )
    for ratio, values in ratios.items():
        print(f"{ratio:<30}{_text(values)}")


def _text(values: dict) -> str:
    spread = " ({:.3g} to {:.3g})".format(*values["spread"]) if "spread" in values else ""
    return f"{values['median']:.3g}{spread}"
