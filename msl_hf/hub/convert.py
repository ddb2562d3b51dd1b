"""Weights that others saved as `.pth` files."""

import os

import torch
from torch import nn


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
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise OSError(f"{path}: no such file of backbone weights") from error
    except Exception as error:  # pickle, zip and torch errors have no common type
        raise OSError(f"{path}: cannot be read as a state dict of tensors ({error})") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path}: holds no state dict of tensors")
    state = {name.removeprefix("module."): value for name, value in state.items()}
    state = {name: value for name, value in state.items() if name.split(".")[0] not in ("fc", "head", "classifier")}
    network = backbone.timm_model
    expected = {name: value.shape for name, value in network.state_dict().items()}
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in expected]
    misfits = [name for name in state if name in expected and state[name].shape != expected[name]]
    for what, names in (("lacks", missing), ("holds unknown", unexpected), ("has other shapes for", misfits)):
        if names:
            raise ValueError(f"{path}: does not fit {type(network).__name__}: {what} {', '.join(names[:5])}"
                             f"{', ...' if len(names) > 5 else ''}")  # fmt: skip
    network.load_state_dict(state, strict=False)
