r"""What a step of MSL costs against plain training and against the published step, and what inference costs.

    msl-hf benchmark --quick true --output outputs/bench.json
    msl-hf benchmark --networks resnet101_448 --variants plain ours --output outputs/bench.json
    msl-hf benchmark --gpu true --output outputs/gpu.json     # again and again, until it says that all is done

Variants take turns (A B A B); medians and spreads of images per second, peak memory in a process of its own for each.
"""

import copy
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..console.errors import RunError
from ..console.files import check_folder, read_json, write_json
from ..console.flags import parse_flags
from ..console.hardware import keep_freed_memory, set_cpu_threads
from ..console.speed import measure_inference, time_calls
from ..masks import MaskBank
from ..model import MSLForImageClassification
from ..training.trainer import joint_equals_separate
from .benchmarks.cores import measure_shared_cores, print_shared_cores
from .benchmarks.gpu import BATCH_SIZES, STEP_NETWORKS, TARGET, Size, gpu_tasks
from .benchmarks.inference import measure_inference_ways
from .benchmarks.labels import measure_images, measure_label_file, measure_large_dataset
from .benchmarks.loading import LOADS, measure_loading
from .benchmarks.predicting import measure_prediction
from .benchmarks.scaling import measure_point, measure_scaling, plot_scaling
from .benchmarks.steps import NETWORKS, VARIANTS, Batch, compare_steps, make_step, share_of_dropped_patches
from .benchmarks.training import measure_masking, measure_processes, measure_trainer

PARTS = ("loading", "labels", "steps", "memory", "inference", "around", "scaling", "processes", "cores", "predicting")
QUICK = ("lite0_224", "resnet50_224", "vit_small_224")
QUICK_PARTS = ("loading", "steps", "memory", "inference")
QUICK_VARIANTS = ("plain", "reference", "ours", "ours_bf16")
PREDICTED = (20_000, 200_000, 2_000_000)  # images of --parts predicting
# Images/s of the first over images/s of the second; for `_time` that is time of the second over time of the first.
RATIOS = {
    "train_fp32": ("ours", "reference"),
    "train_bf16": ("ours_bf16", "reference"),
    "msl_over_plain_time": ("plain", "ours"),
    "half_over_plain_time": ("plain", "half"),
    "visible_over_plain_time": ("plain", "visible"),
    "sequential_over_plain_time": ("plain", "sequential"),
    "checkpointed_over_plain_time": ("plain", "checkpointed"),
    "plain_frozen_over_plain_time": ("plain", "plain_frozen"),
    "frozen_over_plain_time": ("plain", "frozen"),
    "plain_low_rank_over_plain_time": ("plain", "plain_low_rank"),
    "low_rank_over_plain_time": ("plain", "low_rank"),
    "channels_last_alone": ("reference_channels_last", "reference"),
    "one_product_alone": ("reference_one_product", "reference"),
    "joint_alone": ("reference_joint", "reference"),
    "bf16_alone": ("reference_bf16", "reference"),
    "compiled_alone": ("ours_compiled", "ours"),
    "train_bf16_compiled": ("ours_bf16_compiled", "reference"),
}
MEMORY_RATIOS = {
    "msl_over_plain_memory": ("ours", "plain"),
    "visible_over_plain_memory": ("visible", "plain"),
    "sequential_over_plain_memory": ("sequential", "plain"),
    "plain_frozen_over_plain_memory": ("plain_frozen", "plain"),
    "frozen_over_plain_memory": ("frozen", "plain"),
    "plain_low_rank_over_plain_memory": ("plain_low_rank", "plain"),
    "low_rank_over_plain_memory": ("low_rank", "plain"),
    "checkpointed_over_plain_memory": ("checkpointed", "plain"),
}


@dataclass
class BenchmarkArguments:
    """What to measure."""

    output: str | None = field(default=None, metadata={"help": "JSON file for the results."})
    quick: bool = field(default=False, metadata={"help": f"Main variants of {', '.join(QUICK)}."})
    gpu: bool = field(default=False, metadata={"help": "Instead: what only a GPU shows, as far as --minutes go."})
    minutes: float = field(default=9.0, metadata={"help": "With --gpu: begin nothing new after this time."})
    networks: list[str] | None = field(default=None, metadata={"help": f"Some of {', '.join(NETWORKS)}."})
    variants: list[str] | None = field(default=None, metadata={"help": f"Some of {', '.join(VARIANTS)}."})
    batch_size: int | None = field(default=None, metadata={"help": "Batch size of every network."})
    parts: list[str] | None = field(default=None, metadata={"help": f"Some of {', '.join(PARTS)}; default: all."})
    rounds: int = field(default=3, metadata={"help": "Times that each variant is measured, in turn."})
    use_cpu: bool = field(default=False, metadata={"help": "Leave an accelerator alone."})
    cpu_threads: int | None = field(default=None, metadata={"help": "Threads; default: usable cores."})
    seed: int = field(default=0, metadata={"help": "Seed of weights, images and masks."})


