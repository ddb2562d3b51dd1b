r"""Measure trained models, side by side: metrics, robustness to masks, AP by object size and occlusion, speed.

    msl-hf evaluate --model outputs/demo --output_dir outputs/evaluation
    msl-hf evaluate --model outputs/voc-plain outputs/voc-msl --dataset voc --split test --data_dir data/VOCdevkit \
        --hole_ratio 0.01 0.1 0.1 0.2 0.2 0.3 0.3 0.4 0.4 0.5 0.5 0.6 --output_dir outputs/both

Masks depend on the seed and the position of an image alone: every model sees the same ones, which none was trained
with. --occluders black noise image covers every object to the shares --covered and measures AP of what is covered.
--tune_thresholds val finds the best threshold of each class on split val and stores it in the models' config;
--tune_views val does so, too, and before finds the best way to look at images that costs at most --view_cost passes.
"""

import importlib.metadata
import itertools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import transformers
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from ..console.errors import RunError, user_input
from ..console.files import check_results_folder, draw, write_json
from ..console.flags import parse_flags
from ..console.hardware import describe_hardware, keep_freed_memory, set_cpu_threads
from ..console.speed import measure_inference
from ..data.files import split_name
from ..data.images import image_files
from ..data.schema import class_names_of, column
from ..data.transforms import ImageDataset, input_size
from ..evaluation.breakdown import breakdown, mean_average_precisions, resample_counts
from ..evaluation.figures import plot_breakdown, plot_occluders, plot_robustness
from ..evaluation.localisation import find_hits, localisation
from ..evaluation.metrics import METRIC_NAMES, average_precisions, multilabel_metrics, precision_and_recall
from ..evaluation.occluders import KINDS, Picture, find_pictures, measure_occluders
from ..evaluation.robustness import MaskedDataset
from ..evaluation.seeds import common_name, mean_over_seeds
from ..evaluation.thresholds import tune_thresholds
from ..evaluation.views import view_scores
from ..model.views_msl import Views, views_of
from .arguments import IGNORED_AS_NEGATIVE_HELP
from .models import (
    ComparisonArguments,
    Predictor,
    TrainedModel,
    choose_split,
    has_seen,
    held_out_masks,
    load_data,
    load_models,
    split_targets,
)
from .output import command_line
from .views import VIEW_COST_HELP, print_views, store_choice, tune_views


@dataclass
class EvaluateArguments(ComparisonArguments):
    """What to measure beside the metrics."""

    views: list[str] = field(
        default_factory=list,
        metadata={"help": "Ways to look at an image, side by side, such as whole@256 whole@224+2x2@160; default: the "
                          "model's own, where it has one."},
    )  # fmt: skip
    tune_views: str | None = field(
        default=None,
        metadata={"help": "Choose among --views (or usual ones) on this split, and store the best in the config."},
    )
    view_cost: float = field(default=4.0, metadata={"help": VIEW_COST_HELP})
    tune_thresholds: str | None = field(
        default=None,
        metadata={"help": "Tune per-class thresholds on this split and store them in the models' config."},
    )
    min_recall: list[str] = field(
        default_factory=list,
        metadata={"help": "With either of them: recall that a class has to reach on that split, such as dog=0.9."},
    )
    ignored_as_negative: bool = field(default=False, metadata={"help": IGNORED_AS_NEGATIVE_HELP})
    occluders: list[str] = field(
        default_factory=list,
        metadata={"help": "Cover each object by these: black, noise, image (another photograph)."},
    )
    covered: list[float] = field(
        default_factory=lambda: [0.3, 0.5, 0.7, 0.9], metadata={"help": "Shares of its box that are covered."}
    )
    size_limits: list[float] = field(
        default_factory=lambda: [32.0, 96.0], metadata={"help": "Sides that divide small, medium and large (pixels)."}
    )
    num_seeds: int = field(
        default=1,
        metadata={"help": "So many models in turn are seeds of one training; tables and figures show their means."},
    )
    num_bootstrap: int = field(default=1000, metadata={"help": "Bootstrap samples of the 95 %% intervals."})


