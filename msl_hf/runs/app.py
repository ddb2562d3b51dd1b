r"""A page to try models on: labels, where their evidence lies, and what changes when a part of the image is hidden.

    msl-hf app --models MSL=outputs/photos plain=outputs/photos-plain
    MSL_APP_MODELS="MSL=me/photos plain=me/photos-plain" python app.py      # as a Space: recipes/app/

Without --models it takes those of the demo, which `make app` trains, and outputs/demo where it stands alone.
"""

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import gradio as gr
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

from ..console.errors import RunError, user_input
from ..console.flags import parse_flags
from ..data.images import read_image
from ..data.schema import DataError
from ..data.transforms import input_size
from ..evaluation.sheets import heat_over
from ..evaluation.views import candidate_views
from ..masks import MaskBank, apply_mask
from ..model.boxes_msl import boxes_of
from ..model.views_msl import Part, Views, resized_by, views_of
from .networks import load_trained
from .predict import write_predictions

DEMO_MODELS = ["MSL=outputs/demo", "plain=outputs/demo-plain"]
MAX_FILE_SIZE = "10mb"
MAX_PIXELS = 50_000_000  # a photograph of 50 megapixels; larger ones are refused before they are decoded
SIDE = 512  # of what is shown and painted on, in pixels
SHOWN = 5  # labels of each model
MOST = 100  # photographs in a table
VIEW_COST = 6.0  # of the views to choose from, as a multiple of the plain pass
OWN = "as the model does"
INTRODUCTION = """# What is in the photograph, when a part of it is hidden?

Choose a photograph, paint over a part of it or hide a random part, and compare what two models still recognise.
"""


@dataclass
class AppArguments:
    """What the page offers, and where."""

    models: list[str] = field(
        default_factory=list, metadata={"help": "Models to choose from, as NAME=PATH; default: those of the demo."}
    )
    port: int = field(default=7860, metadata={"help": "Where the page is served."})
    host: str | None = field(default=None, metadata={"help": "Address to serve on; default: this machine alone."})


class Model:
    """A model folder or Hub id, under a name.

    Args:
        name: As the page calls it.
        path: Where it is.
    """

    def __init__(self, name: str, path: str):
        self.name = name
        self.network, self.processor = load_trained(path)
        self.network.eval()
        self.views = views_of(None, self.network.config)
        self.labels = [self.network.config.id2label[index] for index in range(self.network.config.num_labels)]

    @property
    def thresholds(self) -> dict[str, float]:
        """Of each label."""
        return dict(zip(self.labels, self.network.config.thresholds or [0.5] * len(self.labels), strict=True))

    def look_as(self, view: str) -> Views:
        """The views that a choice on the page stands for.

        Raises:
            gr.Error: where the network cannot take them.
        """
        if view == OWN:
            return self.views
        views = Views.parse(view)
        try:
            views.check(self.network, self.processor)
        except ValueError as error:
            raise gr.Error(f"{self.name}: {error}") from error
        return views

    def predict(
        self, image: Image.Image, keep: np.ndarray, view: str = OWN, thresholds: dict[str, float] | None = None
    ) -> tuple[dict[str, float], list[str]]:
        """Scores of all labels, the highest first, and those that reach their thresholds, of a masked image.

        Args:
            image: The photograph.
            keep: (H, W) bool at the image's size, False where it is hidden.
            view: How the model looks at it.
            thresholds: Of each label; None takes the model's own.
        """
        views, thresholds = self.look_as(view), thresholds or self.thresholds
        with torch.inference_mode():
            scores = views.logits(self.network, self._inputs(image, keep, views)).sigmoid()[0]
        order = scores.argsort(descending=True).tolist()
        named = {self.labels[index]: scores[index].item() for index in order}
        return named, [label for label, value in named.items() if value >= thresholds[label]]

    def overlay(self, image: Image.Image, keep: np.ndarray, label: str, view: str = OWN) -> Image.Image:
        """The image as the model sees it, with the map of where the evidence for the label lies, and its boxes."""
        views = self.look_as(view)
        with torch.inference_mode():
            maps = views.score_maps(self.network, self._inputs(image, keep, views))
        boxes = boxes_of(maps[0, self.labels.index(label)], *image.size)
        shown = heat_over(hide(image, keep), maps[0, self.labels.index(label)].float().numpy())
        for box in boxes:
            ImageDraw.Draw(shown).rectangle(
                (box["xmin"], box["ymin"], box["xmax"] - 1, box["ymax"] - 1), outline="cyan", width=2
            )
        return shown

    def _inputs(self, image: Image.Image, keep: np.ndarray, views: Views) -> list[torch.Tensor]:
        """(1, 3, H, W) of all that the model looks at."""
        images = views.crops(image, resized_by(self.processor))
        keeps = views.crops(Image.fromarray(keep), self._resized_mask)
        statistics = self.processor.image_mean, self.processor.image_std
        return [apply_mask(pixels[None], mask[None], *statistics) for pixels, mask in zip(images, keeps, strict=True)]

    def _resized_mask(self, keep: Image.Image, side: int | None) -> torch.Tensor:
        height, width = Part(side=side).size(input_size(self.processor))
        keep = np.asarray(keep.resize((width, height), Image.Resampling.NEAREST))
        return torch.from_numpy(keep.copy())[None]


