"""The network: any `transformers` image backbone, local features, a multi-label head.

No `from __future__ import annotations` here: it breaks `AutoModel.register`.
"""

import copy
import inspect
import math
import os

import torch
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import logging

from .configuration_msl import MSLConfig
from .heads_msl import CSRAHead, LinearHead, MLDecoderHead, multilabel_bce
from .pipeline_msl import MultiLabelImageClassificationPipeline  # noqa: F401, so that saving copies its file, too
from .views_msl import Views, resized_by, views_of

GROUPS = 4  # of images with similar numbers of visible patches
LENGTHS = 32  # different numbers of patches at most, in each of which compiled code and libraries have to be set up
PREFIX_TOKENS = ("cls_token", "class_embedding", "distillation_token", "register_tokens")  # of native backbones

SHORT_CARD = """---
library_name: transformers
pipeline_tag: image-classification
tags: [multi-label-image-classification, image-classification, masked-supervised-learning, msl]
---

# {repo_id}

A multi-label image classifier of {count} classes.

```python
from transformers import pipeline

classify = pipeline("multi-label-image-classification", model="{repo_id}", trust_remote_code=True)
print(classify("photo.jpg"))
```

This card was written when the model alone was uploaded, and knows no results. The card of the training run, with
settings, data and results, is `README.md` in the run's output folder.
"""