def run(argv: list[str]) -> None:
    """`msl-hf evaluate` with these flags."""
    evaluate(*parse_flags(argv, __doc__, EvaluateArguments))


def evaluate(arguments: EvaluateArguments) -> dict:
    """Measure, write `metrics.json`, `robustness.png` and `breakdown.png`, print tables.

    Returns:
        What `metrics.json` holds.
    """
    _check(arguments)
    keep_freed_memory()
    set_cpu_threads(arguments.cpu_threads)
    transformers.set_seed(arguments.seed)
    output_dir = Path(arguments.output_dir)
    check_results_folder(output_dir, "models")
    with user_input():
        hole_ratios = arguments.hole_ratios
        datasets = load_data(arguments)
        split, dataset = choose_split(datasets, arguments.split, arguments)
        given = [Views.parse(view) for view in arguments.views]
        class_names = class_names_of(dataset)
        tuning = _tuning_split(datasets, split, dataset, arguments)
        min_recall = _min_recall(arguments, class_names)
        models = load_models(arguments.model, class_names)
        sizes = [input_size(model.processor) for model in models]
        banks = [held_out_masks(arguments, interval) for interval in hole_ratios]
        for view, model in itertools.product(given, models):
            view.check(model.network, model.processor)
    targets = split_targets(dataset)
    objects = column(dataset, "objects") if "objects" in dataset.features else None
    pictures = _pictures(arguments, split, objects, targets) if arguments.occluders else []
    results = {}
    for model, size in zip(models, sizes, strict=True):
        predict = Predictor(model, arguments)
        images = ImageDataset(dataset, model.processor, normalize=False)
        result: dict = {"path": model.path}
        if tuning is not None:
            result |= _tune(model, predict, tuning, arguments, given, min_recall)
        own = views_of(None, model.network.config)
        views = list(dict.fromkeys([*given, own])) if given or str(own) != "whole" else []
        by_view = view_scores(predict.logits, images, [Views.parse("whole"), *views])
        scores = by_view["whole"]
        result["clean"] = _metrics(scores, targets, arguments)
        result["masks_seen_in_training"] = has_seen(model, arguments.masks)
        if model.network.config.thresholds is not None:
            result["thresholds"] = [model.network.config.thresholds[index] for index in model.columns]
            own_thresholds = np.array(result["thresholds"])
            # Of the model as it is used: through its own view, which they were tuned for.
            result["clean_own_thresholds"] = _metrics(by_view[str(own)], targets, arguments, own_thresholds)
            rates = precision_and_recall(by_view[str(own)], targets, own_thresholds)
            result["per_class_own_thresholds"] = {
                name: {"precision": float(precision), "recall": float(recall)}
                for name, precision, recall in zip(class_names, *rates, strict=True)
            }
        result["per_class_AP"] = {
            name: None if np.isnan(value) else float(value)
            for name, value in zip(class_names, average_precisions(scores, targets), strict=True)
        }
        result["robustness"] = [
            {"hole_ratio": list(interval), "mean_hole_ratio": bank.hole_ratios.mean().item(),
             **_metrics(predict(_masked(images, bank, model, arguments)), targets, arguments)}
            for interval, bank in zip(hole_ratios, banks, strict=True)
        ]  # fmt: skip
        result["breakdown"] = _breakdown(scores, targets, objects, arguments)
        plain = Views.parse("whole")
        result["localisation"] = _localisation(predict, model, images, plain, objects, targets, arguments)
        result["occluders"] = measure_occluders(
            predict, images.dataset, images.processor, pictures, targets, arguments.occluders, arguments.covered,
            arguments.num_bootstrap, arguments.seed,
        ) if pictures else {}  # fmt: skip
        device, batch_size = predict.trainer.args.device, arguments.per_device_eval_batch_size
        result["views"] = {}
        for view in views:
            speed = measure_inference(model.network, size, device, batch_size, view)
            result["views"][str(view)] = {
                "cost": view.cost(size),
                "images_per_second": speed["images_per_second"],
                **_metrics(by_view[str(view)], targets, arguments),
                "breakdown": _breakdown(by_view[str(view)], targets, objects, arguments),
                "localisation": _localisation(predict, model, images, view, objects, targets, arguments),
            }
        result["speed"] = measure_inference(model.network, size, device, batch_size)
        results[model.name] = result
    trainings = _trainings(results, arguments.num_seeds)
    for number in range(arguments.num_seeds):  # a seed with the same seed of the first training
        _compare_with_first(dict(list(results.items())[number :: arguments.num_seeds]))
    _compare_with_first(trainings)
    report = {
        "dataset": arguments.data_dir or "generated scenes",
        "split": split,
        "num_images": len(dataset),
        "masks": arguments.masks,
        "mask_fill": arguments.mask_fill,
        "ignored_as_negative": arguments.ignored_as_negative,
        "seed": arguments.seed,
        "models": results,
        **({"trainings": trainings} if trainings else {}),
        "command": command_line(),
        "hardware": describe_hardware(predict.trainer.args),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "msl_hf")},
    }
    if predict.trainer.is_world_process_zero():
        output_dir.mkdir(parents=True, exist_ok=True)
        write_json(output_dir / "metrics.json", report)
        plots = {"robustness.png": plot_robustness, "breakdown.png": plot_breakdown, "occluders.png": plot_occluders}
        shown = trainings or results
        drawn = [name for name, plot in plots.items() if draw(plot, shown, output_dir / name)]
        _print({**report, "models": shown})
        for name, index in itertools.product(results, min_recall):
            rates = results[name]["per_class_own_thresholds"][class_names[index]]
            print(f"{name}, {class_names[index]}: threshold {results[name]['thresholds'][index]:.3f}, recall "
                  f"{rates['recall']:.1%} and precision {rates['precision']:.1%} on split {split!r}")  # fmt: skip
        print(f"\nEverything: {', '.join([str(output_dir / 'metrics.json'), *drawn])}")
    return report


