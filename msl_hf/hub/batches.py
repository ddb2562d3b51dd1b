"""Labels of batches of images, as a stage of Ray Data or of whatever else hands over tables or arrays."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor

from ..data.images import read_image
from ..data.schema import DataError
from ..data.transforms import input_size, normalized, resize_by
from ..model import MSLConfig, MSLForImageClassification
from ..model.pipeline_msl import labels_above
from ..model.views_msl import Views, views_of


class LabelBatches:
    """A column of images -> columns of their labels, scores and errors.

    The model is loaded once for each object, which Ray Data makes once for each of its actors.

    Args:
        model: Model folder or Hub id.
        threshold: Least score of a label, in [0, 1]; None takes the model's own thresholds, else 0.5.
        top_k: At most so many labels of an image; None for all.
        bf16: bfloat16 autocast.
        device: Where to compute; None takes the accelerator, where there is one.
        image_column: Column of the images: encoded (bytes), paths (str), dictionaries of `bytes` and `path` as
            `datasets` stores them, or uint8 arrays (H, W, 3) of RGB, as `ray.data.read_images` gives them.
        keep_images: Return the images, too.
        views: How an image is looked at, such as `"whole@224+2x2@160"`; None takes what the model's configuration
            says, else the plain pass.

    Raises:
        ValueError: for a threshold or top_k out of range, an image processor without one size, views that the network
            cannot take, and, when called, for a column that is not there, or scores that are no numbers.

    Examples:
        >>> label = LabelBatches("outputs/photos", threshold=0.3)  # doctest: +SKIP
        >>> label({"image": ["photo.jpg"]})["labels"][0]  # doctest: +SKIP
        ['ring', 'star']
    """

    def __init__(
        self,
        model: str | os.PathLike,
        threshold: float | None = None,
        top_k: int | None = None,
        bf16: bool = False,
        device: str | torch.device | None = None,
        image_column: str = "image",
        keep_images: bool = False,
        views: str | Views | None = None,
    ):
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold is a score in [0, 1], got {threshold}")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        self.threshold, self.top_k, self.bf16 = threshold, top_k, bf16
        self.image_column, self.keep_images = image_column, keep_images
        if device is None:
            device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        self.processor = AutoImageProcessor.from_pretrained(model)
        input_size(self.processor)
        self.network = MSLForImageClassification.from_pretrained(model)
        self.network.to(device, memory_format=torch.channels_last).eval()
        self.views = views_of(views, self.network.config)
        self.views.check(self.network, self.processor)

    def __call__(self, batch):
        """Columns of B rows -> the same without the images, and three more.

        `labels` (names, highest score first) and `scores` (in [0, 1]) are lists, None where the image cannot be read;
        `error` is the message why it cannot, else None.

        Args:
            batch: A dictionary of arrays, or a `pyarrow.Table`. So is what is returned: arrays of B objects, or
                columns that have their types (lists of strings and of float64, strings) also where all is None.
        """
        is_table = not isinstance(batch, Mapping)
        names = batch.column_names if is_table else list(batch)
        if self.image_column not in names:
            raise ValueError(f"there is no column {self.image_column!r} of images, only {', '.join(names)}; name it "
                             "with image_column")  # fmt: skip
        images = batch[self.image_column]
        columns = self._labels(images.to_pylist() if is_table else images)
        kept = [name for name in names if self.keep_images or name != self.image_column]
        if not is_table:
            return {**{name: batch[name] for name in kept}, **columns}
        import pyarrow as pa

        kinds = {"labels": pa.list_(pa.string()), "scores": pa.list_(pa.float64()), "error": pa.string()}
        batch = batch.select(kept)
        for name, kind in kinds.items():
            batch = batch.append_column(name, pa.array(columns[name].tolist(), kind))
        return batch

    def _labels(self, images: Sequence) -> dict[str, np.ndarray]:
        columns = {name: np.full(len(images), None, dtype=object) for name in ("labels", "scores", "error")}
        pixel_values = {}
        for number, image in enumerate(images):
            try:
                image = _opened(image)
                pixel_values[number] = look(image, self.views, self.processor, "the image")
            except DataError as error:
                columns["error"][number] = str(error)
        if pixel_values:
            scores, _ = score(self.network, self.processor, list(pixel_values.values()), self.bf16, self.views)
            for number, row in zip(pixel_values, scores, strict=True):
                found = named_labels(row, self.network.config, self.threshold, self.top_k)
                columns["labels"][number], columns["scores"][number] = found
        return columns


def _opened(image) -> Image.Image:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise DataError(f"an array of an image has to hold 8-bit values, (H, W, 3), got {image.dtype} "
                            f"{image.shape}")  # fmt: skip
        return Image.fromarray(image)
    if isinstance(image, bytes):
        image = {"bytes": image, "path": None}
    elif isinstance(image, str):
        image = {"bytes": None, "path": image}
    elif not isinstance(image, Mapping):
        raise DataError(f"an image is bytes, a path, a dictionary of both, or an array, got {type(image).__name__}")
    return read_image({"image": image})


def look(image: Image.Image, views: Views, processor, name: str) -> list[torch.Tensor]:
    """What the network is given of an image: pixels (3, H, W) of every tile of every part.

    Raises:
        DataError: with the name, where the image is smaller than the tiles are many.
    """
    try:
        return views.crops(image, resize_by(processor))
    except ValueError as error:
        raise DataError(f"{name}: {error}") from error


def score(
    network: MSLForImageClassification,
    processor,
    crops: Sequence[list[torch.Tensor]],
    bf16: bool,
    views: Views,
    with_maps: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(B, C) probabilities, on the CPU, of B > 0 images as `look` gives them; if asked (B, C, h, w) score maps."""
    device, statistics = network.device, [getattr(processor, f"image_{name}", None) for name in ("mean", "std")]
    batches = (torch.stack(tiles).to(device, memory_format=torch.channels_last) for tiles in zip(*crops, strict=True))
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        batches = [normalized(batch, *statistics) for batch in batches]
        maps = views.score_maps(network, batches).float().cpu() if with_maps else None
        return views.logits(network, batches).float().sigmoid().cpu(), maps


def named_labels(
    scores: torch.Tensor, config: MSLConfig, threshold: float | None = None, top_k: int | None = None
) -> tuple[list[str], list[float]]:
    """Names and scores, to six digits, of the labels that `labels_above` chooses of (C,) probabilities."""
    chosen = labels_above(scores, config, threshold, top_k)
    return [config.id2label[index] for index in chosen], [round(scores[index].item(), 6) for index in chosen]
