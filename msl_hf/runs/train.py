"""A training run from its arguments to its model folder."""

import contextlib
import functools
import importlib.metadata
import math
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import transformers
from accelerate.utils import broadcast
from datasets import IterableDataset
from safetensors import SafetensorError

from ..console.errors import RunError, user_input
from ..console.files import draw, write_json
from ..console.hardware import (
    describe_hardware,
    describe_threads,
    describe_workers,
    keep_freed_memory,
    set_cpu_threads,
)
from ..data.images import set_max_pixels
from ..data.schema import MultiLabelCollator, class_names_of, column
from ..data.transforms import ImageDataset, StreamedImages
from ..evaluation.figures import plot_per_class, plot_robustness, plot_training_curves
from ..evaluation.metrics import (
    METRIC_NAMES,
    average_precisions,
    metrics_from_logits,
    multilabel_metrics,
    probabilities,
)
from ..evaluation.occluders import find_pictures, measure_occluders
from ..evaluation.robustness import MaskedDataset
from ..evaluation.views import view_scores
from ..hub.card import write_card
from ..masks import MaskBank
from ..model import MSLForImageClassification
from ..model.views_msl import Views
from ..training import MSLTrainer
from ..training.adapters import has_adapters, merged
from ..training.callbacks import SaveBestModel, SaveOnTermination, best_evaluation
from ..training.parts import choose_ignored_as
from ..training.trainer import check_size
from .arguments import Arguments, DataArguments
from .banks import load_masks, mask_bank
from .models import split_targets
from .networks import load_model
from .output import NoteRun, check_output_dir, claimed_output_dir, command_line, find_checkpoint, run_settings
from .reporting import report_run
from .splits import Splits, hide_labels, load_pos_weight, prepare_splits
from .views import ViewChoice, print_views, store_choice, tune_views

REPORT = "report.html"
CURVE = ((0.1, 0.2), (0.3, 0.4), (0.5, 0.6))  # hole ratios of the robustness curve
COVERED, COVERED_PAIRS = (0.3, 0.5, 0.7), 500  # shares of objects that are covered in the end; of at most so many