def _check(arguments: EvaluateArguments) -> None:
    if arguments.output_dir is None:
        raise RunError("say where the results go: --output_dir FOLDER")
    limits = arguments.size_limits
    if len(limits) != 2 or not 0 < limits[0] < limits[1]:
        raise RunError(f"--size_limits takes two sides in pixels, the smaller first, got {limits}")
    if not arguments.view_cost >= 1:
        raise RunError(f"--view_cost must be at least 1, the cost of a plain pass, got {arguments.view_cost}")
    unknown = [kind for kind in arguments.occluders if kind not in KINDS]
    if unknown:
        raise RunError(f"--occluders takes some of {', '.join(KINDS)}, got {unknown[0]}")
    if not all(0 < share <= 1 for share in arguments.covered):
        raise RunError(f"--covered takes shares in (0, 1], got {arguments.covered}")
    if arguments.num_seeds < 1 or len(arguments.model) % arguments.num_seeds:
        raise RunError(f"--num_seeds {arguments.num_seeds} takes as many models of each training, got "
                       f"{len(arguments.model)}; name those of one training after each other")  # fmt: skip
    if arguments.num_bootstrap < 1:
        raise RunError(f"--num_bootstrap must be at least 1, got {arguments.num_bootstrap}")


def _tuning_split(datasets, split: str, dataset, arguments: EvaluateArguments):
    """The images to tune on, None where nothing is to be tuned."""
    asked = {"tune_views": arguments.tune_views, "tune_thresholds": arguments.tune_thresholds}
    flag = next((flag for flag, name in asked.items() if name is not None), None)
    if flag is None:
        return None
    if None not in asked.values() and len(set(map(split_name, asked.values()))) > 1:
        raise RunError("--tune_views tunes the thresholds, too, on its own split; leave --tune_thresholds out")
    name, tuning = choose_split(datasets, asked[flag], arguments)
    shared = image_files(tuning).keys() & image_files(dataset)
    if split_name(name) == "test" or name == split or shared:
        raise RunError(f"--{flag} {name} would tune on images that are measured on; name a held-out split")
    remote = [path for path in arguments.model if not Path(path).is_dir()]
    if remote:
        raise RunError(f"{remote[0]}: what is tuned is stored in a model folder's config.json; download the model "
                       "first")  # fmt: skip
    return tuning


