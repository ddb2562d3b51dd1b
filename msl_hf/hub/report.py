"""report.html: what a run came to, in one file that a browser opens without a network."""

import base64
import io
import os
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .card import FIGURES

TEMPLATE = Path(__file__).parent / "report_template.html"
SIDE = 220  # of the images in the report, in pixels
METRICS = ("mAP", "CP", "CR", "CF1", "OP", "OR", "OF1")


@dataclass
class ClassRow:
    """A class in the table: its AP and positives, and precision and recall at thresholds. Fractions of 1.

    Args:
        name: The class.
        positives: Images that show it.
        ap: Average precision; None without a positive.
        rates: (threshold, precision, recall) as the model is used; at 0.5; and where nine of ten positives are found.
    """

    name: str
    positives: int
    ap: float | None
    rates: list[tuple[float, float, float]]


@dataclass
class WrongImage:
    """One of the images that the model gets most wrong.

    Args:
        name: Its file, or its id in the data.
        image: As it is stored.
        heat: The same with the map of where the evidence for the label lies; None where there is none.
        label: The class.
        score: Its score.
        truth: The classes that the labels say it shows.
        predicted: The classes that the model returns.
    """

    name: str
    image: Image.Image
    heat: Image.Image | None
    label: str
    score: float
    truth: list[str]
    predicted: list[str]


def write_report(
    file: str | os.PathLike,
    report: dict,
    settings: dict,
    split: str | None,
    classes: list[ClassRow],
    missed: list[WrongImage],
    seen: list[WrongImage],
) -> None:
    """Write the report. Figures that lie beside it (curves.png, ...) are in it.

    Args:
        file: In the model folder.
        report: What `metrics.json` holds.
        settings: Of the run.
        split: What classes and wrong images are of.
        classes: In the order of the model's.
        missed: Images whose label the model misses.
        seen: Images in which it sees a label that nobody gave them.
    """
    import jinja2

    file = Path(file)
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters["jpeg"] = _as_jpeg
    page.filters["percent"] = lambda value: "" if value is None else f"{100 * value:.1f}"
    text = page.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=file.resolve().parent.name,
        report=report,
        results=report[report["model"]],
        metrics=METRICS,
        settings=settings,
        split=split,
        classes=classes,
        wrong={"Missed: labels of these images, with the lowest scores": missed,
               "Seen: labels that nobody gave these images, with the highest scores. Some may be there": seen},
        figures={text: _as_url(file.with_name(figure).read_bytes(), "png")
                 for figure, text in reversed(FIGURES.items()) if file.with_name(figure).is_file()},
    )  # fmt: skip
    file.write_text(text, encoding="utf-8")


def _as_jpeg(image: Image.Image) -> str:
    image, file = image.convert("RGB"), io.BytesIO()
    image.thumbnail((SIDE, SIDE))
    image.save(file, "JPEG", quality=85)
    return _as_url(file.getvalue(), "jpeg")


def _as_url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