def run(argv: list[str]) -> None:
    """`msl-hf benchmark` with these flags."""
    benchmark(*parse_flags(argv, __doc__, BenchmarkArguments))


def benchmark(arguments: BenchmarkArguments) -> dict:
    """Measure all variants of all networks, write the JSON file, print a table.

    Returns:
        What the file holds.
    """
    keep_freed_memory()
    threads = set_cpu_threads(arguments.cpu_threads)
    names = arguments.networks or (QUICK if arguments.quick else tuple(NETWORKS))
    known = (*NETWORKS, *VARIANTS, *PARTS)
    unknown = [name for name in (*names, *(arguments.variants or ()), *(arguments.parts or ())) if name not in known]
    if unknown:
        raise RunError(f"unknown {', '.join(unknown)}; there are {', '.join(known)}")
    if arguments.output is None:
        raise RunError("say where the results go: --output FILE.json")
    check_folder(Path(arguments.output).parent)
    if arguments.gpu:
        return _benchmark_gpu(arguments, threads)
    parts = arguments.parts or (QUICK_PARTS if arguments.quick else PARTS)
    report: dict = {"machine": _machine(threads, arguments), "networks": {}, "ratios": {}, "loading": {}}
    if "loading" in parts:
        for name in LOADS:
            row = report["loading"][name] = measure_loading(name, arguments.rounds, arguments.seed)
            ours, usual = f"{row['ours']:>8.1f} images/s", f"usual way {row['usual']:>8.1f}"
            print(f"loading {name:<22} {ours}, {usual}, {_text(row['ratio'])}; images normalised by the worker "
                  f"{_text(row['ratio_floats'])}; normalised and masked in the same process "
                  f"{_text(row['ratio_all'])}", flush=True)  # fmt: skip
    if "labels" in parts:
        _measure_labels(report, arguments.seed)
    of_network = {"steps", "memory", "inference", "around", "processes"} & set(parts)
    for name in names if of_network else ():
        report["networks"][name], report["ratios"][name] = {}, {}
        for _ in _measure_network(name, parts, threads, arguments, report["networks"][name], report["ratios"][name]):
            write_json(Path(arguments.output), report)  # after each stage: an interruption loses one
    if "scaling" in parts:
        report["scaling"] = []
        print(f"\n{names[0]}, plain training and MSL")
        for point in measure_scaling(names[0], threads, arguments.use_cpu, arguments.seed):
            report["scaling"].append(point)
            print("{quantity:<12}{value:>7} {variant:<8}{images_per_second:>8.2f} images/s{memory_mb:>8.0f} MB"
                  .format(**point), flush=True)  # fmt: skip
            write_json(Path(arguments.output), report)
        plot_scaling(report["scaling"], Path(arguments.output).with_suffix(".png"))
    if "cores" in parts:
        report["cores"] = measure_shared_cores(arguments.rounds)
        print_shared_cores(report["cores"])
    if "predicting" in parts:
        report["predicting"] = []
        for row in measure_prediction(PREDICTED, arguments.seed):
            report["predicting"].append(row)
            print("{num_images} images into {num_shards} shards: {images_per_second:.0f} images/s, memory "
                  "{start_memory_mb:.0f} MB at the start, {peak_memory_mb:.0f} MB at most".format(**row),
                  flush=True)  # fmt: skip
            write_json(Path(arguments.output), report)
    if "processes" in parts:
        found = measure_processes(names[0], arguments.batch_size, arguments.rounds, arguments.seed)
        _note(report["ratios"][names[0]], {"two_processes_over_one": found["ratio"]})
    write_json(Path(arguments.output), report)
    print(f"\nResults: {arguments.output}")
    return report