def train(arguments: Arguments, load: Callable[[DataArguments], dict]) -> dict:
    """Load, train, evaluate on whole and on masked images, write model, processor, card and metrics.json.

    Args:
        arguments: As `parse_arguments` returns them.
        load: Gives the `DatasetDict` of the schema.

    Returns:
        What `metrics.json` holds.
    """
    start = time.time()
    training = arguments.training
    output_dir = Path(training.output_dir)
    if training.device.type == "cpu" and (training.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "") == "true"):
        raise RunError("FSDP needs GPUs (on CPUs Accelerate would run plain data parallelism without a word); launch "
                       "without it")  # fmt: skip
    keep_freed_memory()
    threads = set_cpu_threads(arguments.run.cpu_threads)
    transformers.set_seed(training.seed)  # the new head's weights
    check_output_dir(arguments)
    settings = run_settings(arguments)
    resume = find_checkpoint(training.output_dir, training.resume_from_checkpoint, settings)
    with user_input():
        set_max_pixels(arguments.data.max_pixels)
        with training.main_process_first():  # it may download, or write scenes
            datasets = load(arguments.data)
        progress = training.process_index == 0 and not training.disable_tqdm
        splits = prepare_splits(datasets, arguments.data, progress)
        label_names = class_names_of(splits.train)
        is_stream = isinstance(splits.train, IterableDataset)
        if is_stream and (training.max_steps <= 0 or training.lr_step_epochs is not None):
            raise RunError("a stream has no known length: give the training steps with --max_steps N, and a schedule "
                           "that needs no epochs (without --lr_step_epochs)")  # fmt: skip
        if arguments.data.hidden_labels:
            splits.train = hide_labels(splits.train, arguments.data.hidden_labels, training.seed)
        ignored_as = choose_ignored_as(arguments.data.ignored_as, splits.train, training.classification_loss)
        pos_weight = load_pos_weight(arguments.data.pos_weight, splits.train, ignored_as)
        train_masks, test_masks = load_masks(arguments.masks, has_test=splits.test is not None)
        model, processor = load_model(arguments.model, label_names)
    if splits.selection is not None:
        training.eval_strategy = "epoch"
    if is_stream and training.world_size > 1 and "epoch" in (training.eval_strategy, training.save_strategy):
        print("A stream that several processes share has no epochs: it is saved and evaluated every "
              f"{training.save_steps:g} steps (--save_steps)")  # fmt: skip
        training.save_strategy, training.eval_steps = "steps", training.save_steps
        training.eval_strategy = "no" if splits.selection is None else "steps"
    augmentation = {
        "augment": True, "crop_scale": arguments.data.crop_scale, "seed": training.seed, "normalize": False
    }  # fmt: skip
    if arguments.model.final_image_size is not None:
        augmentation["first_size"] = (arguments.model.image_size,) * 2
        augmentation["first_epochs"] = math.ceil(training.num_train_epochs) - arguments.model.final_epochs
    if is_stream:
        train_images = StreamedImages(splits.train, processor, arguments.data.drop_bad_images, **augmentation)
    else:
        train_images = ImageDataset(splits.train, processor, **augmentation)
    with user_input():
        check_size(train_images, training)
    selection = None if splits.selection is None else ImageDataset(splits.selection, processor, normalize=False)
    termination = SaveOnTermination()
    best_model = [] if splits.selection is None else [SaveBestModel(training.output_dir)]
    count_ignored_as = "negative" if arguments.run.ignored_as_negative else "ignore"
    with user_input():  # what the trainer cannot do with this network or machine
        trainer = MSLTrainer(
            model=model,
            args=training,
            masks=train_masks,
            processing_class=processor,
            train_dataset=train_images,
            eval_dataset=selection,
            data_collator=MultiLabelCollator(len(label_names), ignored_as=ignored_as),
            eval_data_collator=MultiLabelCollator(len(label_names), ignored_as="ignore"),
            pos_weight=pos_weight,
            compute_metrics=functools.partial(metrics_from_logits, count_ignored_as=count_ignored_as),
            callbacks=[*best_model, termination, NoteRun(settings)],
        )
    # Not before: a mistake in the input leaves no trace.
    with claimed_output_dir(arguments) if training.process_index == 0 else contextlib.nullcontext():
        if training.process_index == 0:
            (output_dir / REPORT).unlink(missing_ok=True)  # of an earlier time; whatever is uploaded, it is not
            images, workers = "a stream of" if is_stream else len(splits.train), training.dataloader_num_workers
            print(f"Training on {images} images, {len(label_names)} classes, {describe_threads(threads)}, "
                  f"{'bfloat16 autocast' if training.bf16 else 'float32'}"
                  f"{f', {describe_workers(workers)}' if workers else ''}"
                  f"{_describe_frozen(trainer)}")  # fmt: skip
        with _full_disk_explained(output_dir), _training_explained():
            if training.cache_features:
                with user_input():
                    trainer.cache_features()
            trainer.train(resume_from_checkpoint=resume)
        if trainer.state.global_step == 0:
            raise RunError("nothing was trained: there was not one whole batch of images, or not one step to take")
        if termination.stopped:
            print(f"Stopped by SIGTERM after step {trainer.state.global_step}, which is saved; the same command with "
                  "--resume_from_checkpoint goes on")  # fmt: skip
            sys.exit(128 + signal.SIGTERM)
        return _measure_and_write(arguments, trainer, splits, test_masks, time.time() - start)


def _describe_frozen(trainer: MSLTrainer) -> str:
    if trainer.args.freeze_backbone:
        return ", backbone frozen"
    stages = f", stem and first {trainer.args.freeze_stages} stages frozen" if trainer.args.freeze_stages else ""
    return stages + (", batch normalisation frozen" if trainer.frozen_batch_norms else "")


