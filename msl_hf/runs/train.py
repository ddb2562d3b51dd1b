"""A training run from its arguments to its model folder."""

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError

from ..data.schema import MultiLabelCollator, check_images, class_names_of
from ..data.transforms import ImageDataset, build_processor
from ..evaluation.figures import plot_training_curves
from ..evaluation.metrics import METRIC_NAMES, metrics_from_logits
from ..evaluation.robustness import MaskedDataset
from ..hub.card import write_card
from ..hub.convert import load_backbone_weights
from ..masks import MaskBank
from ..model import MSLForImageClassification
from ..training import MSLTrainer, MSLTrainingArguments
from ..training.callbacks import SaveBestModel, best_evaluation
from .arguments import Arguments, DataArguments, MaskArguments, ModelArguments, RunError
from .output import claim_output_dir, find_checkpoint, run_settings, write_json

NUM_MASKS = 2000  # generated masks: half for training, half for the masked test


def main(train: Callable[[], None]) -> None:
    """Run a recipe; mistakes in what the user asked for end with a message instead of a stack trace."""
    try:
        train()
    except (RunError, FloatingPointError) as error:
        sys.exit(f"error: {error}")


@contextlib.contextmanager
def user_input() -> Iterator[None]:
    """Within: errors of value or file are about what the user gave."""
    try:
        yield
    except StrictDataclassError as error:  # a value that MSLConfig refuses
        raise RunError(str(error.__cause__ or error)) from error
    except (ValueError, OSError) as error:
        raise RunError(str(error)) from error


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
    keep_freed_memory()
    threads = set_cpu_threads(arguments.run.cpu_threads)
    transformers.set_seed(training.seed)  # the new head's weights
    # Before the folder is touched: whatever is wrong with the input leaves no trace.
    resume = find_checkpoint(training.output_dir, training.resume_from_checkpoint)
    with user_input():
        splits = prepare_splits(
            load(arguments.data), arguments.data, progress=training.process_index == 0 and not training.disable_tqdm
        )
        label_names = class_names_of(splits["train"])
        train_masks, test_masks = load_masks(arguments.masks)
        model, processor = load_model(arguments.model, label_names)
    if training.process_index == 0:
        claim_output_dir(arguments)
        print(f"Training on {len(splits['train'])} images, {len(label_names)} classes, {threads} CPU threads, "
              f"{'bfloat16 autocast' if training.bf16 else 'float32'}")  # fmt: skip
    output_dir = Path(training.output_dir)
    selection = splits.get("selection")
    if selection is not None:
        training.eval_strategy = "epoch"
    trainer = MSLTrainer(
        model=model,
        args=training,
        masks=train_masks,
        processing_class=processor,
        train_dataset=ImageDataset(splits["train"], processor, augment=True, seed=training.seed),
        eval_dataset=None if selection is None else ImageDataset(selection, processor),
        data_collator=MultiLabelCollator(len(label_names), ignored_as="negative"),
        eval_data_collator=MultiLabelCollator(len(label_names), ignored_as="ignore"),
        compute_metrics=metrics_from_logits,
        callbacks=[] if selection is None else [SaveBestModel(training.output_dir)],
    )
    trainer.train(resume_from_checkpoint=resume)
    train_seconds = time.time() - start

    results = {"last": {"epoch": trainer.state.epoch, **evaluate(trainer, splits, processor, test_masks, arguments)}}
    trainer.save_model(str(output_dir / "last"))
    best = best_evaluation(trainer.state.log_history)
    if best is None:
        trainer.save_model(str(output_dir))
    else:
        chosen = MSLForImageClassification.from_pretrained(output_dir)
        trainer.model.load_state_dict(chosen.state_dict())
        results["best"] = {"epoch": best["epoch"], **evaluate(trainer, splits, processor, test_masks, arguments)}
    report = {
        "model": "best" if best else "last",
        "dataset": arguments.data.dataset_name or arguments.data.data_dir or "generated scenes",
        "base_model": arguments.model.model or arguments.model.backbone,
        "num_labels": len(label_names),
        "test_split": splits["names"]["test"],
        "selection_split": splits["names"]["selection"],
        "train_split": splits["names"]["train"],
        "num_train_images": len(splits["train"]),
        "num_test_images": len(splits["test"]) if splits["test"] is not None else 0,
        **results,
        "command": shlex.join(["accelerate", "launch", *sys.argv]),
        "train_seconds": round(train_seconds, 1),
        "hardware": hardware(training),
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "msl_hf": importlib.metadata.version("msl_hf"),
        },
    }
    if trainer.is_world_process_zero():
        plot_training_curves(trainer.state.log_history, output_dir / "curves.png")
        write_card(output_dir, report, run_settings(arguments))
        write_json(output_dir / "metrics.json", report)  # last: with it the run is finished
        print_report(report, output_dir)
    return report


