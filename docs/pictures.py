"""Draw the pictures of the site, from generated scenes and from what was measured: `python docs/pictures.py`."""

import json
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
import torch

from msl_hf import MaskBank, apply_mask
from msl_hf.data import load_voc, make_scenes
from msl_hf.masks import counter_generator
from msl_hf.model.views_msl import Views

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

IMAGES = Path(__file__).parent / "images"
MEAN, STD = [0.0] * 3, [1.0] * 3  # images in [0, 1] as they are
EVIDENCE = Path(__file__).parents[1] / "model_cards" / "evidence"
BLUE, GREY = "#3949ab", "#666666"


def scenes(count: int) -> tuple[list[np.ndarray], list[list[str]]]:
    """Generated scenes with several objects: (H, W, 3) floats in [0, 1], and the names of what they show."""
    with tempfile.TemporaryDirectory() as folder:
        data = load_voc(make_scenes(folder, num_train=200, num_val=1, num_test=1, image_size=192))["train"]
        names = data.features["labels"].feature.names
        rows = [row for row in data if len(row["labels"]) >= 4][:count]
        return (
            [np.asarray(row["image"].convert("RGB")) / 255 for row in rows],
            [[names[label] for label in row["labels"]] for row in rows],
        )


def masked(images: list[np.ndarray], fill: str, bank: MaskBank) -> np.ndarray:
    """The first image under a mask whose holes show `fill`."""
    batch = torch.tensor(np.stack(images)).permute(0, 3, 1, 2).float()
    keep = bank.sample(len(batch), batch.shape[-2:], generator=counter_generator(5))
    mean = batch.mean(dim=(0, 2, 3)).tolist() if fill == "zero" else MEAN
    normalised = batch - torch.tensor(mean).view(1, 3, 1, 1)
    painted = apply_mask(normalised, keep, mean, STD, fill, generator=counter_generator(1))
    return (painted + torch.tensor(mean).view(1, 3, 1, 1))[0].permute(1, 2, 0).clamp(0, 1).numpy()


def show(axes, image: np.ndarray, title: str) -> None:
    axes.imshow(image)
    axes.set_title(title, fontsize=10, color=GREY)
    axes.set_axis_off()


def draw_branches(image: np.ndarray, hidden: np.ndarray, labels: list[str]) -> None:
    """msl.png: both branches and the three terms of the loss."""
    figure = plt.figure(figsize=(10, 4.2))
    canvas = figure.add_axes((0, 0, 1, 1))
    canvas.set_axis_off()
    for bottom, picture, title in ((0.54, image, "image"), (0.04, hidden, "the same, masked")):
        axes = figure.add_axes((0.02, bottom, 0.2, 0.4))
        show(axes, picture, title)

    def box(x: float, y: float, text: str, colour: str) -> None:
        canvas.text(x, y, text, ha="center", va="center", fontsize=11, color="white", linespacing=1.5,
                    bbox={"boxstyle": "round,pad=0.7", "facecolor": colour, "edgecolor": "none"})  # fmt: skip

    def arrow(start: tuple, end: tuple, style: str = "-|>") -> None:
        canvas.annotate("", end, start, arrowprops={"arrowstyle": style, "color": GREY, "lw": 1.6})

    for y in (0.74, 0.24):
        arrow((0.21, y), (0.29, 0.56 if y > 0.5 else 0.42))
        arrow((0.42, 0.56 if y > 0.5 else 0.42), (0.51, y))
        arrow((0.64, y), (0.77, 0.55 if y > 0.5 else 0.43))
    box(0.355, 0.49, "one network\nshared weights", BLUE)
    box(0.575, 0.74, "prediction", "#00897b")
    box(0.575, 0.24, "prediction", "#00897b")
    box(0.865, 0.49, "labels\n" + "\n".join(labels), GREY)
    arrow((0.575, 0.65), (0.575, 0.33), "<|-|>")
    canvas.text(0.59, 0.49, "consistency", fontsize=10, color=GREY, va="center")
    canvas.text(0.70, 0.70, "recognition loss", fontsize=10, color=GREY)
    canvas.text(0.70, 0.27, "masked loss", fontsize=10, color=GREY)
    figure.savefig(IMAGES / "msl.png", dpi=110)
    plt.close(figure)


def draw_fills(images: list[np.ndarray], bank: MaskBank) -> None:
    """fills.png: one scene with each kind of hole."""
    figure, axes = plt.subplots(1, 5, figsize=(10, 2.3))
    show(axes[0], images[0], "image")
    for place, fill in zip(axes[1:], ("black", "zero", "noise", "image"), strict=True):
        show(place, masked(images, fill, bank), fill)
    figure.tight_layout()
    figure.savefig(IMAGES / "fills.png", dpi=110)
    plt.close(figure)