class MSLForImageClassification(PreTrainedModel):
    """Multi-label image classifier. Training with masks happens in `MSLTrainer`; inference is this model alone.

    Make one from a pretrained backbone with `from_backbone`, from a saved model with `from_pretrained`.
    """

    config_class = MSLConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is a mean: Trainer must divide it by the accumulation steps

    def __init__(self, config: MSLConfig):
        super().__init__(config)
        self.backbone = AutoModel.from_config(config.backbone_config)
        _check_forward(self.backbone)
        self.head = self._build_head()
        self._backbone_kwargs = _backbone_kwargs(self.backbone)
        self.post_init()
        self._freeze_unused_parameters()

    def _build_head(self) -> CSRAHead | LinearHead | MLDecoderHead:
        in_features = _num_features(self.backbone)
        if self.config.head == "linear":
            return LinearHead(in_features, self.config.num_labels)
        if self.config.head == "ml_decoder":
            return MLDecoderHead(in_features, self.config.num_labels)
        return CSRAHead(in_features, self.config.num_labels, self.config.num_heads, self.config.csra_lambda)

    @torch.no_grad()
    def _init_weights(self, module):
        # Only heads: backbones initialise themselves. Through transformers' functions, so that weights that were
        # loaded are left alone and missing or mismatched ones never stay as uninitialised memory.
        if isinstance(module, CSRAHead | LinearHead):
            bound = 1 / math.sqrt(module.weight.shape[-1])
            init.uniform_(module.weight, -bound, bound)
            if isinstance(module, LinearHead):
                init.zeros_(module.bias)
        elif isinstance(module, MLDecoderHead):
            init.normal_(module.queries)  # not the 0.02 of embeddings: the queries are fixed and have to differ
            init.xavier_normal_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):  # this and the following: the parts of ML-Decoder, as torch makes them
            bound = 1 / math.sqrt(module.in_features)
            init.uniform_(module.weight, -bound, bound)
            if isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):  # the attention's output
                init.zeros_(module.bias)
            else:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.MultiheadAttention):
            init.xavier_uniform_(module.in_proj_weight)
            init.zeros_(module.in_proj_bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)

    def _set_gradient_checkpointing(self, enable: bool = True, *args, **kwargs):
        # The wrapped backbone knows how to checkpoint itself; the head is cheap.
        self.backbone._set_gradient_checkpointing(enable, *args, **kwargs)

    @classmethod
    def from_backbone(
        cls,
        backbone: str | os.PathLike | PreTrainedModel,
        label_names: list[str],
        head: str = "csra",
        num_heads: int = 1,
        csra_lambda: float = 0.1,
        image_size: int | tuple[int, int] | None = None,
        pretrained: bool = True,
        output_stride: int | None = None,
    ) -> "MSLForImageClassification":
        """A new classifier on a pretrained backbone, with a fresh head.

        Args:
            backbone: Hub id or folder of an image model: `"timm/resnet101.tv_in1k"`, `"facebook/dinov2-base"`, ...
                With `pretrained=False` also the bare name of a timm architecture. Or the model itself, as `AutoModel`
                loads it, whose weights are copied. Of a model of images and texts (CLIP, SigLIP) its visual tower
                alone.
            label_names: The class names in order; C of them.
            head: `"csra"`, `"linear"` or `"ml_decoder"`.
            num_heads: Number of CSRA heads: 1, 2, 4, 6 or 8.
            csra_lambda: Weight of the class-specific residual attention.
            image_size: Side or (H, W) of the input in pixels; None keeps the backbone's own. Position embeddings are
                resampled where the backbone has them.
            pretrained: False builds the same network with random weights.
            output_stride: Pixels of the input for each location of the features: 16 or 8 instead of 32, with dilated
                convolutions and the same weights, in CNNs of timm that can do so. None is the network's own.

        Raises:
            ValueError: where class names are missing or repeat, or the backbone cannot be used.
        """
        id2label = _id2label(label_names)
        backbone = backbone if isinstance(backbone, PreTrainedModel) else os.fspath(backbone)
        if hasattr(getattr(backbone, "config", None), "vision_config"):
            backbone = backbone.vision_model
        if isinstance(backbone, PreTrainedModel):
            source, backbone_config = (backbone if pretrained else None), copy.deepcopy(backbone.config)
        elif pretrained:
            verbosity = logging.get_verbosity()
            logging.set_verbosity_error()  # the report that the ImageNet classifier was left out
            try:
                source = _load_backbone(backbone)
            except OSError as error:
                raise OSError(f"{backbone}: is no backbone that can be loaded ({error})") from error
            finally:
                logging.set_verbosity(verbosity)
            backbone_config = source.config
        else:
            source = None
            backbone_config = _config_without_weights(backbone)
        backbone_config.num_labels = 0  # ImageNet's class names have no place in the saved configuration
        if isinstance(backbone, str) and os.path.isdir(backbone):
            backbone_config.name_or_path = os.path.basename(os.path.abspath(backbone))  # not where the user keeps it
        size = _own_size(source if source is not None else backbone_config) if image_size is None else image_size
        height, width = (size, size) if isinstance(size, int) else size
        if backbone_config.model_type == "timm_wrapper":
            _adapt_timm_config(backbone_config, source, height, width, output_stride)
        elif output_stride is not None:
            raise ValueError(f"output_stride is for CNNs of timm, and {backbone_config.model_type} is none")
        if backbone_config.model_type != "timm_wrapper":
            _check_size(_native_patch_size(backbone_config), height, width)
        config = MSLConfig(
            backbone_config=backbone_config,
            head=head,
            num_heads=num_heads,
            csra_lambda=csra_lambda,
            image_size=height if height == width else [height, width],
            id2label=id2label,
            label2id={name: index for index, name in id2label.items()},
        )
        model = cls(config)
        if source is not None:
            _resample_timm(source, model.backbone, height, width)
            model.backbone.load_state_dict(source.state_dict())
        model.config.unused_parameters = model._find_unused_parameters()
        model._freeze_unused_parameters()
        return model

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        kwargs.setdefault("use_safetensors", True)  # never fall back to a pickle
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model._freeze_unused_parameters()  # loading replaces the parameters and forgets that they were frozen
        return loaded

    def push_to_hub(self, repo_id: str, **kwargs):
        """As for every model of transformers, and, where the repository has no card yet, with a short one.

        It shows no results: those are in the card of the training run, which `MSLTrainer.push_to_hub` uploads.
        """
        token = kwargs.get("token")
        repo_id = HfApi().create_repo(repo_id, private=kwargs.get("private"), token=token, exist_ok=True).repo_id
        try:
            ModelCard.load(repo_id, token=token)
        except EntryNotFoundError:
            card = SHORT_CARD.format(repo_id=repo_id, count=self.config.num_labels).encode()
            HfApi().upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=repo_id, token=token)
        return super().push_to_hub(repo_id, **kwargs)

    def _find_unused_parameters(self) -> list[str]:
        """Backbone parameters that a backward pass from the logits never reaches (poolers, mask tokens)."""
        training = self.training
        self.eval()
        with torch.enable_grad():
            logits = self(torch.zeros(1, 3, *self.config.image_height_width)).logits
        self.train(training)
        names, parameters = zip(*self.backbone.named_parameters(), strict=True)
        gradients = torch.autograd.grad(logits.sum(), parameters, allow_unused=True)
        return [name for name, gradient in zip(names, gradients, strict=True) if gradient is None]

    def _freeze_unused_parameters(self) -> None:
        for name in self.config.unused_parameters:
            self.backbone.get_parameter(name).requires_grad_(False)

    def replace_head(self, label_names: list[str]) -> list[str]:
        """Give the model another class list, or another order: known classes keep their rows of the head.

        The backbone keeps its weights, and so does what the classes of a head share. Known classes keep their
        thresholds, too, if all are known.

        Args:
            label_names: The new class names in order.

        Returns:
            The names of the classes whose rows are new.
        """
        rows = {name: index for index, name in self.config.id2label.items()}
        old, thresholds = self.head, self.config.thresholds
        self.config.id2label = _id2label(label_names)
        self.config.label2id = {name: index for index, name in self.config.id2label.items()}
        new_names = [name for name in label_names if name not in rows]
        self.config.thresholds = None
        if thresholds is not None and not new_names:
            self.config.thresholds = [thresholds[rows[name]] for name in label_names]
        self.head = self._build_head().to(self.device, self.dtype)
        self.head.copy_rows(old, [rows.get(name) for name in label_names])
        return new_names

    def forward(
        self,
        pixel_values: torch.Tensor | None,
        labels: torch.Tensor | None = None,
        keep: torch.Tensor | None = None,
        num_visible: list[int] | None = None,
        return_dict: bool | None = None,
        features: torch.Tensor | None = None,
    ) -> ImageClassifierOutput:
        """Class logits of a batch of images.

        Args:
            pixel_values: (B, 3, H, W) float, normalised by the image processor.
            labels: (B, C) multi-hot targets, -100 = ignored; gives `loss`, the mean binary cross-entropy.
            keep: (B, 1, H, W) bool, False where `pixel_values` was masked. Plain ViTs of timm then leave out the
                patches that are wholly removed; other networks ignore it (`can_skip_removed_patches`).
            num_visible: What `count_visible` gives for `keep`, where that was on the host before: counting it on an
                accelerator makes the host wait.
            return_dict: False returns the tuple `(loss, logits)` or `(logits,)`.
            features: (B, L, D) local features, as `local_features` gives them, in place of `pixel_values`, which are
                then None: the head alone is run.

        Returns:
            `loss` (scalar or None) and `logits` (B, C); probabilities are their sigmoid.
        """
        if features is not None:
            logits = self.head(features)
        elif keep is not None and self.can_skip_removed_patches:
            logits = self._visible_logits(pixel_values, keep, num_visible or self.count_visible(keep))
        else:
            logits = self.head(self._local_features(pixel_values)[0])
        loss = None
        if labels is not None:
            if labels.shape != logits.shape:
                raise ValueError(f"labels must be multi-hot of shape {tuple(logits.shape)}, got {tuple(labels.shape)}")
            loss = multilabel_bce(logits, labels)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return ImageClassifierOutput(loss=loss, logits=logits)

    def local_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """What the head reads: (B, 3, H, W) images -> (B, L, D) features of L locations."""
        return self._local_features(pixel_values)[0]

    def score_maps(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Where the evidence for each class lies: (B, 3, H, W) images -> (B, C, h, w) class score maps.

        The mean of a map over its locations is the class logit without the attention term of CSRA.
        """
        features, (height, width) = self._local_features(pixel_values)
        return self.head.class_maps(features).transpose(1, 2).unflatten(2, (height, width))

    @torch.no_grad()
    def view_logits(self, images, processor, views: str | Views | None = None) -> torch.Tensor:
        """Class logits of images that are looked at in several ways.

        Args:
            images: One or B PIL images, or uint8 tensors (3, height, width), in the size that they are stored in:
                tiles are cut from it.
            processor: The model's image processor.
            views: As in `"whole@224+2x2@160"`; None takes `config.views`, else the plain pass.

        Returns:
            (B, C) logits.

        Raises:
            ValueError: for views that network or processor cannot do, or that cut finer than an image.
        """
        views = views_of(views, self.config)
        views.check(self, processor)
        images = images if isinstance(images, list | tuple) else [images]
        images = [image if isinstance(image, torch.Tensor) else image.convert("RGB") for image in images]
        crops = [views.crops(image, resized_by(processor)) for image in images]
        stacked = (torch.stack(crop).to(self.device, self.dtype) for crop in zip(*crops, strict=True))
        return views.logits(self, list(stacked))

    def check_input_size(self, height: int, width: int) -> None:
        """Refuse images of a size that the network cannot take.

        Raises:
            ValueError: saying why not.
        """
        _check_size(self._patch_size, height, width)
        training = self.training
        try:
            with torch.no_grad():
                self.eval()(torch.zeros(1, 3, height, width, device=self.device, dtype=self.dtype))
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            raise ValueError(f"the network cannot take images of {height} x {width} pixels ({error})") from error
        finally:
            self.train(training)

    @property
    def input_step(self) -> int:
        """What sides of images should be a multiple of: of the patches of a ViT, else of 32 pixels."""
        patch = self._patch_size
        return 32 if patch is None else patch if isinstance(patch, int) else max(patch)

    @property
    def _patch_size(self) -> int | tuple[int, int] | None:
        """Side of the patches that a network cuts images into without a rest; None of those that fill up."""
        network = getattr(self.backbone, "timm_model", None)
        if network is not None:
            return getattr(network.patch_embed, "patch_size", None) if _cuts_patches(network) else None
        config = self.config.backbone_config
        return _native_patch_size(config)

    @property
    def can_skip_removed_patches(self) -> bool:
        """Whether `keep` saves work: in plain ViTs of timm, where tokens can be dropped before the blocks."""
        network = getattr(self.backbone, "timm_model", None)
        return all(hasattr(network, name) for name in ("patch_drop", "blocks", "_pos_embed")) and not getattr(
            network, "rope", None
        )

    def count_visible(self, keep: torch.Tensor) -> list[int]:
        """(B, 1, H, W) masks -> of each how many patches of a plain ViT it does not wholly remove."""
        return self._visible(keep).sum(dim=1).int().tolist()

    def _visible(self, keep: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) -> (B, L) which patches are not wholly removed, 1 or 0."""
        return F.max_pool2d(keep.float(), self.backbone.timm_model.patch_embed.patch_size).flatten(1)

    def _visible_logits(self, pixel_values: torch.Tensor, keep: torch.Tensor, counts: list[int]) -> torch.Tensor:
        """(B, C) logits from the patches that are not wholly removed.

        Images are run in groups of similar numbers of visible patches, so that few have to be filled up to the
        largest number of their group, and that to a 32nd of all patches, so that there are no more than
        LENGTHS shapes; what fills up are removed patches, as black as the mask left them.
        """
        device, visible = pixel_values.device, self._visible(keep)
        first = visible.argsort(dim=1, descending=True, stable=True)
        step = -(-visible.shape[1] // LENGTHS)
        order = torch.tensor(counts).argsort()
        logits = []
        for group in order.tensor_split(min(GROUPS, len(order))):
            length = max(1, -(-counts[group.tolist()[-1]] // step)) * step
            group = group.to(device, non_blocking=True)
            logits.append(self.head(self._chosen_features(pixel_values[group], first[group, :length])))
        return torch.cat(logits)[order.argsort().to(device, non_blocking=True)]

    def _chosen_features(self, pixel_values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """(B, k, D) features of the chosen (B, k) patches, computed from them alone."""
        prefix = _num_prefix_tokens(self.backbone)

        def choose(module, inputs, tokens):
            patches = tokens[:, prefix:].gather(1, chosen.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
            return torch.cat([tokens[:, :prefix], patches], dim=1)

        # timm's place to drop tokens: after the position embedding, before the blocks.
        hook = self.backbone.timm_model.patch_drop.register_forward_hook(choose)
        try:
            return _normalize(self.backbone(pixel_values).last_hidden_state[:, prefix:], self.backbone)
        finally:
            hook.remove()

    def _local_features(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """(B, 3, H, W) images -> (B, L, D) features at L = h * w locations, and (h, w)."""
        hidden = self.backbone(pixel_values, **self._backbone_kwargs).last_hidden_state
        timm_model = getattr(self.backbone, "timm_model", None)
        if hidden.dim() == 4 and getattr(timm_model, "output_fmt", "NCHW") == "NHWC":
            features, grid = hidden.flatten(1, 2), tuple(hidden.shape[1:3])
        elif hidden.dim() == 4:
            features, grid = hidden.flatten(2).transpose(1, 2), tuple(hidden.shape[2:])
        else:
            features = hidden[:, _num_prefix_tokens(self.backbone) :]
            grid = _grid(features.shape[1], *pixel_values.shape[-2:])
        return _normalize(features, self.backbone), grid


def _id2label(label_names: list[str]) -> dict[int, str]:
    label_names = [str(name) for name in label_names]
    if not label_names:
        raise ValueError("label_names is empty; a classifier needs the name of at least one class")
    repeated = sorted({name for name in label_names if label_names.count(name) > 1})
    if repeated:
        raise ValueError(f"label_names holds {', '.join(repeated)} more than once")
    return dict(enumerate(label_names))


def _load_backbone(backbone: str) -> PreTrainedModel:
    """The pretrained network of a name or folder; of a model of images and texts its visual tower alone."""
    vision = getattr(AutoConfig.from_pretrained(backbone), "vision_config", None)
    if vision is None:
        return AutoModel.from_pretrained(backbone)
    model, report = AutoModel.from_pretrained(backbone, config=vision, output_loading_info=True)
    if report["missing_keys"]:  # which would be random: its tower has other names there
        raise ValueError(f"{backbone}: the weights of its visual tower ({vision.model_type}) cannot be told from the "
                         f"others, such as {sorted(report['missing_keys'])[0]}; pass the tower itself")  # fmt: skip
    return model


def _config_without_weights(backbone: str):
    import timm

    architecture = backbone.removeprefix("timm/").split(".")[0]
    if not os.path.isdir(backbone) and timm.is_model(architecture):
        return AutoConfig.for_model("timm_wrapper", architecture=architecture)
    config = AutoConfig.from_pretrained(backbone)
    return getattr(config, "vision_config", config)


def _own_size(source) -> int | tuple[int, int]:
    """The input size that a backbone (a model, or its configuration where there are no weights) was made for."""
    config = getattr(source, "config", source)
    if config.model_type == "timm_wrapper":
        size = getattr(config, "pretrained_cfg", None) or {}
        if "input_size" not in size and hasattr(source, "timm_model"):
            size = source.timm_model.pretrained_cfg
        return tuple(size["input_size"][-2:]) if "input_size" in size else 224
    size = getattr(config, "image_size", 224)
    return size if isinstance(size, int) else tuple(size)


def _check_size(patch_size: int | tuple[int, int] | None, height: int, width: int) -> None:
    """Refuse sizes that a ViT cannot cut into patches: timm's ends with an assertion, native ones leave out a rest."""
    if patch_size is None:
        return
    for side, step in zip(
        (height, width), (patch_size,) * 2 if isinstance(patch_size, int) else patch_size, strict=True
    ):
        if side % step:
            below = f"{side - side % step} or " if side > step else ""
            raise ValueError(f"image_size {side} is no multiple of the backbone's patches of {step} pixels; "
                             f"the next ones are {below}{side + -side % step}")  # fmt: skip


def _native_patch_size(config) -> int | tuple[int, int] | None:
    """Side of the patches of a network of transformers; None of Swin transformers, which fill up what is missing."""
    if "swin" in config.model_type:
        return None
    size = getattr(config, "patch_stride", None) or getattr(config, "patch_size", None)  # patches of Hiera overlap
    return tuple(size) if isinstance(size, list) else size


def _cuts_patches(network) -> bool:
    return hasattr(network, "blocks") and hasattr(network, "patch_embed")


def _adapt_timm_config(backbone_config, source, height: int, width: int, output_stride: int | None) -> None:
    """Note in a timm configuration the input size, where the architecture is built for one, and the output stride."""
    import timm

    # Without weights the architecture still has to be asked what it can do; building it costs no download.
    network = source.timm_model if source is not None else timm.create_model(backbone_config.architecture)
    if _cuts_patches(network):
        _check_size(getattr(network.patch_embed, "patch_size", None), height, width)
    arguments = dict(backbone_config.model_args or {})
    if hasattr(network, "set_input_size"):
        arguments["img_size"] = [height, width]
    if "dynamic_img_size" in inspect.signature(type(network).__init__).parameters:
        arguments["dynamic_img_size"] = True  # other sizes at inference, and score maps of non-square images
    elif "strict_img_size" in inspect.signature(type(network).__init__).parameters:
        arguments["strict_img_size"] = False  # the same in Swin transformers of older timm
    if output_stride is not None:
        arguments["output_stride"] = output_stride
        try:
            if output_stride not in (8, 16):  # with others some networks are built as if it were 32
                raise AssertionError
            timm.create_model(backbone_config.architecture, **arguments)
        except (TypeError, AssertionError, NotImplementedError) as error:
            raise ValueError(f"{backbone_config.architecture} cannot have an output_stride of {output_stride}, CNNs 8 "
                             "or 16; leave it out, or take a larger image_size") from error  # fmt: skip
    backbone_config.model_args = arguments or None
    backbone_config.do_pooling = False  # the head reads the local features; a pooled copy would be thrown away


def _resample_timm(source, target, height: int, width: int) -> None:
    """Resample the position embeddings of a timm network to the sizes that the target was built with."""
    shapes = {name: value.shape for name, value in target.state_dict().items()}
    if all(shapes.get(name) == value.shape for name, value in source.state_dict().items()):
        return  # nothing depends on the size
    network = getattr(source, "timm_model", None)
    if not hasattr(network, "set_input_size"):
        raise ValueError(f"{source.config.name_or_path}: its weights do not fit an input of {height} x {width} pixels")
    arguments = {}
    if "window_size" in inspect.signature(network.set_input_size).parameters and hasattr(network, "layers"):
        arguments["window_size"] = [tuple(stage.blocks[0].window_size) for stage in target.timm_model.layers]
    network.set_input_size(img_size=(height, width), **arguments)


def _check_forward(backbone: PreTrainedModel) -> None:
    """Refuse networks that want more than images, such as patches and their shapes."""
    first, *others = inspect.signature(backbone.forward).parameters.values()
    needed = [
        other.name for other in others if other.default is other.empty and other.kind is other.POSITIONAL_OR_KEYWORD
    ]
    if first.name != "pixel_values" or needed:
        raise ValueError(f"a {backbone.config.model_type!r} network takes no batch of images alone "
                         f"(it wants {', '.join([first.name, *needed])}), and cannot be a backbone here")  # fmt: skip


def _backbone_kwargs(backbone: PreTrainedModel) -> dict[str, bool]:
    """Native ViTs interpolate their position embeddings only on request; at their own size this changes nothing."""
    if "interpolate_pos_encoding" in inspect.signature(backbone.forward).parameters:
        return {"interpolate_pos_encoding": True}
    return {}


def _num_features(backbone: PreTrainedModel) -> int:
    if hasattr(backbone, "timm_model"):
        return backbone.timm_model.num_features
    config = backbone.config
    sizes = getattr(config, "hidden_sizes", None) or [getattr(config, "hidden_size", None)]
    if sizes[-1] is None:
        raise ValueError(f"cannot tell the feature size of a {config.model_type!r} backbone (no hidden_size)")
    return sizes[-1]


def _num_prefix_tokens(backbone: PreTrainedModel) -> int:
    """Class, distillation and register tokens before the patch tokens; they are no locations."""
    if hasattr(backbone, "timm_model"):
        return getattr(backbone.timm_model, "num_prefix_tokens", 0)
    if backbone.config.model_type == "dinov3_convnext":
        return 1  # the mean of the others
    embeddings = getattr(backbone, "embeddings", None)
    tokens = (getattr(embeddings, name, None) for name in PREFIX_TOKENS)
    return sum(1 if token.dim() == 1 else token.shape[1] for token in tokens if token is not None)


def _normalize(features: torch.Tensor, backbone: PreTrainedModel) -> torch.Tensor:
    """(B, L, D) features through the last layer normalisation of backbones that pool before it.

    ConvNeXt and CLIP do, and in timm BEiT and ViTs with average pooling; their local features alone are of any scale,
    and heads on them learn slowly. Other backbones normalise before, or not at all, or are not known here.
    """
    network = getattr(backbone, "timm_model", None)
    if network is not None:
        norms = [getattr(network, "fc_norm", None), getattr(getattr(network, "head", None), "norm", None)]
    elif backbone.config.model_type in ("convnext", "convnextv2"):
        norms = [backbone.layernorm]
    elif backbone.config.model_type == "clip_vision_model":
        norms = [getattr(backbone, "vision_model", backbone).post_layernorm]
    else:
        norms = []
    for norm in norms:
        if isinstance(norm, nn.LayerNorm):
            # Not through the module: that of a convolutional network expects the channels in another place.
            features = F.layer_norm(features, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return features


def _grid(num_locations: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of `num_locations` square cells that cover a (height, width) image."""
    rows = round(math.sqrt(num_locations * height / width))
    candidates = (rows, rows + 1, rows - 1) if height != width else (rows,) if rows * rows == num_locations else ()
    for candidate in candidates:
        if candidate > 0 and num_locations % candidate == 0:
            return candidate, num_locations // candidate
    raise ValueError(f"{num_locations} locations do not form a grid over a {height} x {width} image")
