"""The pipeline `multi-label-image-classification`: photographs -> every label above its threshold.

No `from __future__ import annotations` here, as in the other files of the repository.
"""

import math
import os

import torch
from transformers import Pipeline, image_utils
from transformers.image_utils import load_image

from .boxes_msl import boxes_of
from .views_msl import resized_by, views_of


class MultiLabelImageClassificationPipeline(Pipeline):
    """All labels whose score reaches their threshold, highest first.

    Called with one image, a list, a generator or a data set of images; with `batch_size` several go through the
    network at a time. An image is a path, a URL, a PIL image, or an array or tensor of 8-bit values, (H, W), (H, W, 3)
    or (3, H, W).

    Args of a call (or of `pipeline(...)`, for every call):
        threshold: Least score of a label that is returned, in [0, 1]. None takes the model's own thresholds of each
            class, which `recipes/evaluate.py --tune_thresholds` stores, else 0.5.
        top_k: At most so many labels of an image; None for all.
        views: How an image is looked at, such as `"whole@224+2x2@160"`; `"whole"` is the plain pass. None takes what
            the model's configuration says, else the plain pass. Tiles are cut from the image as it is stored.
        score_maps: Add under `score_map` the (h, w) map of where the evidence for the label lies.
        boxes: Add under `boxes` those around where the evidence for the label lies, `{"xmin", "ymin", "xmax", "ymax"}`
            in pixels, the one of the highest peak first. They are drawn from score maps, and no detector's: objects
            side by side share one, and small ones have too large a one.
        timeout: Seconds to wait for the image behind a URL; None waits for ever.

    Returns:
        For each image a list of `{"label": str, "score": float}`, which may be empty.

    Examples:
        >>> classify = pipeline("multi-label-image-classification", model="outputs/demo")  # doctest: +SKIP
        >>> classify("photo.jpg", threshold=0.3)  # doctest: +SKIP
        [{'label': 'ring', 'score': 0.89}, {'label': 'star', 'score': 0.84}]
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model.eval()  # one that was handed over may come from training

    def _sanitize_parameters(self, threshold=None, top_k=None, score_maps=None, timeout=None, views=None, boxes=None):
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold is a score in [0, 1], got {threshold}")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        if views is not None:
            views = views_of(views, self.model.config)
            views.check(self.model, self.image_processor)
        maps = {"score_maps": score_maps, "boxes": boxes}
        steps = (
            {"timeout": timeout, "views": views},
            {"views": views, **maps},
            {"threshold": threshold, "top_k": top_k, **maps},
        )
        return tuple({name: value for name, value in step.items() if value is not None} for step in steps)

    def preprocess(self, inputs, timeout=None, views=None):
        if isinstance(inputs, os.PathLike):
            inputs = os.fspath(inputs)
        if hasattr(inputs, "shape"):
            image = inputs if isinstance(inputs, torch.Tensor) else torch.tensor(inputs)
            if image.dim() == 2:
                image = image.unsqueeze(0)
            elif image.dim() == 3 and image.shape[-1] in (1, 3) and image.shape[0] not in (1, 3):
                image = image.permute(2, 0, 1)
            if image.dim() != 3 or image.shape[0] not in (1, 3) or image.dtype != torch.uint8:
                raise ValueError(f"an array has to hold 8-bit values, (H, W), (H, W, 3) or (3, H, W), "
                                 f"got {image.dtype} {tuple(inputs.shape)}")  # fmt: skip
            image = image.expand(3, -1, -1)
        else:
            image = load_image(to_eight_bits(opened(inputs, timeout)), timeout=timeout)
        views = views_of(views, self.model.config)
        crops = views.crops(image, resized_by(self.image_processor))
        # One row an image: batches of `Pipeline` do not hold lists of several sizes.
        row = crops[0] if len(crops) == 1 else torch.cat([crop.flatten() for crop in crops])
        size = image.shape[-1:-3:-1] if isinstance(image, torch.Tensor) else image.size
        return {"pixel_values": row.unsqueeze(0).to(self.dtype), "image_size": torch.tensor([size])}

    def _forward(self, model_inputs, score_maps=False, views=None, boxes=False):
        views, crops = views_of(views, self.model.config), [model_inputs["pixel_values"]]
        if crops[0].dim() == 2:
            size = self.image_processor.size
            shapes = [(3, *shape) for shape in views.sizes((size["height"], size["width"]))]
            parts = crops[0].split([math.prod(shape) for shape in shapes], dim=1)
            crops = [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]
        outputs = {"logits": views.logits(self.model, crops), "image_size": model_inputs["image_size"]}
        if score_maps or boxes:
            outputs["score_maps"] = views.score_maps(self.model, crops)
        return outputs

    def postprocess(self, model_outputs, threshold=None, top_k=None, score_maps=False, boxes=False):
        config, scores = self.model.config, model_outputs["logits"][0].float().sigmoid()
        found = []
        for index in labels_above(scores, config, threshold, top_k):
            found.append({"label": config.id2label[index], "score": scores[index].item()})
            if score_maps:
                found[-1]["score_map"] = model_outputs["score_maps"][0, index].float().numpy()
            if boxes:
                width, height = model_outputs["image_size"][0].tolist()
                found[-1]["boxes"] = boxes_of(model_outputs["score_maps"][0, index], width, height)
        return found


def opened(source, timeout: float | None = None):
    """The image of a path or URL, in the mode of the file; everything else as it is."""
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        content = image_utils.httpx.get(source, timeout=timeout, follow_redirects=True).content
        return image_utils.PIL.Image.open(image_utils.BytesIO(content))
    is_file = isinstance(source, str) and os.path.isfile(source)
    return image_utils.PIL.Image.open(source) if is_file else source


def to_eight_bits(image):
    """16-bit grey levels by their range, 0 to 65,535 -> 0 to 255, as `msl_hf.data` reads them; others as they are.

    Raises:
        ValueError: for 32-bit and floating-point images, which have no range of their own.
    """
    if not isinstance(image, image_utils.PIL.Image.Image):
        return image
    if image.mode == "I" and image.format == "PPM":
        image = image.convert("I;16")
    if image.mode.startswith("I;16"):
        exif = image.getexif()
        image = image.point(lambda level: level * (1 / 257) + 0.5).convert("L")
        image.getexif().update(exif)
        return image
    if image.mode in ("I", "F"):
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise ValueError(f"the image has {kind} pixels without a range; save it with 8 or 16 bits a channel")
    return image


def labels_above(scores: torch.Tensor, config, threshold: float | None = None, top_k: int | None = None) -> list[int]:
    """Indices of the classes whose score reaches their threshold, highest score first.

    Args:
        scores: (C,) probabilities.
        config: The model's configuration, whose `thresholds` count where `threshold` is None; without them 0.5.
        threshold: One for all classes.
        top_k: At most so many; None for all.

    Raises:
        ValueError: for scores that are no numbers, which reach no threshold.
    """
    if scores.isnan().any():
        raise ValueError("the scores are not numbers (NaN): the model's weights or the image's values are damaged")
    if threshold is None and config.thresholds is not None:
        thresholds = scores.new_tensor(config.thresholds)
    else:
        thresholds = torch.full_like(scores, 0.5 if threshold is None else threshold)
    order = scores.argsort(descending=True, stable=True)
    return order[(scores >= thresholds)[order]][:top_k].tolist()
