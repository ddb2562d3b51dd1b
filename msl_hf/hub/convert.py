"""Weights that others saved as `.pth` files: backbones, and whole models of the reference code."""

import math
import os
import re
from collections.abc import Sequence

import torch
from torch import nn
from transformers import ViTImageProcessor
from transformers.image_utils import PILImageResampling

from ..data.readers import coco, voc, wider
from ..model import MSLForImageClassification

CLASSES = {len(names): names for names in (voc.CLASSES, coco.CLASSES, wider.CLASSES)}
LAMBDAS = "VOC: ResNet 0.1, ViT 0.3; COCO: ResNet-101 0.5, CutMix ResNet-101 0.4, ViT 1.0; WIDER: ViT 0.3"
HEAD_KEY = re.compile(r"classifier\.multi_head\.(\d+)\.head\.weight")
CLASSIFIERS = ("fc", "head", "classifier")  # of the pretrained network; nothing reads them

RESNETS = {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101", (3, 8, 36, 3): "resnet152"}  # blocks of each stage
# By width, depth and patch.
VITS = {(192, 12, 16): "vit_tiny_patch16_224", (384, 12, 16): "vit_small_patch16_224",
        (768, 12, 16): "vit_base_patch16_224", (1024, 24, 16): "vit_large_patch16_224"}  # fmt: skip


def convert_checkpoint(
    path: str | os.PathLike,
    csra_lambda: float,
    label_names: Sequence[str] | None = None,
    image_size: int | None = None,
    image_mean: list[float] | None = None,
    image_std: list[float] | None = None,
) -> tuple[MSLForImageClassification, ViTImageProcessor]:
    """A model of the reference code of MSL or CSRA (ResNet or ViT, 1 to 8 heads) as one of this package.

    Network, number of heads and number of classes are read from the file.

    Args:
        path: The `.pth` file, with or without DataParallel's `module.` prefix; read with `weights_only=True`.
        csra_lambda: Weight of the residual attention that it was trained with, which the file does not hold.
        label_names: Class names in order; None takes those of VOC, COCO or WIDER-Attribute for 20, 80 or 14 classes.
        image_size: Side of the input in pixels; None takes 448 for a ResNet, and for a ViT what its position
            embeddings are made for.
        image_mean: Mean of the normalisation; None takes the reference's: 0 on VOC and COCO, 0.5 on WIDER-Attribute.
        image_std: Standard deviation, likewise: 1, and 0.5.

    Returns:
        The model in evaluation mode, and its image processor.

    Raises:
        OSError: where the file cannot be read.
        ValueError: naming the first keys that do not fit, or a value that is missing.
    """
    state = _read_state_dict(path)
    heads = sorted((int(match[1]), name) for name in state if (match := HEAD_KEY.fullmatch(name)))
    if [number for number, _ in heads] != list(range(len(heads))) or not heads:
        raise ValueError(f"{path}: holds no heads classifier.multi_head.0.head.weight, ...; it starts with "
                         f"{', '.join(list(state)[:5])}")  # fmt: skip
    shapes = {name: tuple(state[name].shape) for _, name in heads}
    if len(set(shapes.values())) != 1 or any(shape[2:] not in ((), (1, 1)) for shape in shapes.values()):
        raise ValueError(f"{path}: its heads have the shapes {shapes}; each must be [classes, features, 1, 1]")
    weight = torch.stack([state[name].flatten(1) for _, name in heads])
    architecture, own_size = _architecture(path, state)
    num_labels = weight.shape[1]
    if own_size and image_size not in (None, own_size):
        raise ValueError(f"{path}: its position embeddings are made for {own_size} pixels; convert it without "
                         f"--image_size {image_size}")  # fmt: skip
    if label_names is None and num_labels not in CLASSES:
        raise ValueError(f"{path}: has {num_labels} classes, which are not those of VOC, COCO or WIDER-Attribute; "
                         "give their names with --labels FILE")  # fmt: skip
    label_names = list(label_names or CLASSES[num_labels])
    if len(label_names) != num_labels:
        raise ValueError(f"{path}: has {num_labels} classes, but there are {len(label_names)} names")
    model = MSLForImageClassification.from_backbone(
        architecture,
        label_names,
        num_heads=len(heads),
        csra_lambda=csra_lambda,
        image_size=own_size or image_size or 448,
        pretrained=False,
    )
    if weight.shape[2] != model.head.weight.shape[2]:
        raise ValueError(f"{path}: its heads take {weight.shape[2]} features, {architecture} gives "
                         f"{model.head.weight.shape[2]}")  # fmt: skip
    _load_backbone(model.backbone.timm_model, state, path)
    model.head.weight.data.copy_(weight)
    gray = 0.5 if num_labels == len(wider.CLASSES) else None
    height, width = model.config.image_height_width
    processor = ViTImageProcessor(
        size={"height": height, "width": width},
        image_mean=image_mean or [gray or 0.0] * 3,
        image_std=image_std or [gray or 1.0] * 3,
        resample=PILImageResampling.BILINEAR,
    )
    return model.eval(), processor


def load_backbone_weights(backbone: nn.Module, path: str | os.PathLike) -> None:
    """Load a `.pth` state dict of a classification network into a timm backbone.

    Takes the file as torch saved it, or with the dictionary under `state_dict`, with or without DataParallel's
    `module.` prefix. The file's classifier (`fc.*`, `head.*`, `classifier.*`) is left out.

    Args:
        backbone: A `TimmWrapperModel`, for which the names are timm's (torchvision's, for a ResNet).
        path: The file, read with `weights_only=True`.

    Raises:
        OSError: where the file cannot be read.
        ValueError: naming the first keys that do not fit.
    """
    _load_backbone(backbone.timm_model, _read_state_dict(path), path)


def _read_state_dict(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise OSError(f"{path}: no such file of weights") from error
    except Exception as error:  # pickle, zip and torch errors have no common type
        raise OSError(f"{path}: cannot be read as a state dict of tensors ({error})") from error
    state = state.get("state_dict", state.get("model", state)) if isinstance(state, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"{path}: holds no state dict of tensors")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def _architecture(path: str | os.PathLike, state: dict[str, torch.Tensor]) -> tuple[str, int | None]:
    """timm's name of the network, and the input size that its position embeddings are made for."""

    def count(pattern: str) -> int:
        return len({match[1] for name in state if (match := re.match(pattern, name))})

    if "patch_embed.proj.weight" in state and "pos_embed" in state:
        width, _, patch, _ = state["patch_embed.proj.weight"].shape
        kind = (width, count(r"blocks\.(\d+)\."), patch)
        if kind in VITS:
            return VITS[kind], patch * math.isqrt(state["pos_embed"].shape[1] - 1)
        raise ValueError(f"{path}: a ViT of width {width}, depth {kind[1]} and patch {patch} is not known here")
    blocks = tuple(count(rf"layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
    if blocks in RESNETS and "layer1.0.conv3.weight" in state:
        return RESNETS[blocks], None
    raise ValueError(f"{path}: is neither a ResNet with bottleneck blocks nor a ViT; its first keys are "
                     f"{', '.join(list(state)[:5])}")  # fmt: skip


def _load_backbone(network: nn.Module, state: dict[str, torch.Tensor], path: str | os.PathLike) -> None:
    state = {name: value for name, value in state.items() if name.split(".")[0] not in CLASSIFIERS}
    expected = {name: value.shape for name, value in network.state_dict().items()}
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in expected]
    misfits = [name for name in state if name in expected and state[name].shape != expected[name]]
    for what, names in (("lacks", missing), ("holds unknown", unexpected), ("has other shapes for", misfits)):
        if names:
            raise ValueError(f"{path}: does not fit {type(network).__name__}: {what} {', '.join(names[:5])}"
                             f"{', ...' if len(names) > 5 else ''}")  # fmt: skip
    network.load_state_dict(state, strict=False)