def _min_recall(arguments: EvaluateArguments, class_names: list[str]) -> dict[int, float]:
    """Class index -> recall of `--min_recall`."""
    if arguments.min_recall and arguments.tune_views is arguments.tune_thresholds is None:
        raise RunError("--min_recall chooses thresholds; say on which split with --tune_thresholds")
    found = {}
    for part in arguments.min_recall:
        name, _, recall = part.rpartition("=")
        if name not in class_names:
            raise RunError(f"--min_recall {part}: there is no class {name!r}; write CLASS=RECALL, with one of "
                           f"{', '.join(class_names)}")  # fmt: skip
        try:
            found[class_names.index(name)] = float(recall)
        except ValueError:
            found[class_names.index(name)] = 0.0
        if not 0 < found[class_names.index(name)] <= 1:
            raise RunError(f"--min_recall {part}: a recall lies in (0, 1]")
    return found


def _tune(
    model: TrainedModel,
    predict: Predictor,
    tuning,
    arguments: EvaluateArguments,
    given: list[Views],
    min_recall: dict[int, float],
) -> dict:
    """Tune what is to be tuned, and store it in the configuration; what `metrics.json` holds of it."""
    images, targets = ImageDataset(tuning, model.processor, normalize=False), split_targets(tuning)
    if arguments.tune_views is None:
        own = views_of(None, model.network.config)
        scores = view_scores(predict.logits, images, [own])[str(own)]
        thresholds = tune_thresholds(scores, targets, min_recall)
        store_choice(model.network.config, Path(model.path), model.columns, thresholds)
        return {}
    choice = tune_views(predict.logits, images, targets, model.network, arguments.view_cost, given, min_recall)
    store_choice(model.network.config, Path(model.path), model.columns, choice.thresholds, choice.view)
    print_views(choice, f"{arguments.tune_views}, {model.name}")
    return {"tuned_views": choice.rows}


def _breakdown(scores: np.ndarray, targets: np.ndarray, objects, arguments: EvaluateArguments) -> dict:
    """AP by groups, and mAP of all images, with what the bootstrap gives for each of them."""
    weights = resample_counts(len(targets), arguments.num_bootstrap, arguments.seed)
    samples = mean_average_precisions(scores, targets, weights)
    groups = breakdown(scores, targets, objects, tuple(arguments.size_limits), arguments.num_bootstrap, arguments.seed)
    mean = float(np.nanmean(average_precisions(scores, targets)))
    row = {"AP": mean, "interval": np.nanpercentile(samples, [2.5, 97.5]).tolist(), "samples": samples,
           "positives": int((targets == 1).sum())}  # fmt: skip
    return {**groups, "mAP": {"all images": row}}


def _pictures(arguments: EvaluateArguments, split: str, objects, targets: np.ndarray) -> list[Picture]:
    pictures = find_pictures(objects, targets, arguments.seed) if objects is not None else []
    if not pictures:
        raise RunError(f"--occluders cover the objects of split {split!r}, which has no boxes; name a split or data "
                       "with boxes, or leave --occluders out")  # fmt: skip
    return pictures


def _localisation(predict: Predictor, model: TrainedModel, images, views: Views, objects, targets, arguments) -> dict:
    """Whether the score maps lie on the objects, by their size; empty without boxes."""
    if objects is None or not any(item["label"] for item in objects):
        return {}
    training = predict.trainer.args
    hidden = arguments.disable_tqdm or not predict.trainer.is_world_process_zero()
    rows = tqdm(range(training.process_index, len(targets), training.world_size), desc="Finding where maps point",
                disable=hidden, leave=False)  # fmt: skip
    network = model.network.eval()
    hits = find_hits(network, images, views, objects, targets, model.columns, rows)
    hits = dict(gather_object(list(hits.items()))) if training.world_size > 1 else hits
    return localisation(hits, objects, targets.shape[1], tuple(arguments.size_limits))