def hide(image: Image.Image, keep: np.ndarray) -> Image.Image:
    """The image, black where `keep` is False."""
    return Image.fromarray(np.where(keep[..., None], np.asarray(image), 0).astype(np.uint8))


def open_photograph(file: str | None) -> Image.Image:
    """An uploaded file as an upright RGB image, the longer side of SIDE pixels.

    Raises:
        gr.Error: with what is wrong with the file.
    """
    if file is None:
        raise gr.Error("Choose a photograph first.")
    try:
        with Image.open(file) as header:
            if header.width * header.height > MAX_PIXELS:
                raise gr.Error(f"The photograph has {header.width} x {header.height} pixels; "
                               f"at most {MAX_PIXELS // 10**6} megapixels are read here.")  # fmt: skip
        image = read_image({"image": {"path": file, "bytes": None}})
    except (OSError, Image.DecompressionBombError, DataError) as error:
        raise gr.Error(f"{Path(file).name} is not a photograph that can be read (JPEG, PNG or WebP).") from error
    return ImageOps.contain(image, (SIDE, SIDE))


def painted(editor: dict | None) -> tuple[Image.Image, np.ndarray]:
    """The photograph in the editor, and what is kept of it: everything that was not painted over."""
    if not editor or editor.get("background") is None:
        raise gr.Error("Choose a photograph first.")
    image = editor["background"].convert("RGB")
    keep = np.ones((image.height, image.width), dtype=bool)
    for layer in editor["layers"]:
        keep &= np.asarray(layer.convert("RGBA").resize(image.size, Image.Resampling.NEAREST))[..., 3] == 0
    return image, keep


def with_mask(image: Image.Image, keep: np.ndarray) -> dict:
    """What the editor shows: the photograph, and a layer with the mask in black."""
    layer = np.zeros((*keep.shape, 4), dtype=np.uint8)
    layer[~keep] = (0, 0, 0, 255)
    return {"background": image, "layers": [Image.fromarray(layer)], "composite": None}


def label_photographs(
    model: Model, files: list[str], view: str, thresholds: dict[str, float]
) -> tuple[list[list[str]], str]:
    """A row for each photograph (name, labels, scores), and the CSV file with the rows that could be read.

    Raises:
        gr.Error: without photographs, or for too many.
    """
    if not files:
        raise gr.Error("Choose photographs first.")
    if len(files) > MOST:
        raise gr.Error(f"At most {MOST} photographs at a time; 'msl-hf predict' takes any number.")
    shown, rows = [], []
    for file in files:
        name = Path(file).name
        try:
            image = open_photograph(file)
        except gr.Error as error:
            shown.append([name, "not read", str(error.message)])
            continue
        scores, found = model.predict(image, np.ones((image.height, image.width), dtype=bool), view, thresholds)
        rows.append({"image": name, "labels": found, "scores": [round(scores[label], 6) for label in found]})
        shown.append([name, ", ".join(found) or "nothing", ", ".join(f"{scores[label]:.2f}" for label in found)])
    table = Path(tempfile.mkdtemp()) / "labels.csv"
    write_predictions(rows, table, ".csv")
    return shown, str(table)


