r"""Contact sheets of what models see (Figures 2 and 4 to 7 of the paper), with images chosen by rule.

    msl-hf figures --model outputs/voc-plain outputs/voc-msl --data_dir data/VOCdevkit --output_dir outputs/figures

small_objects.png: the largest instance of a class is small. occluded_objects.png: every instance of a class is mostly
hidden. masked_objects.png: a mask removes nearly all of an object. visible_objects.png: the mask spares an object.
Each row has the image, what the models see, the class's score map and the top three predictions of each model.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..console.errors import RunError, user_input
from ..console.files import check_results_folder, draw, write_json
from ..console.flags import parse_flags
from ..console.hardware import set_cpu_threads
from ..data.images import image_size, read_image
from ..data.schema import class_names_of, column, make_targets, undecoded
from ..data.transforms import ImageDataset, input_size
from ..evaluation.examples import Example, masked_objects, most_hidden_objects, smallest_objects
from ..evaluation.robustness import MaskedDataset
from ..evaluation.sheets import TOP, Panel, Row, draw_sheet
from ..masks import MaskBank, counter_generator
from ..model.boxes_msl import boxes_of
from .models import ComparisonArguments, TrainedModel, choose_split, has_seen, held_out_masks, load_data, load_models


@dataclass
class FigureArguments(ComparisonArguments):
    """How much to show."""

    num_examples: int = field(default=6, metadata={"help": "Images on each sheet."})


def run(argv: list[str]) -> None:
    """`msl-hf figures` with these flags."""
    draw_figures(*parse_flags(argv, __doc__, FigureArguments))


def draw_figures(arguments: FigureArguments) -> dict:
    """Write a sheet for each rule, and `metrics.json` with what they show.

    Returns:
        What `metrics.json` holds: the images of each sheet, what they were chosen for, what each model predicts.
    """
    if arguments.output_dir is None:
        raise RunError("say where the figures go: --output_dir FOLDER")
    set_cpu_threads(arguments.cpu_threads)
    output_dir = Path(arguments.output_dir)
    check_results_folder(output_dir, "sheets")
    with user_input():
        split, dataset = choose_split(load_data(arguments), arguments.split, arguments)
        objects = column(dataset, "objects") if "objects" in dataset.features else []
        if not any(item["label"] for item in objects):
            raise RunError(f"split {split!r} has no boxes; the rules that choose images need them")
        class_names = class_names_of(dataset)
        models = load_models(arguments.model, class_names)
        size = input_size(models[0].processor)
        bank = held_out_masks(arguments, arguments.hole_ratios[0])
        for model in models:
            has_seen(model, arguments.masks)
    images = undecoded(dataset)
    rows = images.select_columns([name for name in ("labels", "ignored") if name in images.features])
    targets = make_targets(list(rows), len(class_names), ignored_as="ignore").numpy()
    keeps = [_keep(bank, size, index, arguments.seed)[0, 0] for index in range(len(images))]
    sizes = [image_size(row) for row in images.select_columns("image")]
    count = arguments.num_examples
    sheets = {
        "small_objects": ("Figures 2, 6: the largest instance of the class is small",
                          smallest_objects(objects, targets, count), False, "{:.0f} pixels"),
        "occluded_objects": ("Figures 2, 7: every instance of the class is mostly hidden or overlapped",
                             most_hidden_objects(objects, targets, count), False, "{:.0%} hidden"),
        "masked_objects": ("Figure 4: the mask removes nearly all of the object",
                           masked_objects(objects, targets, keeps, sizes, count, True), True, "{:.0%} masked"),
        "visible_objects": ("Figure 5: the mask leaves the object visible",
                            masked_objects(objects, targets, keeps, sizes, count, False), True, "{:.0%} masked"),
    }  # fmt: skip
    report: dict = {"dataset": arguments.data_dir or "generated scenes", "split": split, "sheets": {}}
    output_dir.mkdir(parents=True, exist_ok=True)
    files: list[str] = []
    for name, (title, examples, masked, note) in sheets.items():
        if not examples:
            print(f"No image of split {split!r} fits the rule of {name}")
            continue
        drawn = [_row(images, e, targets, models, bank if masked else None, note, arguments) for e in examples]
        if draw(draw_sheet, drawn, class_names, title, output_dir / f"{name}.png"):
            files.append(str(output_dir / f"{name}.png"))
        report["sheets"][name] = [
            {"image_id": images[example.index]["image_id"], "class": class_names[example.label],
             "value": example.value, **{panel.name: _top(panel, class_names) for panel in row.panels}}
            for example, row in zip(examples, drawn, strict=True)
        ]  # fmt: skip
    write_json(output_dir / "metrics.json", report)
    print("Sheets: " + ", ".join(files))
    return report


def _keep(bank: MaskBank, size: tuple[int, int], index: int, seed: int) -> torch.Tensor:
    """The mask that `MaskedDataset` lays over image `index`."""
    return bank.sample(1, size, generator=counter_generator(seed, index))


def _top(panel: Panel, class_names: list[str]) -> dict[str, float]:
    order = np.argsort(-panel.scores, kind="stable")[:TOP]
    return {class_names[label]: float(panel.scores[label]) for label in order}


@torch.no_grad()
def _row(images, example: Example, targets: np.ndarray, models: list[TrainedModel], bank, note: str, arguments) -> Row:
    image, panels, shown = read_image(images[example.index]), [], None
    for model in models:
        processor = model.processor
        seen = ImageDataset(images, processor)
        if bank is not None:
            statistics = processor.image_mean, processor.image_std
            seen = MaskedDataset(seen, bank, *statistics, arguments.seed, arguments.mask_fill)
        pixel_values = seen[example.index]["pixel_values"].unsqueeze(0)
        if bank is not None:
            if shown is None:
                shown = _to_image(pixel_values[0], processor).resize(image.size, Image.Resampling.NEAREST)
        network = model.network.eval()
        scores = network(pixel_values).logits[0].sigmoid().numpy()[model.columns]
        score_map = network.score_maps(pixel_values)[0, model.columns[example.label]]
        panels.append(Panel(model.name, score_map.numpy(), boxes_of(score_map, *image.size), scores))
    truth = set(np.flatnonzero(targets[example.index] == 1).tolist())
    return Row(image, example.bbox, example.label, truth, note.format(example.value), panels, shown)


def _to_image(pixel_values: torch.Tensor, processor) -> Image.Image:
    mean, std = (torch.tensor(list(value)).view(3, 1, 1) for value in (processor.image_mean, processor.image_std))
    pixels = ((pixel_values * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())
