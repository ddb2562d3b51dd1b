"""Contact sheets: image, masked image, score maps and top predictions of several models side by side."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .text import plain_text, save_figure

TOP = 3  # predictions shown of each model
RIGHT, WRONG = "tab:green", "tab:red"


@dataclass
class Panel:
    """What one model makes of one image.

    Args:
        name: The model.
        score_map: (h, w) map of the class that the image was chosen for.
        boxes: `{"xmin", "ymin", "xmax", "ymax"}` around where it is high, in pixels of the image.
        scores: (C,) probabilities.
    """

    name: str
    score_map: np.ndarray
    boxes: Sequence[Mapping[str, int]]
    scores: np.ndarray


@dataclass
class Row:
    """One example of a sheet.

    Args:
        image: The image.
        bbox: [x, y, w, h] in its pixels of the object that it was chosen for.
        label: The object's class.
        truth: The classes that the image shows.
        note: What the rule measured.
        panels: One for each model.
        masked: The masked image, where the models saw that.
    """

    image: Image.Image
    bbox: Sequence[float]
    label: int
    truth: set[int]
    note: str
    panels: list[Panel]
    masked: Image.Image | None = None


def draw_sheet(rows: Sequence[Row], class_names: Sequence[str], title: str, path: str | os.PathLike) -> None:
    """Write the sheet as a PNG: a row of pictures for each example, predictions below the maps, right ones in green.

    Each score map has a colour scale of its own, from its least (dark) to its greatest value (bright), and in cyan the
    boxes around where it is high.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    with_mask = rows[0].masked is not None
    columns = 1 + with_mask + len(rows[0].panels)
    with plain_text([*class_names, *(panel.name for panel in rows[0].panels)]) as note:
        figure = Figure(figsize=(2.5 * columns, 3.05 * len(rows) + 0.5), layout="constrained")
        figure.suptitle(title, fontsize=11)
        for row, axes in zip(rows, figure.subplots(len(rows), columns, squeeze=False), strict=True):
            for axis in axes:
                axis.set_xticks([])
                axis.set_yticks([])
            axes[0].imshow(row.image, aspect="auto")
            axes[0].add_patch(Rectangle(row.bbox[:2], *row.bbox[2:], fill=False, edgecolor="yellow", linewidth=1.5))
            axes[0].set_title(f"{class_names[row.label]}, {row.note}", fontsize=8)
            axes[0].set_xlabel(
                "shows " + ", ".join(class_names[label] for label in sorted(row.truth)), fontsize=7, wrap=True
            )
            if with_mask:
                axes[1].imshow(row.masked, aspect="auto")
                axes[1].set_title("what the models see", fontsize=8)
            for axis, panel in zip(axes[1 + with_mask :], row.panels, strict=True):
                _draw_panel(axis, panel, row, class_names)
        save_figure(figure, path, note, dpi=80)


def heat_over(image: Image.Image, score_map: np.ndarray) -> Image.Image:
    """The image with an (h, w) map over it, from its least (dark) to its greatest value (bright)."""
    import matplotlib

    low, high = score_map.min(), score_map.max()
    heat = Image.fromarray(((score_map - low) / max(high - low, 1e-6) * 255).astype(np.uint8))
    heat = np.asarray(heat.resize(image.size, Image.Resampling.BILINEAR)) / 255
    colours = matplotlib.colormaps["magma"](heat)[..., :3] * 255
    return Image.fromarray((0.5 * np.asarray(image.convert("RGB")) + 0.5 * colours).astype(np.uint8))


def _draw_panel(axis, panel: Panel, row: Row, class_names: Sequence[str]) -> None:
    from matplotlib.patches import Rectangle

    shown = row.image if row.masked is None else row.masked
    low, high = panel.score_map.min(), panel.score_map.max()
    heat = Image.fromarray(((panel.score_map - low) / max(high - low, 1e-12) * 255).astype(np.uint8))
    axis.imshow(shown.convert("L"), cmap="gray", aspect="auto")
    axis.imshow(heat.resize(shown.size, Image.Resampling.BILINEAR), cmap="inferno", alpha=0.55, aspect="auto")
    for box in panel.boxes:
        corner, size = (box["xmin"], box["ymin"]), (box["xmax"] - box["xmin"], box["ymax"] - box["ymin"])
        axis.add_patch(Rectangle(corner, *size, fill=False, edgecolor="cyan", linewidth=1))
    axis.set_title(f"{panel.name}: {class_names[row.label]} {panel.scores[row.label]:.2f}", fontsize=8)
    for line, label in enumerate(np.argsort(-panel.scores, kind="stable")[:TOP]):
        colour = RIGHT if label in row.truth else WRONG
        axis.text(0.02, -0.02 - 0.095 * line, f"{class_names[label]} {panel.scores[label]:.2f}", color=colour,
                  fontsize=8, va="top", transform=axis.transAxes)  # fmt: skip
    axis.set_xlabel("\n\n", fontsize=8)  # room for them
