"""Which parts of a backbone come first: what freezing its first stages and smaller rates of early layers go by."""

import re
from collections.abc import Iterator

from timm.models import group_parameters
from torch import nn

from .adapters import is_head_parameter

NUMBERED = re.compile(r"(?:^|\.)(?:layers?|blocks?|stages|stage|block)\.(\d+)(?=\.)")  # as transformers names them


def layer_depths(backbone: nn.Module, stages: bool = False) -> dict[str, int]:
    """How deep each parameter of a backbone lies: 0 for the stem, such as patches and their embeddings, then counting.

    timm says so of its networks (`group_matcher`); those of transformers count their layers in the parameters' names.

    Args:
        backbone: A network of transformers, or of timm in its wrapper.
        stages: Count stages, each of several layers of one width; where there are none, as in ViTs, layers.

    Returns:
        Parameter name -> depth; what comes after the last layer is as deep as that.

    Raises:
        ValueError: where neither says.
    """
    network = getattr(backbone, "timm_model", None)
    if network is not None:
        depths = group_parameters(network, network.group_matcher(coarse=stages), reverse=True)
        names = [name for name, _ in network.named_parameters()]
        places = {f"timm_model.{name}": (depths.get(name, max(depths.values())),) for name in names}
    else:
        places, last = {}, None
        for name, _ in backbone.named_parameters():
            numbers = tuple(map(int, NUMBERED.findall(name)))[: 1 if stages else 2]
            last = numbers or last
            places[name] = numbers or last or (-1,)
        if last is None:
            raise ValueError(f"nothing says what the layers of a {type(backbone).__name__} are")
    first = 0 if network is not None or (-1,) in places.values() else 1  # without a stem of its own
    order = {place: number for number, place in enumerate(sorted(set(places.values())), first)}
    return {name: order[place] for name, place in places.items()}


def freeze_backbone(model: nn.Module, num_stages: int | None = None) -> None:
    """Take the gradient from the backbone of a model, or from its stem and its first stages.

    Args:
        model: A model whose parameters outside `head.` form the backbone.
        num_stages: So many; None freezes all of it.

    Raises:
        ValueError: where it has no more stages than that.
    """
    if num_stages is None:
        for name, parameter in model.named_parameters():
            if not is_head_parameter(name):
                parameter.requires_grad_(False)
        return
    backbone = getattr(model, "backbone", model)
    depths = layer_depths(backbone, stages=True)
    if num_stages >= max(depths.values()):
        raise ValueError(f"freeze_stages must lie below {max(depths.values())} for this backbone, got {num_stages}; "
                         "freeze_backbone freezes all of it")  # fmt: skip
    for name, parameter in backbone.named_parameters():
        if depths[name] <= num_stages:
            parameter.requires_grad_(False)


def frozen_parts(module: nn.Module) -> Iterator[nn.Module]:
    """The largest parts of a network that have parameters, all of them frozen."""
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        yield module
    else:
        for child in module.children():
            yield from frozen_parts(child)
