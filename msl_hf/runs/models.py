"""Trained models side by side on one split of one data set: what evaluation and figures start from."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers
from datasets import Dataset

from ..console.errors import RunError
from ..console.files import RUN_FILE, read_json
from ..console.hardware import describe_workers
from ..data.images import set_max_pixels
from ..data.readers import FORMATS
from ..data.schema import class_names_of, make_targets
from ..evaluation.metrics import probabilities
from ..masks import FILLS, MaskBank
from ..model import MSLForImageClassification
from ..training import MSLTrainer, MSLTrainingArguments
from ..training.arguments import MASK_FILL_HELP
from .arguments import MAX_PIXELS_HELP, WORKERS_HELP, MaskArguments
from .banks import mask_bank, uses_whole_folder
from .networks import load_trained
from .reading import ReadingArguments, data_source, generated_scenes, read_data
from .splits import check_split, find_split, test_split_of


@dataclass
class ComparisonArguments(ReadingArguments):
    """Which models on which images."""

    model: list[str] = field(default_factory=list, metadata={"help": "Model folders or Hub ids; one or several."})
    output_dir: str | None = field(default=None, metadata={"help": "Where the results go."})
    data_dir: str | None = field(default=None, metadata={"help": "Where the data lie; default: generated scenes."})
    dataset: str = field(
        default="auto",
        metadata={"help": "How the data are stored; auto finds out.", "choices": [*FORMATS, "folder"]},
    )
    max_pixels: int | None = field(default=None, metadata={"help": MAX_PIXELS_HELP})
    split: str | None = field(default=None, metadata={"help": "Split to measure on; default: test, val, validation."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Take a random part of this size."})
    drop_bad_images: bool = field(default=False, metadata={"help": "Leave out missing and broken images."})
    masks: str = field(default="generated", metadata={"help": "generated, patches, or a folder of mask files."})
    mask_hole: str = field(
        default="white", metadata={"help": "Colour of holes in mask files.", "choices": ["white", "black"]}
    )
    mask_fill: str = field(default="black", metadata={"help": MASK_FILL_HELP, "choices": list(FILLS)})
    hole_ratio: list[float] = field(
        default_factory=lambda: [0.5, 0.6],
        metadata={"help": "Intervals of the share of removed pixels: two numbers for each."},
    )
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "Images in a batch."})
    dataloader_num_workers: int | None = field(default=None, metadata={"help": WORKERS_HELP})
    use_cpu: bool = field(default=False, metadata={"help": "Leave an accelerator alone."})
    bf16: bool = field(default=False, metadata={"help": "bfloat16 autocast."})
    cpu_threads: int | None = field(default=None, metadata={"help": "Threads of one process; default: usable cores."})
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bars."})
    seed: int = field(default=0, metadata={"help": "Seed of the masks and of the bootstrap."})

    @property
    def hole_ratios(self) -> list[tuple[float, float]]:
        """The intervals of `--hole_ratio`."""
        if not self.hole_ratio or len(self.hole_ratio) % 2:
            raise RunError(f"--hole_ratio takes two numbers for each interval, got {self.hole_ratio}")
        return list(zip(self.hole_ratio[::2], self.hole_ratio[1::2], strict=True))


@dataclass
class TrainedModel:
    """A model, its image processor, and which of its classes are those of the data, in their order."""

    name: str
    path: str
    network: MSLForImageClassification
    processor: transformers.BaseImageProcessor
    columns: list[int]


def load_data(arguments: ComparisonArguments) -> Mapping[str, Dataset]:
    """The `DatasetDict` of the schema that the arguments ask for."""
    set_max_pixels(arguments.max_pixels)
    source = data_source(arguments.data_dir, arguments)
    if source is not None:
        return read_data(source, arguments.dataset, arguments)
    if arguments.dataset not in ("auto", "voc"):
        raise RunError(f"say where the {arguments.dataset} data are: --data_dir FOLDER")
    return generated_scenes(arguments.output_dir, "measuring on")


def choose_split(datasets: Mapping[str, Dataset], name: str | None, arguments: ComparisonArguments):
    """(name, checked data set) of a split; without a name, of the one that training leaves alone."""
    name = find_split(datasets, name) if name else test_split_of(datasets)
    if name is None:
        raise RunError(f"the data have no test split ({', '.join(datasets)}); name one with --split")
    progress = not arguments.disable_tqdm
    return name, check_split(datasets[name], name, arguments.max_eval_samples, arguments.drop_bad_images, progress)


def load_models(paths: list[str], class_names: list[str]) -> list[TrainedModel]:
    """The models, each of which has to know all classes of the data; it may know others beside them.

    Raises:
        RunError: naming classes that a model does not know.
    """
    if not paths:
        raise RunError("say which model to measure: --model FOLDER (or several, or Hub ids)")
    models = []
    for path in paths:
        network, processor = load_trained(path)
        positions = {network.config.id2label[index]: index for index in range(network.config.num_labels)}
        unknown = [name for name in class_names if name not in positions]
        if unknown:
            raise RunError(f"{path}: its {len(positions)} classes lack {', '.join(unknown[:5])}"
                           f"{', ...' if len(unknown) > 5 else ''} of the data; measure it on data with its classes, "
                           "or train a head for these with --model")  # fmt: skip
        name = os.path.basename(os.path.normpath(path))
        if any(model.name == name for model in models) or paths.count(path) > 1:
            name = path
        models.append(TrainedModel(name, path, network, processor, [positions[name] for name in class_names]))
    return models


def split_targets(dataset: Dataset) -> np.ndarray:
    """(N, C) targets of a split, -100 where a label is ignored."""
    used = [name for name in ("labels", "ignored") if name in dataset.features]
    rows = list(dataset.with_format(None).select_columns(used))
    return make_targets(rows, len(class_names_of(dataset)), ignored_as="ignore").numpy()


def has_seen(model: TrainedModel, masks: str) -> bool:
    """Whether a model was trained with all masks of a folder, those of the test among them; says so."""
    # OUTPUT_DIR, or OUTPUT_DIR/last or a checkpoint within it.
    folder = next(
        (place for place in (Path(model.path), Path(model.path).parent) if (place / RUN_FILE).is_file()), None
    )
    if folder is None:
        return False
    run, results = read_json(folder / RUN_FILE), folder / "metrics.json"
    has_test = not results.is_file() or read_json(results).get("test_split") is not None
    trained = MaskArguments(masks=str(run.get("masks")), eval_masks=run.get("eval_masks"))
    folders = os.path.realpath(trained.masks), os.path.realpath(masks)
    seen = uses_whole_folder(trained, has_test) and os.path.commonpath(folders) in folders
    if seen:
        print(f"Warning: {model.path} was trained with all masks of {masks}, those of this test among them; "
              "--masks from elsewhere are new to it")  # fmt: skip
    return seen


def held_out_masks(arguments: ComparisonArguments, hole_ratio: tuple[float, float]) -> MaskBank:
    """The half of a bank that training never sees; patches remove the middle of the interval."""
    if arguments.masks == "patches":
        return MaskBank.patches(ratio=sum(hole_ratio) / 2)
    return mask_bank(arguments.masks, arguments.mask_hole, hole_ratio).split(0.5)[1]


def _pixels_alone(items: list[dict]) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.stack([item["pixel_values"] for item in items])}


class Predictor:
    """Scores of one model, on as many processes as were launched.

    Args:
        model: The model.
        arguments: Batch size, precision and device.
    """

    def __init__(self, model: TrainedModel, arguments: ComparisonArguments):
        self.columns = model.columns
        training = MSLTrainingArguments(
            output_dir=arguments.output_dir,
            per_device_eval_batch_size=arguments.per_device_eval_batch_size,
            dataloader_num_workers=arguments.dataloader_num_workers,
            use_cpu=arguments.use_cpu or not torch.accelerator.is_available(),
            bf16=arguments.bf16,
            disable_tqdm=arguments.disable_tqdm,
            seed=arguments.seed,
            loss_weights=[1.0, 0.0, 0.0],
            report_to="none",
        )
        self.trainer = MSLTrainer(
            model=model.network,
            args=training,
            processing_class=model.processor,
            data_collator=_pixels_alone,
        )
        if training.dataloader_num_workers and self.trainer.is_world_process_zero():
            print(describe_workers(training.dataloader_num_workers))

    def __call__(self, images: torch.utils.data.Dataset) -> np.ndarray:
        """(N, C) probabilities of the data's classes."""
        return probabilities(self.logits(images))

    def logits(self, images: torch.utils.data.Dataset) -> np.ndarray:
        """(N, C) logits of the data's classes."""
        return self.trainer.predict(images).predictions[:, self.columns]
