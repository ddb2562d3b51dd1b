"""Choosing how a trained model looks at images, on images that nothing else is measured on."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..console.errors import RunError
from ..console.files import write_json
from ..data.transforms import ImageDataset
from ..evaluation.metrics import METRIC_NAMES
from ..evaluation.thresholds import tune_thresholds
from ..evaluation.views import candidate_views, choose_view, view_scores
from ..model import MSLConfig, MSLForImageClassification
from ..model.views_msl import Views

VIEW_COST_HELP = "Most that a view may cost, as a multiple of the plain pass (in pixels)."


@dataclass
class ViewChoice:
    """What was chosen on a split: the view, the (C,) thresholds for it, and what each view reached."""

    view: str
    thresholds: np.ndarray
    rows: list[dict]


def tune_views(
    predict: Callable,
    images: ImageDataset,
    targets: np.ndarray,
    network: MSLForImageClassification,
    most: float,
    given: Sequence[Views] = (),
    min_recall: Mapping[int, float] | None = None,
) -> ViewChoice:
    """Try views on a held-out split, take the best mAP, and tune thresholds for it.

    Args:
        predict: A data set of pixel values -> (N, C) logits.
        images: The split.
        targets: (N, C) of 1, 0 and -100 (ignored).
        network: The model.
        most: Cost limit, as a multiple of the plain pass.
        given: The views to try beside the plain pass; none are those of `candidate_views`.
        min_recall: Of `tune_thresholds`.

    Raises:
        RunError: where the limit leaves out a view that was given.
    """
    image_size = network.config.image_height_width
    if given:
        views = list(dict.fromkeys((Views.parse("whole"), *given)))
        dear = [view for view in views if view.cost(image_size) > most]
        if dear:
            raise RunError(f"the view {dear[0]} costs {dear[0].cost(image_size):g} times the plain pass; "
                           "raise --view_cost, or leave it out")  # fmt: skip
    else:
        views = candidate_views(network, images.processor, most)
    costs = {str(view): view.cost(image_size) for view in views}
    scores = view_scores(predict, images, views)
    view, rows = choose_view(scores, targets, costs)
    return ViewChoice(view, tune_thresholds(scores[view], targets, min_recall), rows)


def store_choice(
    config: MSLConfig, folder: Path, columns: Sequence[int], thresholds: np.ndarray, view: str | None = None
) -> None:
    """Thresholds, and the view, into the configuration in memory and the config.json of the model folder.

    Args:
        config: The model's configuration.
        folder: The model folder.
        columns: Which of its classes the thresholds are of; the others keep what they have.
        thresholds: Of these classes.
        view: None leaves the view as it is.
    """
    values = list(config.thresholds or [0.5] * config.num_labels)
    for index, threshold in zip(columns, thresholds, strict=True):
        values[index] = float(threshold)
    config.thresholds, config.views = values, config.views if view is None else view
    file = folder / "config.json"
    known = json.loads(file.read_text(encoding="utf-8"))
    write_json(file, {**known, "thresholds": values, "views": config.views})


def print_views(choice: ViewChoice, split: str) -> None:
    """The table of a choice."""
    print(f"\nViews on split {split!r}, percent (cost: pixels, as a multiple of those of the plain pass):")
    width = max(len(row["view"]) for row in choice.rows) + 2
    print(f"{'view':<{width}}{'cost':>6}" + "".join(f"{name:>7}" for name in METRIC_NAMES))
    for row in choice.rows:
        figures = "".join(f"{100 * row[name]:7.1f}" for name in METRIC_NAMES)
        print(f"{row['view']:<{width}}{row['cost']:6.2f}{figures}{'   chosen' if row['view'] == choice.view else ''}")
