"""The model card of a run, written from what the run measured."""

import os
import re
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

TEMPLATE = Path(__file__).parent / "card_template.md"  # inside the package, so that an installed wheel has it
METRICS = ("mAP", "CP", "CR", "CF1", "OP", "OR", "OF1")


def write_card(folder: str | os.PathLike, report: dict, settings: dict) -> None:
    """Write `README.md` into a model folder.

    Args:
        folder: The model folder; its name becomes the model's.
        report: What `metrics.json` holds.
        settings: The settings of the run, as `run.json` holds them.
    """
    folder = Path(folder)
    results = report[report["model"]]
    dataset = report["dataset"]
    evaluations = [
        EvalResult(
            task_type="image-classification",
            task_name="Multi-label image classification",
            dataset_type="imagefolder",
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
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["multi-label-image-classification", "masked-supervised-learning", "msl"],
        base_model=report["base_model"] if re.fullmatch(r"[\w-]+/[\w.-]+", report["base_model"]) else None,  # a Hub id
        model_name=folder.resolve().name,
        eval_results=evaluations or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=folder.resolve().name,
        report=report,
        results=results,
        metrics=METRICS,
        settings={key: value for key, value in settings.items() if value not in (None, False, "")},
        is_msl=settings["loss_weights"][1:] != [0.0, 0.0],
    )
    card.save(folder / "README.md")
