"""The model card of a run, written from what the run measured."""

import json
import os
import re
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

TEMPLATE = Path(__file__).parent / "card_template.md"  # inside the package, so that an installed wheel has it
METRICS = ("mAP", "CP", "CR", "CF1", "OP", "OR", "OF1")
TAGS = ["multi-label-image-classification", "image-classification", "masked-supervised-learning", "msl"]
FIGURES = {
    "robustness.png": "mAP, recall and F1 by the share of removed pixels (generated masks)",
    "per_class.png": "Average precision of every class",
    "curves.png": "Losses, and mAP on the selection split, by epoch",
}


def write_card(folder: str | os.PathLike, report: dict, settings: dict) -> None:
    """Write `README.md` into a model folder. Figures that lie there (robustness.png, ...) are shown.

    Args:
        folder: The model folder; its name becomes the model's.
        report: What `metrics.json` holds.
        settings: The settings of the run, as `run.json` holds them.
    """
    folder = Path(folder)
    results, name = report[report["model"]], folder.resolve().name
    data = ModelCardData(
        license=report.get("license"),
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=TAGS,
        datasets=[report["dataset_id"]] if report.get("dataset_id") else None,
        base_model=report["base_model"] if re.fullmatch(r"[\w-]+/[\w.-]+", report["base_model"]) else None,  # a Hub id
        model_name=name,
        eval_results=_evaluations(report, results) or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=name,
        report=report,
        results=results,
        metrics=[name for name in METRICS if name in results.get("clean", ())],
        figures={file: text for file, text in FIGURES.items() if (folder / file).is_file()},
        settings={key: value for key, value in settings.items() if value not in (None, False, "")},
        is_msl=settings["loss_weights"][1:] != [0.0, 0.0],
        has_thresholds=_has_thresholds(folder),
    )
    card.save(folder / "README.md")


def is_our_card(file: Path) -> bool:
    """Whether a README.md was written by `write_card`."""
    return file.is_file() and TAGS[-1] in (ModelCard.load(file).data.tags or [])


def _evaluations(report: dict, results: dict) -> list[EvalResult]:
    dataset = report["dataset"]
    return [
        EvalResult(
            task_type="image-classification",
            task_name="Multi-label image classification",
            dataset_type=report.get("dataset_id") or "imagefolder",
            dataset_name=dataset if images == "clean" else f"{dataset}, masked images",
            dataset_config=images,  # without it the two would be merged into one
            dataset_split=report["test_split"],
            metric_type=name.lower(),
            metric_name=name,
            metric_value=round(100 * results[images][name], 2),
        )
        for images in ("clean", "masked")
        if images in results
        for name in METRICS
        if name in results[images]
    ]


def _has_thresholds(folder: Path) -> bool:
    config = folder / "config.json"
    return config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("thresholds") is not None