def _benchmark_gpu(arguments: BenchmarkArguments, threads: int) -> dict:
    """The tasks that the file does not hold yet, as many as the time allows; the same command does the rest."""
    begun, file = time.monotonic(), Path(arguments.output)
    size = Size(arguments.quick, arguments.rounds, arguments.seed, arguments.use_cpu)
    tasks, report = gpu_tasks(size), read_json(file) if file.is_file() else {}
    report.setdefault("tasks", {})
    todo, longest = [name for name in tasks if name not in report["tasks"]], 0.0
    for name in todo:
        start = time.monotonic()
        if start - begun + longest > 60 * arguments.minutes:  # as long as the longest so far may be too long
            break
        figures = tasks[name]()
        report["tasks"][name] = {"machine": _machine(threads, arguments), **figures}
        write_json(file, report)
        longest = max(longest, time.monotonic() - start)
        print(f"{name}: {_task_text(figures)}", flush=True)
    for network in STEP_NETWORKS:
        _print_loader_share(report["tasks"], network)
    left = [name for name in tasks if name not in report["tasks"]]
    name, over, under, wanted = TARGET
    speeds = [report["tasks"].get(name, {}).get(variant, {}).get("images_per_second") for variant in (over, under)]
    if all(speeds):
        print(f"{name}, {over} / {under}: {speeds[0] / speeds[1]:.2f} (wanted: {wanted:g})")
    print(f"{len(tasks) - len(left)} of {len(tasks)} tasks are done: {file}"
          + (f"; the same command does the {len(left)} others" if left else ""))  # fmt: skip
    return report


def _print_loader_share(tasks: dict, network: str) -> None:
    """How many images the loader gives for each that the fastest step of a network takes, at the same size."""
    side = NETWORKS[network][1]
    steps = [tasks.get(f"steps {network} batch {count}", {}).get("ours_bf16", {}) for count in BATCH_SIZES]
    taken = max((step["images_per_second"] for step in steps if "images_per_second" in step), default=None)
    given = tasks.get(f"loader {side}", {}).get("images_per_second")
    if taken and given:
        print(f"{network}: the loader gives {given / taken:.2f} images for each that a step takes")