def build_page(models: dict[str, Model], examples: list[str]) -> gr.Blocks:
    """The page.

    Args:
        models: By name; the first two are shown at first.
        examples: Image files to choose from.
    """
    names = list(models)

    def choose(file: str | None):
        image = open_photograph(file)
        return with_mask(image, np.ones((image.height, image.width), dtype=bool))

    def pick(event: gr.SelectData):
        return choose(examples[event.index])

    def hide_random(editor: dict | None, share: float):
        image, _ = painted(editor)
        low = min(max(share / 100 - 0.05, 0.01), 0.85)
        bank = MaskBank.generate(40, hole_ratio=(round(low, 2), round(low + 0.1, 2)))
        return with_mask(image, bank.sample(1, (image.height, image.width))[0, 0].numpy())

    def show_all(editor: dict | None):
        image, _ = painted(editor)
        return with_mask(image, np.ones((image.height, image.width), dtype=bool))

    labels = list(dict.fromkeys(label for model in models.values() for label in model.labels))
    views = list(dict.fromkeys(str(view) for model in models.values()
                               for view in candidate_views(model.network, model.processor, VIEW_COST)))  # fmt: skip

    def recognise(editor: dict | None, left: str, right: str, label: str | None, view: str, *limits: float):
        image, keep = painted(editor)
        results = []
        for name, thresholds in ((left, dict(zip(labels, limits, strict=True))), (right, None)):
            scores, found = models[name].predict(image, keep, view, thresholds)
            chosen = label if label in models[name].labels else next(iter(scores))
            best = dict(list(scores.items())[:SHOWN])
            overlay = models[name].overlay(image, keep, chosen, view)
            results += [best, f"**{name}** sees: {', '.join(found) or 'nothing'}", overlay]
        return [*results, f"{1 - keep.mean():.0%} of the photograph is hidden."]

    def label_all(files: list[str] | None, left: str, view: str, *limits: float):
        return label_photographs(models[left], files or [], view, dict(zip(labels, limits, strict=True)))

    def own_thresholds(name: str):
        known = models[name].thresholds
        return [gr.update(value=known.get(label, 0.5), visible=label in known) for label in labels]

    with gr.Blocks(title="Hidden objects", analytics_enabled=False) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            choosers = [
                gr.Dropdown(
                    names,
                    value=names[min(number, len(names) - 1)],
                    label=title,
                    elem_id=f"model{number}",
                    min_width=160,
                )
                for number, title in enumerate(("Model", "Compared with"))
            ]
            view = gr.Dropdown([OWN, *views], value=OWN, label="How they look at it", elem_id="view", min_width=160)
        with gr.Accordion("Thresholds of the model", open=False, elem_id="thresholds"):
            known = models[names[0]].thresholds
            with gr.Row():
                limits = [
                    gr.Slider(
                        0, 1, known.get(label, 0.5), step=0.01, label=label, visible=label in known, min_width=160,
                        elem_id=f"threshold{number}",
                    )
                    for number, label in enumerate(labels)
                ]  # fmt: skip
        with gr.Tab("One photograph"), gr.Row():
            with gr.Column(min_width=320):
                upload = gr.File(
                    label="Drop a photograph here, or choose one", file_types=["image"], height=120, elem_id="upload"
                )
                editor = gr.ImageEditor(
                    label="Paint over what is to be hidden", type="pil", sources=(), transforms=(), layers=False,
                    brush=gr.Brush(default_size=40, colors=["#000000"], color_mode="fixed"), elem_id="editor",
                    canvas_size=(SIDE, SIDE),
                )  # fmt: skip
                share = gr.Slider(5, 85, 55, step=5, label="Share to hide (%)", elem_id="share")
                with gr.Row():
                    random = gr.Button("Hide a random part", elem_id="random")
                    clear = gr.Button("Show everything", elem_id="clear")
                gallery = gr.Gallery(
                    examples, label="Generated examples", columns=4, height=220, allow_preview=False,
                    interactive=False, visible=bool(examples), elem_id="examples",
                )  # fmt: skip
            with gr.Column(min_width=320):
                status = gr.Markdown("", elem_id="status")
                label = gr.Dropdown(
                    labels, value=None, label="Class of the maps (none: the first of each model)", elem_id="label"
                )
                columns = []
                with gr.Row():
                    for number in range(2):
                        with gr.Column(min_width=160):
                            found = gr.Markdown("", elem_id=f"found{number}")
                            scores = gr.Label(num_top_classes=SHOWN, label="Scores", elem_id=f"scores{number}")
                            overlay = gr.Image(label="Where the evidence lies", elem_id=f"map{number}", buttons=[])
                            columns.append((scores, found, overlay))
        with gr.Tab("Several photographs", elem_id="several"):
            files = gr.File(
                label=f"Drop up to {MOST} photographs here, or choose them", file_types=["image"], height=160,
                file_count="multiple", elem_id="files",
            )  # fmt: skip
            start = gr.Button("Label them", elem_id="start")
            table = gr.Dataframe(headers=["image", "labels", "scores"], interactive=False, wrap=True, elem_id="table")
            download = gr.DownloadButton("Download as CSV", elem_id="download")
        outputs = [part for column in columns for part in column] + [status]
        inputs = [editor, *choosers, label, view, *limits]
        again = {"fn": recognise, "inputs": inputs, "outputs": outputs, "show_progress": "minimal"}
        chosen = upload.upload(choose, upload, editor)
        chosen.success(**again).then(lambda: None, None, upload)  # room for the next photograph
        chosen.failure(lambda: None, None, upload)
        random.click(hide_random, [editor, share], editor).success(**again)
        clear.click(show_all, editor, editor).success(**again)
        gallery.select(pick, None, editor).success(**again)
        editor.apply(**again)
        editor.input(**again, trigger_mode="always_last")
        choosers[0].input(own_thresholds, choosers[0], limits).success(**again)
        for changed in (choosers[1], label, view):
            changed.input(**again)
        for limit in limits:
            limit.input(**again, trigger_mode="always_last")
        start.click(label_all, [files, choosers[0], view, *limits], [table, download])
    return page