def _metrics(
    scores: np.ndarray, targets: np.ndarray, arguments: EvaluateArguments, threshold: float | np.ndarray = 0.5
) -> dict:
    options = {"count_ignored_as": "negative" if arguments.ignored_as_negative else "ignore"}
    top3 = multilabel_metrics(scores, targets, threshold, top_k=3, **options)
    return {
        **multilabel_metrics(scores, targets, threshold, **options),
        "top3": {name: value for name, value in top3.items() if name != "mAP"},
    }


def _masked(images: ImageDataset, bank, model: TrainedModel, arguments: EvaluateArguments) -> MaskedDataset:
    processor = model.processor
    return MaskedDataset(images, bank, processor.image_mean, processor.image_std, arguments.seed, arguments.mask_fill)


def _trainings(results: dict, seeds: int) -> dict:
    """Means over the seeds of each training, by what the names of its models begin with; empty for single models."""
    names = list(results)
    groups = [names[start : start + seeds] for start in range(0, len(names), seeds)] if seeds > 1 else []
    means = [(group, mean_over_seeds([results[name] for name in group])) for group in groups]
    prefixes = [common_name(group) for group in groups]
    return {prefix if prefixes.count(prefix) == 1 else group[0]: mean
            for prefix, (group, mean) in zip(prefixes, means, strict=True)}  # fmt: skip


def _compare_with_first(results: dict) -> None:
    """Beside each figure of groups and of covered objects its difference to the first model, and view."""
    for result in results.values():
        if "views" in result:
            _compare_with_first(result["views"])
    first = next(iter(results.values()), {})
    for result in reversed(results.values()):  # the first one last: its samples are needed until then
        for name, groups in result["breakdown"].items():
            for group, values in groups.items() if isinstance(groups, dict) else ():
                _subtract(values, first["breakdown"][name][group])
        for kind, rows in result.get("occluders", {}).items():
            for row, reference in zip(rows, first["occluders"][kind], strict=True):
                _subtract(row, reference)


def _subtract(values: dict, reference: dict) -> None:
    """Put the difference to a reference, over the same bootstrap samples, in place of the samples."""
    samples = np.array(values.pop("samples"))
    if values is not reference and values["positives"]:
        values["minus_first"] = values["AP"] - reference["AP"]
        difference = samples - np.array(reference["samples"])
        values["minus_first_interval"] = np.nanpercentile(difference, [2.5, 97.5]).tolist()


def _print(report: dict) -> None:
    models = report["models"]
    width = max(len(name) for name in ("model", *models)) + 2
    print(f"\n{report['dataset']}, split {report['split']!r}, {report['num_images']} images, percent:")
    print(f"{'model':<{width}}{'images':<16}" + "".join(f"{name:>7}" for name in METRIC_NAMES) + "   top-3 CF1  OF1")
    for name, result in models.items():
        rows = [("clean", result["clean"])]
        if "thresholds" in result:
            rows.append(("own thresholds", result["clean_own_thresholds"]))
        rows += [("masked {:g}-{:g}".format(*row["hole_ratio"]), row) for row in result["robustness"]]
        for images, row in rows:
            figures = "".join(f"{100 * row[metric]:7.1f}" for metric in METRIC_NAMES)
            print(
                f"{name:<{width}}{images:<16}{figures}{100 * row['top3']['CF1']:12.1f}{100 * row['top3']['OF1']:5.1f}"
            )
    print("\nClasses by AP: " + "; ".join(f"{name}: {_extremes(result)}" for name, result in models.items()))
    first = next(iter(models.values()))["breakdown"]
    print(f"\nAP over class-image pairs [95 % interval], {first['num_images']} images with boxes, "
          f"{first['num_images_without_boxes']} without are left out"
          + (" (in brackets: difference to the first model)" if len(models) > 1 else ""))  # fmt: skip
    for name, groups in first.items():
        for group, values in groups.items() if isinstance(groups, dict) else ():
            print(f"{name:<11}{group:<15}{values['positives']:>6} positives", end="")
            for model, result in models.items():
                print(f"   {model} {_interval(result['breakdown'][name][group])}", end="")
            print()
    covered = next(iter(models.values()))["occluders"]
    if covered:
        print(f"\nAP of {covered['nothing'][0]['positives']} class-image pairs whose objects are covered, each to a "
              "share of its box [95 % interval]")  # fmt: skip
    for kind, rows in covered.items():
        for number, row in enumerate(rows):
            print(f"{kind:<8}{row['covered']:6.0%}", end="")
            for model, result in models.items():
                print(f"   {model} {_interval(result['occluders'][kind][number])}", end="")
            print()
    _print_localisation(models)
    for name, result in models.items():
        if result["views"]:
            _print_views(name, result["views"])
    print(f"\nSpeed of the network alone on {report['hardware']}:")
    for name, result in models.items():
        speed = result["speed"]
        print(f"{name}: {speed['latency_ms']:.1f} ms an image (95 % below {speed['latency_ms_p95']:.1f}), "
              f"{speed['images_per_second']:.0f} images/s in batches of {speed['batch_size']}")  # fmt: skip