def _task_text(figures: dict) -> str:
    """The figures of a task in a line: of variants their images/s, of others what is a number."""
    parts = []
    for name, value in figures.items():
        if isinstance(value, dict):
            speed = value.get("images_per_second")
            parts.append(f"{name} {value['error'] if speed is None else f'{speed:.1f} images/s'}")
        elif not isinstance(value, list):
            parts.append(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(parts)


def _measure_labels(report: dict, seed: int) -> None:
    report["labels"] = {}
    coco = report["labels"]["coco"] = measure_label_file(seed)
    print("load_coco of {num_images} images ({file_mb:.0f} MB of JSON): {seconds:.1f} s, at most "
          "{peak_memory_mb:.0f} MB, then {dataset_mb:.0f} MB".format(**coco), flush=True)  # fmt: skip
    large = report["labels"]["large"] = measure_large_dataset(seed)
    print("{num_images} rows of parquet ({file_mb:.0f} MB)".format(**large))
    print("    mapped: {seconds:.0f} s the first time, {seconds_again:.1f} s later, {rows_per_second:.0f} rows/s at "
          "random, {memory_mb:.0f} MB".format(**large["mapped"]))  # fmt: skip
    print("    streamed: {seconds:.1f} s, {rows_per_second:.0f} rows/s in order, {memory_mb:.0f} MB"
          .format(**large["streamed"]), flush=True)  # fmt: skip
    images = report["labels"]["images"] = measure_images(seed)
    print("{data_mb:.0f} MB of images read with {limit_mb} MB of memory".format(**images))
    for way in ("streamed", "mapped"):
        quarters = ", ".join(f"{memory:.0f}" for memory in images[way]["memory_mb"])
        print("    {way}: {num_images} images, {images_per_second:.0f} images/s, at most {quarters} MB in each quarter"
              .format(way=way, quarters=quarters, **images[way]), flush=True)  # fmt: skip


def _measure_network(
    name: str, parts: Sequence[str], threads: int, arguments: BenchmarkArguments, result: dict, ratios: dict
) -> Iterator[None]:
    """Fill `result` and `ratios`, a stage at a time; each is printed as soon as it is there."""
    batch = Batch.make(name, arguments.use_cpu, arguments.seed, arguments.batch_size)
    device, size = batch.images.device, batch.images.shape[-2:]
    result["batch_size"] = len(batch.images)
    print(f"\n{name}, batch {len(batch.images)}")
    if "steps" in parts:
        # With batch normalisation and random weights, gradients in float32 hang on the last digits; float64 shows what
        # the two steps compute.
        exact = Batch(copy.deepcopy(batch.model).double(), batch.images.double(), batch.labels.double())
        result["same_numbers"] = {"float32": compare_steps(batch), "float64": compare_steps(exact)}
        print("trainer's and published step, relative difference in float64: {loss:.1e} (loss), {gradient:.1e} "
              "(gradient)".format(**result["same_numbers"]["float64"]), flush=True)  # fmt: skip
        masks, chosen = MaskBank.generate(200, hole_ratio=(0.5, 0.6)), arguments.variants
        chosen = chosen or (QUICK_VARIANTS if arguments.quick else VARIANTS)
        variants = [variant for variant in chosen if _applies(variant, batch.model)]
        result["variants"] = _side_by_side(variants, batch, masks, arguments.rounds)
        for variant, row in result["variants"].items():
            low, high = row["spread"]
            print(f"{variant:<26}{row['images_per_second']:>8.1f} images/s ({low:.1f} to {high:.1f})")
        _note(ratios, _ratios(result["variants"], RATIOS, "rounds"))
        if "visible" in variants:
            patch_size = batch.model.backbone.timm_model.patch_embed.patch_size[0]
            shares = share_of_dropped_patches(patch_size, size[0], 16, arguments.seed)
            result["dropped_patches"] = shares
            print("patches removed wholly {removed:.0%}, dropped where a batch of 16 is filled up to one length "
                  "{padded:.0%}, in groups of similar length {grouped:.0%}".format(**shares), flush=True)  # fmt: skip
        yield
    if "memory" in parts and "variants" in result:
        measured = [v for v in result["variants"] if v in {name for pair in MEMORY_RATIOS.values() for name in pair}]
        for variant in measured:
            point = measure_point(
                name, variant, threads, arguments.use_cpu, arguments.seed, batch_size=arguments.batch_size
            )
            result["variants"][variant]["memory_mb"] = [point["memory_mb"]]
            print(f"{variant:<26}{result['variants'][variant]['memory_mb'][0]:>8.0f} MB", flush=True)
        _note(ratios, _ratios(result["variants"], MEMORY_RATIOS, "memory_mb"))
        yield
    if "inference" in parts:
        result["inference"] = measure_inference(batch.model, size, device, len(batch.images))
        speed = result["inference"]
        print(
            f"{'inference':<26}{speed['images_per_second']:>8.1f} images/s, {speed['latency_ms']:.1f} ms for one image"
        )
        ways = result["from_photographs"] = measure_inference_ways(
            batch, arguments.rounds, arguments.seed, compiled=not arguments.quick
        )
        for way, row in ways.items():
            print(f"{way:<26}{row['images_per_second']:>8.1f} images/s from photographs")
        _note(ratios, {f"{way}_over_pipeline": row["ratio"] for way, row in ways.items() if "ratio" in row})
        yield
    if "around" in parts:
        _note(ratios, {"masking_share": measure_masking(batch, arguments.rounds)["share"]})
        _note(ratios, {"trainer_over_bare_time": measure_trainer(batch, arguments.rounds)["ratio"]})
        yield


def _note(ratios: dict, found: dict[str, dict]) -> None:
    ratios.update(found)
    for name, values in found.items():
        print(f"{name:<30}{_text(values)}", flush=True)


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


def _ratios(variants: dict[str, dict], pairs: dict[str, tuple[str, str]], key: str) -> dict[str, dict]:
    """Median and spread of the ratio of two variants within each round."""
    ratios = {}
    for name, (over, under) in pairs.items():
        if over in variants and under in variants:
            values = sorted(a / b for a, b in zip(variants[over][key], variants[under][key], strict=True))
            ratios[name] = {"median": statistics.median(values), "spread": [values[0], values[-1]]}
    return ratios


def _machine(threads: int, arguments: BenchmarkArguments) -> dict:
    on_gpu = torch.cuda.is_available() and not arguments.use_cpu
    return {
        "device": torch.cuda.get_device_name() if on_gpu else f"{threads} CPU threads",
        "processor": platform.machine(),
        "torch": torch.__version__,
    }


def _text(values: dict) -> str:
    spread = " ({:.3g} to {:.3g})".format(*values["spread"]) if "spread" in values else ""
    return f"{values['median']:.3g}{spread}"