def example_files() -> list[str]:
    """Images in `examples/`, or else scenes of the demo, where it has been run."""
    for folder in (Path("examples"), Path("outputs/scenes/VOC2007/JPEGImages")):
        files = sorted(str(file) for file in folder.glob("*.jpg"))
        if files:
            return files[-8:]
    return []


def run(argv: list[str]) -> None:
    """`msl-hf app` with these flags: serves the page until it is interrupted.

    Raises:
        RunError: for a model that cannot be loaded.
    """
    (arguments,) = parse_flags(argv, __doc__, AppArguments)
    given = arguments.models or os.environ.get("MSL_APP_MODELS", "").split()
    given = given or [model for model in DEMO_MODELS if Path(model.split("=")[1]).is_dir()] or DEMO_MODELS[:1]
    if not all("=" in model for model in given):
        raise RunError(f"--models takes NAME=PATH, such as MSL=outputs/photos, got {' '.join(given)}")
    try:
        with user_input():
            models = {name: Model(name, path) for name, path in (model.split("=", 1) for model in given)}
    except RunError as error:
        raise RunError(f"{error}\n'msl-hf train' trains the model of the demo first; --models NAME=PATH takes "
                       "yours") from error  # fmt: skip
    page = build_page(models, example_files())
    page.queue(default_concurrency_limit=2, max_size=32).launch(
        server_name=arguments.host or os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
        server_port=arguments.port,
        max_file_size=MAX_FILE_SIZE,
        show_error=False,
    )
