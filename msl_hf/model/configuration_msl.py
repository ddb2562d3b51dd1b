"""Configuration of an MSL classifier. No `from __future__ import annotations` here: it disables `@strict`."""

import math

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.utils import logging

from .views_msl import Views

logger = logging.get_logger(__name__)

HEADS = ("csra", "linear", "ml_decoder")
CSRA_HEADS = (1, 2, 4, 6, 8)
TASK = "multi-label-image-classification"
# How a saved configuration tells transformers that the repository brings a pipeline of its own.
PIPELINE = {"impl": "pipeline_msl.MultiLabelImageClassificationPipeline", "pt": ["AutoModelForImageClassification"]}


@strict
class MSLConfig(PreTrainedConfig):
    """A backbone, a multi-label head, and nothing that only training needs.

    Args:
        backbone_config: Configuration of any `transformers` image model: timm networks as `timm_wrapper`, native ones
            (ResNet, ConvNext, ViT, DINOv2, Swin, ...) as they are. A dictionary needs `model_type`.
        head: `"csra"` (class-specific residual attention), `"linear"` (global average pooling) or `"ml_decoder"`
            (queries with cross-attention).
        num_heads: Number of CSRA heads: 1, 2, 4, 6 or 8.
        csra_lambda: Weight of the class-specific residual attention, lambda of CSRA (Zhu and Wu 2021).
        image_size: Side, or [H, W], of the network's input in pixels.
        thresholds: Optional probability threshold of every class, in (0, 1); None means 0.5 for all.
        views: How inference looks at an image, such as `"whole@224+2x2@160"` (see `Views`); None is the whole image in
            `image_size`. `forward` never heeds it; `view_logits`, the pipeline and the commands do.
        unused_parameters: Backbone parameters that the head never reads (poolers, mask tokens). They are frozen, so
            that optimizers skip them and distributed training need not search for them.
    """

    model_type = "msl"
    sub_configs = {"backbone_config": AutoConfig}

    backbone_config: dict | PreTrainedConfig | None = None
    head: str = "csra"
    num_heads: int = 1
    csra_lambda: float | int = 0.1
    image_size: int | list[int] | tuple[int, ...] = 224
    thresholds: list[float] | None = None
    views: str | None = None
    unused_parameters: list[str] | tuple[str, ...] = ()

    def __post_init__(self, **kwargs):
        backbone = self.backbone_config if self.backbone_config is not None else {"model_type": "timm_wrapper"}
        if isinstance(backbone, dict):
            model_type = backbone.get("model_type")
            if model_type not in CONFIG_MAPPING:
                raise ValueError(f"backbone_config needs a model_type that transformers knows, got {model_type!r}")
            if model_type == "timm_wrapper":
                backbone = {"num_classes": 0, **backbone}  # its from_dict cannot do without
            backbone = CONFIG_MAPPING[model_type].from_dict(backbone)
        self.backbone_config = backbone
        # Unset, pipelines would apply a softmax and losses would guess.
        kwargs.pop("custom_pipelines", None)
        kwargs["problem_type"] = kwargs.get("problem_type") or "multi_label_classification"
        super().__post_init__(**kwargs)
        # A repository has one auto class for each class of ours; this gives the model its second one.
        auto_map = getattr(self, "auto_map", None) or {}
        self.auto_map = {**auto_map, "AutoModel": "modeling_msl.MSLForImageClassification"}

        # Within the package the pipeline is registered, and needs no trust in code of a repository.
        self.custom_pipelines = {} if __name__.startswith("msl_hf.") else {TASK: dict(PIPELINE)}

    def to_dict(self):
        # Written anew, because transformers replaces names by classes in the one that it was given.
        return {**super().to_dict(), "custom_pipelines": {TASK: dict(PIPELINE)}}

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """As for every configuration; thresholds of other classes than those asked for are dropped with a line."""
        thresholds = kwargs.pop("thresholds", config_dict.get("thresholds"))
        id2label = kwargs.get("id2label") or config_dict.get("id2label") or ()
        count = kwargs.get("num_labels", len(id2label))
        if thresholds is not None and count and len(thresholds) != count:
            logger.warning(f"{len(thresholds)} thresholds do not belong to {count} classes; they are dropped")
            thresholds = None
        return super().from_dict({**config_dict, "thresholds": thresholds}, **kwargs)

    def validate_head(self):
        if self.head not in HEADS:
            raise ValueError(f"head must be one of {HEADS}, got {self.head!r}")
        if self.num_heads not in CSRA_HEADS:
            raise ValueError(f"num_heads must be one of {CSRA_HEADS}, got {self.num_heads}")
        if not math.isfinite(self.csra_lambda):
            raise ValueError(f"csra_lambda must be a number, got {self.csra_lambda}")

    def validate_labels(self):
        lacking = sorted(set(range(self.num_labels)) - set(self.id2label or range(self.num_labels)))
        if lacking:
            raise ValueError(f"id2label has no name for class {lacking[0]} of {self.num_labels}")
        wrong = [name for name in (self.id2label or {}).values() if not isinstance(name, str)]
        if wrong:
            raise ValueError(f"id2label holds {wrong[0]!r}; the name of a class is text")

    def validate_image_size(self):
        sides = [self.image_size] if isinstance(self.image_size, int) else list(self.image_size)
        if len(sides) not in (1, 2) or min(sides) < 1:
            raise ValueError(f"image_size must be a positive side or [height, width], got {self.image_size}")

    def validate_thresholds(self):
        if self.thresholds is None:
            return
        if len(self.thresholds) != self.num_labels:
            raise ValueError(f"{len(self.thresholds)} thresholds for {self.num_labels} classes; give one each")
        if not all(0 < threshold < 1 for threshold in self.thresholds):
            raise ValueError(f"thresholds are probabilities strictly between 0 and 1, got {self.thresholds}")

    def validate_views(self):
        if self.views is not None:
            Views.parse(self.views)

    @property
    def image_height_width(self) -> tuple[int, int]:
        """(H, W) of the network's input in pixels."""
        return (self.image_size,) * 2 if isinstance(self.image_size, int) else tuple(self.image_size)