def keep_freed_memory() -> None:
    """Have glibc keep freed activations instead of giving them back to the kernel after every step.

    Otherwise each step faults its memory in anew, page by page, which costs a fifth of a training step on a CPU.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            libc = ctypes.CDLL("libc.so.6")
            for parameter, value in ((-3, 2**31 - 1), (-1, 2**31 - 1), (-2, 2**28)):  # mmap, trim threshold; top pad
                libc.mallopt(parameter, value)


def set_cpu_threads(threads: int | None) -> int:
    """Give torch all cores, shared among local processes: `accelerate launch` leaves it one."""
    if threads is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        threads = max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    torch.set_num_threads(threads)
    return threads


def hardware(training: MSLTrainingArguments) -> str:
    """One line for the record."""
    processes = f"{training.world_size} x " if training.world_size > 1 else ""
    if training.device.type == "cuda":
        return f"{processes}{torch.cuda.get_device_name()}"
    return f"{processes}{torch.get_num_threads()} CPU threads ({platform.machine()})"


def prepare_splits(datasets: dict, data: DataArguments, progress: bool) -> dict:
    """Choose and check the splits `train`, `selection` and `test` (None where there is none), with their `names`."""
    selection = None if data.selection_split == "none" else data.selection_split
    whole = "trainval" if "trainval" in datasets and selection is None else "train"
    names = {"train": find_split(datasets, data.train_split or whole)}
    if data.validation_fraction and not {"val", "validation"} & set(datasets):
        parts = datasets[names["train"]].train_test_split(data.validation_fraction, seed=0)
        datasets = {**datasets, names["train"]: parts["train"], "validation": parts["test"]}
        selection = selection or "validation"
    names["selection"] = None if selection is None else find_split(datasets, selection)
    if names["selection"] == names["train"]:
        raise RunError(f"--selection_split {names['train']} is the split that is trained on")
    held_out = [name for name in ("test", "val", "validation") if name in datasets and name != names["train"]]
    names["test"] = held_out[0] if held_out else None
    splits: dict = {"names": names}
    for role, limit in (("train", data.max_train_samples), ("selection", data.max_eval_samples),
                        ("test", data.max_eval_samples)):  # fmt: skip
        if names[role] is None:
            splits[role] = None
            continue
        dataset = datasets[names[role]]
        if limit is not None and limit < len(dataset):
            dataset = dataset.shuffle(seed=0).select(range(limit))
        dataset, dropped = check_images(dataset, drop=data.drop_bad_images, progress=progress)
        for message in dropped:
            print(f"Left out: {message}")
        if len(dataset) == 0:
            raise RunError(f"split {names[role]!r} holds no images")
        if role != "train" and (shared := set(dataset[:]["image_id"]) & set(splits["train"][:]["image_id"])):
            raise RunError(f"{len(shared)} images of split {names[role]!r} are trained on as part of split "
                           f"{names['train']!r}, such as {min(shared)}; choose another split")  # fmt: skip
        splits[role] = dataset
        warn_about_empty_classes(dataset, names[role])
    return splits


def find_split(datasets: dict, name: str) -> str:
    """The split of that name; val and validation are synonyms."""
    synonyms = {"val": "validation", "validation": "val"}
    for candidate in (name, synonyms.get(name)):
        if candidate in datasets:
            return candidate
    raise RunError(f"there is no split {name!r}; the data have {', '.join(datasets)}")


def warn_about_empty_classes(dataset, split: str) -> None:
    counts = np.zeros(len(class_names_of(dataset)), dtype=int)
    for labels in dataset[:]["labels"]:
        counts[labels] += 1
    empty = [name for name, count in zip(class_names_of(dataset), counts, strict=True) if count == 0]
    if empty:
        print(f"Warning: no image of split {split!r} shows {', '.join(empty)}; left out of its mAP")


def load_masks(masks: MaskArguments) -> tuple[MaskBank, MaskBank]:
    """(training bank, test bank), disjoint."""
    train, test = _mask_bank(masks.masks, masks).split(0.5)
    if masks.eval_masks and masks.eval_masks != masks.masks:
        test = _mask_bank(masks.eval_masks, masks).split(0.5)[1]
    return train, test


def _mask_bank(source: str, masks: MaskArguments) -> MaskBank:
    if source == "generated":
        return MaskBank.generate(NUM_MASKS, tuple(masks.hole_ratio))
    if source == "patches":
        return MaskBank.patches()
    return MaskBank.from_folder(source, masks.mask_hole, tuple(masks.hole_ratio))


def load_model(model: ModelArguments, label_names: list[str]):
    """(model, image processor): from a backbone with a new head, or from an MSL model."""
    if model.model:
        network = MSLForImageClassification.from_pretrained(model.model)
        processor = transformers.AutoImageProcessor.from_pretrained(model.model)
        own = [network.config.id2label[index] for index in range(network.config.num_labels)]
        if own != label_names:
            print(f"{model.model} knows {len(own)} other classes: its head is replaced by a new one "
                  f"for {len(label_names)}")  # fmt: skip
            network.replace_head(label_names)
        return network, processor
    if model.backbone is None:
        raise RunError(
            "say which network to train: --backbone (a pretrained image backbone) or --model (an MSL model)"
        )
    network = MSLForImageClassification.from_backbone(
        model.backbone,
        label_names,
        head=model.head,
        num_heads=model.num_heads,
        csra_lambda=model.csra_lambda,
        image_size=model.image_size,
        pretrained=not model.from_scratch,
    )
    if model.backbone_weights is not None:
        load_backbone_weights(network.backbone, model.backbone_weights)
    processor = build_processor(
        None if model.from_scratch else model.backbone,
        network.config.image_height_width,
        model.image_mean,
        model.image_std,
    )
    return network, processor


def evaluate(trainer: MSLTrainer, splits: dict, processor, masks: MaskBank, arguments: Arguments) -> dict:
    """Metrics on the whole and on the masked test images, each {"mAP": ..., ...}; empty without a test split."""
    if splits["test"] is None:
        return {}
    images = ImageDataset(splits["test"], processor)
    masked = MaskedDataset(images, masks, processor.image_mean, processor.image_std)
    results = {}
    for name, dataset in (("clean", images), ("masked", masked)):
        metrics = trainer.predict(dataset).metrics
        results[name] = {key: metrics[f"test_{key}"] for key in METRIC_NAMES}
    return results


def print_report(report: dict, output_dir: Path) -> None:
    if report["test_split"] and report["test_split"] == report["selection_split"]:
        print(f"\nNote: there is no test split; {report['test_split']!r}, reported below, also chose the best epoch")
    print(f"\nTest split {report['test_split']!r}, {report['num_test_images']} images, percent:")
    print(f"{'model':<8}{'images':<9}" + "".join(f"{name:>7}" for name in METRIC_NAMES))
    for which in ("last", "best"):
        for images in ("clean", "masked"):
            if images in report.get(which, {}):
                row = "".join(f"{100 * report[which][images][name]:7.1f}" for name in METRIC_NAMES)
                print(f"{which:<8}{images:<9}{row}")
    print(f"\nModel to use ({report['model']}): {output_dir}\nFinal step: {output_dir / 'last'}\n"
          f"Metrics, curves, card: {output_dir / 'metrics.json'}, curves.png, README.md")  # fmt: skip