def draw_views(image: np.ndarray) -> None:
    """views.png: what the network sees in a plain pass, in a larger one, and in tiles."""
    picture = torch.tensor(image).permute(2, 0, 1).float()

    def resized(part: torch.Tensor, side: int) -> torch.Tensor:
        size = {"size": (side, side), "mode": "bilinear", "antialias": True}
        return torch.nn.functional.interpolate(part[None], **size)[0]

    figure = plt.figure(figsize=(10, 3.8))
    grid = figure.add_gridspec(1, 3, width_ratios=(0.5, 1, 1), wspace=0.15)
    for place, view in zip(grid, ("whole@64", "whole@128", "2x2@64"), strict=True):
        crops = [crop.permute(1, 2, 0).clamp(0, 1).numpy() for crop in Views.parse(view).crops(picture, resized)]
        tiles = place.subgridspec(*((2, 2) if len(crops) == 4 else (1, 1)), wspace=0.05, hspace=0.05)
        for number, crop in enumerate(crops):
            show(figure.add_subplot(tiles[number]), crop, view if number == 0 else "")
    figure.savefig(IMAGES / "views.png", dpi=110, bbox_inches="tight")
    plt.close(figure)


def minutes_of(line: dict, network: str) -> float:
    """Minutes of one core that a run takes: its passes over the images, at the speed of their kind of step."""
    benchmark = json.loads((EVIDENCE / "benchmark_frozen.json").read_text())
    passes, ratios = line["image_passes"], benchmark["ratios"][network]
    if line["settings"].get("freeze_backbone"):
        passes *= ratios["plain_frozen_over_plain_time"]["median"]
    elif line["settings"].get("lora_rank"):
        passes *= ratios["plain_low_rank_over_plain_time"]["median"]
    side = line["settings"].get("image_size", 160)
    speed = benchmark["networks"][network]["variants"]["plain"]["images_per_second"]
    return passes * (side / 160) ** 2 * line["num_train_images"] / speed / 60


def draw_minutes() -> None:
    """big_backbones.png: mAP on whole images against the minutes of training, each way in its colour."""
    lines = [json.loads(line) for line in (EVIDENCE / "ablations" / "results.jsonl").read_text().splitlines()]
    colours = {"everything": "C0", "cached": "C2", "frozen": "C1", "low rank": "C3"}
    markers = {"plain": "o", "masks as augmentation": "s", "MSL": "^", "plus": "D"}
    everything = {  # rows of other grids, in which all weights are trained
        ("fills", "plain, frozen, twice the epochs"): "plain",
        ("fills", "masks as augmentation, frozen"): "masks as augmentation",
        ("fills", "plus"): "plus",
        ("table_3", "MSL"): "MSL",
        ("cheaper_vit", "plain"): "plain",
        ("frozen_vit", "masks as augmentation"): "masks as augmentation",
        ("frozen_vit", "MSL, with consistency"): "MSL",
        ("cheaper_vit", "MSL"): "plus",  # the weights of plus; a ViT has no batch normalisation to freeze
    }
    panels = {"frozen": ("lite0_160", "lite0, voc20", ("fills", "table_3")),
              "frozen_vit": ("deit_tiny_160", "DeiT-Tiny, voc20", ("cheaper_vit", "frozen_vit"))}  # fmt: skip
    figure, axes = plt.subplots(1, len(panels), figsize=(10, 4), layout="constrained")
    for place, (grid, (network, title, others)) in zip(axes, panels.items(), strict=True):
        rows: dict[str, list[dict]] = {}
        for line in lines:
            loss = everything.get((line["grid"], line["row"])) if line["grid"] in others else None
            if line["grid"] == grid or loss is not None:
                row = line["row"] if loss is None else f"everything, {loss}"
                rows.setdefault(row, []).append(line)
        for row, runs in rows.items():
            way, loss, *size = row.split(", ")
            mean = sum(run["clean"]["mAP"] for run in runs) / len(runs)
            filled = colours[way] if "224" not in size else "none"
            place.scatter(minutes_of(runs[0], network), 100 * mean, color=colours[way], facecolor=filled,
                          marker=markers[loss], s=60)  # fmt: skip
        place.set(title=title, xlabel="minutes of one core", ylabel="mAP on whole images (%)", xlim=(0, None))
        place.grid(alpha=0.3)
    names = [*((name, colour, "o") for name, colour in colours.items()),
             *((name, GREY, marker) for name, marker in markers.items())]  # fmt: skip
    handles = [plt.Line2D([], [], color=colour, marker=marker, linestyle="none", label=name)
               for name, colour, marker in names]  # fmt: skip
    handles.append(
        plt.Line2D([], [], color=GREY, marker="o", fillstyle="none", linestyle="none", label="at 224 pixels")
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
    figure.savefig(EVIDENCE / "big_backbones.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    masks = MaskBank.generate(50, hole_ratio=(0.5, 0.6))
    pictures, names = scenes(6)
    draw_branches(pictures[0], masked(pictures, "black", masks), names[0])
    draw_fills(pictures, masks)
    draw_views(pictures[0])
    draw_minutes()