def _print_localisation(models: dict) -> None:
    rows = {name: result["localisation"] for name, result in models.items()}
    rows |= {f"{name}, {view}": row["localisation"] for name, result in models.items()
             for view, row in result["views"].items()}  # fmt: skip
    if not any(rows.values()):
        return
    print("\nWhere score maps point, percent: greatest value in a box of the class / box of the map has an IoU of 0.5")
    width = max(map(len, rows)) + 2
    groups = next(iter(rows.values()))
    titles = (f"{group} ({values['pairs']})" for group, values in groups.items())
    print(" " * width + "".join(f"{title:>18}" for title in titles))
    for name, row in rows.items():
        shares = ("-" if values["pairs"] == 0 else f"{100 * values['pointing']:.1f} / {100 * values['CorLoc']:.1f}"
                  for values in row.values())  # fmt: skip
        print(f"{name:<{width}}" + "".join(f"{share:>18}" for share in shares))


def _print_views(name: str, views: dict) -> None:
    """One line a view; below, AP of the groups, and the difference to the first view, * where its interval lacks 0."""
    width = max(len(view) for view in views) + 2
    print(f"\nViews of {name} (cost: pixels, as a multiple of those of the plain pass):")
    print(f"{'view':<{width}}{'cost':>6}{'images/s':>10}" + "".join(f"{metric:>7}" for metric in METRIC_NAMES))
    for view, row in views.items():
        figures = "".join(f"{100 * row[metric]:7.1f}" for metric in METRIC_NAMES)
        print(f"{view:<{width}}{row['cost']:6.2f}{row['images_per_second']:10.0f}{figures}")
    columns = {view: max(len(view), 12) + 2 for view in views}
    print("AP" + " " * 24 + "".join(f"{view:>{columns[view]}}" for view in views))
    for kind, groups in next(iter(views.values()))["breakdown"].items():
        for group in groups if isinstance(groups, dict) else ():
            cells = (f"{_difference(row['breakdown'][kind][group]):>{columns[view]}}" for view, row in views.items())
            print(f"{kind:<11}{group:<15}" + "".join(cells))


def _extremes(result: dict) -> str:
    ranked = sorted((value, name) for name, value in result["per_class_AP"].items() if value is not None)
    low, high = (", ".join(f"{name} {100 * value:.0f}" for value, name in part) for part in (ranked[:3], ranked[-3:]))
    return f"worst {low}, best {high}"


def _difference(values: dict) -> str:
    if values["AP"] is None:
        return "-"
    text = f"{100 * values['AP']:.1f}"
    if "minus_first" in values:
        low, high = values["minus_first_interval"]
        text += f" ({100 * values['minus_first']:+.1f}{'*' if low > 0 or high < 0 else ''})"
    return text


def _interval(values: dict) -> str:
    if values["AP"] is None:
        return "-"
    text = "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * value for value in (values["AP"], *values["interval"])))
    if "minus_first" in values:
        difference = (values["minus_first"], *values["minus_first_interval"])
        text += " ({:+.1f} [{:+.1f}, {:+.1f}])".format(*(100 * value for value in difference))
    return text