def _measure_and_write(
    arguments: Arguments, trainer: MSLTrainer, splits: Splits, test_masks: MaskBank, train_seconds: float
) -> dict:
    """Evaluate the last and the best epoch, write what a run leaves behind, return what `metrics.json` holds."""
    training, processor = arguments.training, trainer.processing_class
    output_dir = Path(training.output_dir)
    label_names, is_stream = class_names_of(splits.train), isinstance(splits.train, IterableDataset)
    results = {"last": {"epoch": trainer.state.epoch, **evaluate(trainer, splits, processor, test_masks)}}
    trainer.save_model(str(output_dir / "last"))
    if arguments.run.save_adapter:
        trainer.save_adapter(output_dir / "adapter")
    best = best_evaluation(trainer.state.log_history)
    if best is None:
        trainer.save_model(str(output_dir))
    elif best["step"] == trainer.state.global_step:
        results["best"] = results["last"]
    else:
        take_best(trainer, output_dir)
        results["best"] = {"epoch": best["epoch"], **evaluate(trainer, splits, processor, test_masks)}
    chosen = "last" if best is None else "best"
    curve = arguments.run.robustness_curve and splits.test is not None and arguments.masks.masks != "patches"
    if curve:
        results[chosen]["robustness"] = measure_robustness(trainer, splits, processor)
    if arguments.run.robustness_curve and splits.test is not None:
        results[chosen]["occluders"] = measure_covered_objects(trainer, splits)
    choice = choose_view_of_run(arguments, trainer, splits)
    measured = splits.selection if splits.test is None else splits.test
    scores = None if measured is None else scores_as_used(trainer, measured, choice)
    if choice is not None and splits.test is not None:
        results[chosen]["own_view"] = measure_own_view(arguments, splits, choice, scores)
    report = {
        "model": chosen,
        "dataset": arguments.data.dataset_name or arguments.data.data_dir or "generated scenes",
        "dataset_id": hub_id(arguments.data.data_dir),
        "license": arguments.run.license,
        "base_model": base_model_name(arguments.model.model or arguments.model.backbone),
        "num_labels": len(label_names),
        "ignored_as_negative": arguments.run.ignored_as_negative,
        "train_split": splits.names["train"],
        "selection_split": splits.names["selection"],
        "test_split": splits.names["test"],
        "num_train_images": None if is_stream else len(splits.train),
        "num_test_images": 0 if splits.test is None else len(splits.test),
        **results,
        "tuned_views": None if choice is None else choice.rows,
        "command": command_line(),
        "train_seconds": round(train_seconds, 1),
        "hardware": describe_hardware(training),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "msl_hf")},
    }
    if trainer.is_world_process_zero():
        draw(plot_training_curves, trainer.state.log_history, output_dir / "curves.png")
        if splits.test is not None:
            draw(plot_per_class, results[chosen]["per_class_AP"], output_dir / "per_class.png")
        if curve:
            draw(plot_robustness, {output_dir.resolve().name: results[chosen]}, output_dir / "robustness.png")
        write_card(output_dir, report, run_settings(arguments))
        write_json(output_dir / "metrics.json", report)  # last: with it the run is finished
    if training.push_to_hub:
        trainer.push_to_hub(model_name=output_dir.resolve().name)
    if trainer.is_world_process_zero():  # after the upload: it shows photographs, which are not ours to publish
        network = None if _is_sharded(trainer) else trainer.accelerator.unwrap_model(trainer.model)
        draw(report_run, network, processor, report, run_settings(arguments), measured, scores, output_dir / REPORT)
        print_report(report, output_dir)
    return report


