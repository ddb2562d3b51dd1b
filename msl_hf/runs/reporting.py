"""The report.html of a training run: its classes, and the images that it gets most wrong."""

from pathlib import Path

import numpy as np
from PIL import Image

from ..data.images import read_image
from ..data.schema import class_names_of, undecoded
from ..evaluation.metrics import average_precisions, precision_and_recall
from ..evaluation.mistakes import Mistake, worst_mistakes
from ..evaluation.sheets import heat_over
from ..evaluation.thresholds import tune_thresholds
from ..hub.batches import look, score
from ..hub.report import ClassRow, WrongImage, write_report
from ..model import MSLForImageClassification
from ..model.views_msl import views_of
from .models import split_targets

NUM_WRONG = 20  # images of either kind
FOUND = 0.9  # recall of the last threshold in the table


def report_run(
    network: MSLForImageClassification | None,
    processor,
    report: dict,
    settings: dict,
    dataset,
    scores: np.ndarray | None,
    file: Path,
) -> None:
    """Write the report.html of a run.

    Args:
        network: The model, for maps of where it looked; None leaves them out, as where its weights are sharded.
        processor: Its image processor.
        report: What `metrics.json` holds.
        settings: Of the run.
        dataset: The images that it was measured on; None without any.
        scores: (N, C) their probabilities, as the model is used.
        file: In the folder of the run.
    """
    if dataset is None:
        write_report(file, report, settings, None, [], [], [])
        return
    split, targets = report["test_split"] or report["selection_split"], split_targets(dataset)
    names, config = class_names_of(dataset), None if network is None else network.config
    thresholds = np.full(len(names), 0.5)
    if config is not None and config.thresholds is not None:
        thresholds = np.array(config.thresholds)
    if network is not None:
        network.eval()
    classes = _class_rows(names, scores, targets, thresholds)

    images = undecoded(dataset)

    def wrong(mistake: Mistake) -> WrongImage:
        row = images[mistake.index]
        image, path = read_image(row), row["image"]["path"] if isinstance(row["image"], dict) else None
        name = Path(path).name if path else str(row.get("image_id", mistake.index))
        heat = None if network is None else _heat(network, processor, image, mistake.label)
        truth = [names[label] for label in np.flatnonzero(targets[mistake.index] == 1)]
        found = np.flatnonzero(scores[mistake.index] >= thresholds)
        predicted = [names[label] for label in found[np.argsort(-scores[mistake.index][found])]]
        return WrongImage(name, image, heat, names[mistake.label], mistake.score, truth, predicted)

    missed, seen = ([wrong(one) for one in part] for part in worst_mistakes(scores, targets, NUM_WRONG))
    write_report(file, report, settings, split, classes, missed, seen)


def _class_rows(names: list[str], scores: np.ndarray, targets: np.ndarray, thresholds: np.ndarray) -> list[ClassRow]:
    found = tune_thresholds(scores, targets, dict.fromkeys(range(len(names)), FOUND))
    tried = (thresholds, np.full(len(names), 0.5), found)
    columns = [(at, *precision_and_recall(scores, targets, at)) for at in tried]
    rows = zip(names, (targets == 1).sum(axis=0), average_precisions(scores, targets), strict=True)
    return [
        ClassRow(
            name,
            int(positives),
            None if np.isnan(ap) else float(ap),
            [tuple(float(values[index]) for values in column) for column in columns],
        )
        for index, (name, positives, ap) in enumerate(rows)
    ]


def _heat(network: MSLForImageClassification, processor, image: Image.Image, label: int) -> Image.Image:
    """The image with the map of where the evidence for a class lies, as the model looks at it."""
    views = views_of(None, network.config)
    _, maps = score(network, processor, [look(image, views, processor, "an image")], False, views, with_maps=True)
    return heat_over(image, maps[0, label].numpy())
