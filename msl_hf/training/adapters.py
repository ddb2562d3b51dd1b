"""Low-rank adapters (LoRA) through PEFT: small trained matrices on a frozen backbone, under a head trained whole."""

import copy
import re
from typing import Any

from torch import nn

HEAD = "head"
NAMESAKE = re.compile(r"^backbone\..*head(\.|$)")  # what of a backbone is called so
WRAPPERS = ("module.", "base_model.model.")  # DistributedDataParallel, PEFT


def is_head_parameter(name: str) -> bool:
    """Whether a parameter of a model, wrapped or not, belongs to its head."""
    while (wrapper := next((prefix for prefix in WRAPPERS if name.startswith(prefix)), None)) is not None:
        name = name.removeprefix(wrapper)
    return name.startswith(f"{HEAD}.")


def low_rank_config(model: nn.Module, rank: int):
    """Adapters of this rank on every linear layer and every convolution of the backbone that is not depthwise.

    Layers that the head never reads are left out: their adapters would have no gradient.

    Args:
        model: An `MSLForImageClassification`, or another network whose head is called `head`.
        rank: Of the two matrices whose product is added to a weight; they count twice (`lora_alpha` is 2 * rank).

    Returns:
        `peft.LoraConfig`.
    """
    return _peft().LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_adaptable(model))


def _adaptable(model: nn.Module) -> list[str]:
    """The names of the layers that `low_rank_config` adapts."""
    config = getattr(model, "config", None)
    unused = {f"backbone.{name}" for name in getattr(config, "unused_parameters", ())}
    return [
        name
        for name, module in model.named_modules()
        if not name.startswith(f"{HEAD}.")
        and (isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1))
        and f"{name}.weight" not in unused
    ]


def add_adapters(model: nn.Module, config: Any) -> nn.Module:
    """The model as `peft.PeftModel`; whatever the configuration says, the head is trained and saved with it.

    Raises:
        ValueError: No layer is called as the configuration says, or it says nothing and PEFT does not know the
            network; the message names the layers that could be adapted.
    """
    config = copy.deepcopy(config)
    config.modules_to_save = sorted({HEAD, *(config.modules_to_save or ())})
    if getattr(config, "exclude_modules", "") is None:
        config.exclude_modules = [name for name, _ in model.named_modules() if NAMESAKE.search(name)] or None
    try:
        model = _peft().get_peft_model(model, config)
    except ValueError as error:
        kinds = dict.fromkeys(re.sub(r"\.\d+(?=\.)", ".N", name) for name in _adaptable(model))  # blocks are alike
        raise ValueError(
            f"{str(error).rstrip('.')}; layers that could be adapted: {', '.join(kinds) or 'none'}"
        ) from error
    freeze_namesakes(model)
    return model


def freeze_namesakes(model: nn.Module) -> None:
    """Freeze again what PEFT takes for the head, too: it goes by the ends of names, such as `conv_head`."""
    for name, parameter in model.named_parameters():
        if f"{HEAD}.modules_to_save." in name and not is_head_parameter(name):
            parameter.requires_grad_(False)


def has_adapters(model: nn.Module) -> bool:
    """Whether this is a `peft.PeftModel`."""
    return hasattr(model, "merge_and_unload")


def merged(model: nn.Module) -> nn.Module:
    """A model that loads by its class alone: adapters added to the weights of a copy; one without adapters itself."""
    return copy.deepcopy(model).merge_and_unload() if has_adapters(model) else model


def _peft():
    try:
        import peft
    except ImportError as error:
        raise ImportError("low-rank adapters need PEFT: pip install 'msl_hf[peft]'") from error
    return peft