def choose_view_of_run(arguments: Arguments, trainer: MSLTrainer, splits: Splits) -> ViewChoice | None:
    """Choose on the selection split how the model looks at images, and its thresholds; store both in its folder."""
    most = arguments.run.view_cost
    if splits.selection is None or most <= 1:
        return None
    if _is_sharded(trainer):
        if trainer.is_world_process_zero():
            print("No view is chosen where weights are sharded; msl-hf evaluate --tune_views does so afterwards")
        return None
    images = ImageDataset(splits.selection, trainer.processing_class, normalize=False)
    targets, network = split_targets(splits.selection), trainer.accelerator.unwrap_model(trainer.model)
    choice = tune_views(lambda part: trainer.predict(part).predictions, images, targets, network, most)
    if trainer.is_world_process_zero():
        columns = range(network.config.num_labels)
        folder = Path(arguments.training.output_dir)
        store_choice(network.config, folder, columns, choice.thresholds, choice.view)
        print_views(choice, splits.names["selection"])
    return choice


def _is_sharded(trainer: MSLTrainer) -> bool:
    return trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled


def scores_as_used(trainer: MSLTrainer, dataset, choice: ViewChoice | None) -> np.ndarray:
    """(N, C) probabilities of a split, through the view that was chosen, or the plain pass."""
    view = Views.parse("whole" if choice is None else choice.view)
    images = ImageDataset(dataset, trainer.processing_class, normalize=False)
    return view_scores(lambda part: trainer.predict(part).predictions, images, [view])[str(view)]


def measure_own_view(arguments: Arguments, splits: Splits, choice: ViewChoice, scores: np.ndarray) -> dict:
    """Metrics on the test split of the model as it is used: through its own view, with its own thresholds."""
    count_ignored_as = "negative" if arguments.run.ignored_as_negative else "ignore"
    metrics = multilabel_metrics(
        scores, split_targets(splits.test), choice.thresholds, count_ignored_as=count_ignored_as
    )
    return {"view": choice.view, "cost": next(row["cost"] for row in choice.rows if row["view"] == choice.view),
            **metrics}  # fmt: skip


def take_best(trainer: MSLTrainer, folder: Path) -> None:
    """Give the trainer's model the weights in the folder, which on other machines than the first may be empty."""
    model = trainer.model
    if has_adapters(model):
        model = trainer.model = trainer.model_wrapped = merged(model)  # as they are in the folder
    if trainer.is_world_process_zero():
        model.load_state_dict(MSLForImageClassification.from_pretrained(folder).state_dict())
    model.load_state_dict(broadcast(model.state_dict()))


@contextlib.contextmanager
def _training_explained() -> Iterator[None]:
    """Within: values that training refuses, and packages that it lacks, are about what the user gave."""
    try:
        yield
    except (ValueError, ImportError) as error:
        raise RunError(str(error)) from error


@contextlib.contextmanager
def _full_disk_explained(folder: Path) -> Iterator[None]:
    """Within: what fails while the disk is full is said to be that; each library has an error of its own for it."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if shutil.disk_usage(folder).free > 2**24:
            raise
        raise RunError(
            f"{folder}: the disk is full ({error}). The checkpoints before this one are whole: free some space, "
            "and go on with --resume_from_checkpoint"
        ) from error


def hub_id(source: str | None) -> str | None:
    """The source, if it is an id of the Hub and no folder."""
    is_id = source is not None and re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not Path(source).exists()
    return source if is_id else None


def base_model_name(source: str) -> str:
    """A Hub id as it is; of a local file or folder the name alone."""
    return Path(source).stem if Path(source).is_file() else Path(source).name if Path(source).is_dir() else source


def evaluate(trainer: MSLTrainer, splits: Splits, processor, masks: MaskBank) -> dict:
    """Metrics on the whole and on the masked test images; empty without a test split.

    Returns:
        `clean` and `masked`, each {"mAP": ..., ...}, and `per_class_AP`: class name -> {"clean", "masked"}.
    """
    if splits.test is None:
        return {}
    images = ImageDataset(splits.test, processor, normalize=False)
    masked = _masked(images, masks, trainer)
    results: dict = {"per_class_AP": {name: {} for name in class_names_of(splits.test)}}
    for kind, dataset in (("clean", images), ("masked", masked)):
        output = trainer.predict(dataset)
        results[kind] = {key: output.metrics[f"test_{key}"] for key in METRIC_NAMES}
        values = average_precisions(output.predictions, output.label_ids).tolist()
        for row, value in zip(results["per_class_AP"].values(), values, strict=True):
            row[kind] = None if math.isnan(value) else value
    return results


def measure_robustness(trainer: MSLTrainer, splits: Splits, processor) -> list[dict]:
    """mAP, CR and CF1 of the test images under light, medium and heavy generated masks that training has not seen."""
    images, rows = ImageDataset(splits.test, processor, normalize=False), []
    for interval in CURVE:
        bank = mask_bank("generated", "white", interval).split(0.5)[1]
        metrics = trainer.predict(_masked(images, bank, trainer)).metrics
        figures = {key: metrics[f"test_{key}"] for key in ("mAP", "CR", "CF1")}
        rows.append({"hole_ratio": interval, "mean_hole_ratio": bank.hole_ratios.mean().item(), **figures})
    return rows


def measure_covered_objects(trainer: MSLTrainer, splits: Splits) -> list[dict]:
    """AP of objects that another photograph covers, of COVERED_PAIRS classes of images at most; none without boxes."""
    if "objects" not in splits.test.features:
        return []
    images, targets = ImageDataset(splits.test, trainer.processing_class), split_targets(splits.test)
    pictures = find_pictures(column(splits.test, "objects"), targets, most=COVERED_PAIRS)
    if not pictures:
        return []
    by_kind = measure_occluders(
        lambda dataset: probabilities(trainer.predict(dataset).predictions),
        images.dataset, images.processor, pictures, targets, ["image"], COVERED, num_resamples=200,
    )  # fmt: skip
    rows = [*by_kind["nothing"], *by_kind["image"]]
    return [{name: value for name, value in row.items() if name != "samples"} for row in rows]


def _masked(images: ImageDataset, masks: MaskBank, trainer: MSLTrainer) -> MaskedDataset:
    """The images under masks. Black ones whatever fills them in training, so that runs can be compared."""
    fill = "zero" if trainer.args.mask_fill == "zero" else "black"
    return MaskedDataset(images, masks, images.processor.image_mean, images.processor.image_std, fill=fill)


def print_report(report: dict, output_dir: Path) -> None:
    chosen = f"\nModel to use ({report['model']}): {output_dir}\nFinal step: {output_dir / 'last'}\n"
    chosen += f"Metrics, card, what it gets most wrong: {output_dir / 'metrics.json'}, README.md, report.html\n"
    chosen += f"Look at it: {(output_dir / REPORT).resolve().as_uri()}"
    if not report["test_split"]:
        print("\nNothing was held out to measure on: add a test or validation split, or --validation_fraction 0.1"
              f"\n{chosen}")  # fmt: skip
        return
    if report["test_split"] == report["selection_split"]:
        print(f"\nNote: there is no test split; {report['test_split']!r}, reported below, also chose the best epoch")
    print(f"\nTest split {report['test_split']!r}, {report['num_test_images']} images, percent:")
    print(f"{'model':<8}{'images':<9}" + "".join(f"{name:>7}" for name in METRIC_NAMES))
    for which in ("last", "best"):
        for images in ("clean", "masked"):
            if images in report.get(which, {}):
                row = "".join(f"{100 * report[which][images][name]:7.1f}" for name in METRIC_NAMES)
                print(f"{which:<8}{images:<9}{row}")
    own = report[report["model"]].get("own_view")
    if own is not None:
        row = "".join(f"{100 * own[name]:7.1f}" for name in METRIC_NAMES)
        print(f"{report['model']:<8}{'as used':<9}{row}")
        print(f"As used: it looks at images as {own['view']}, at {own['cost']:g} times the cost of a plain pass, with "
              f"a threshold for each class; both were chosen on split {report['selection_split']!r} "
              "(--view_cost 1 leaves them out)")  # fmt: skip
    print(chosen)
