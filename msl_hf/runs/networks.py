"""The network of a run, and its image processor: from a backbone, or from a trained model."""

import transformers
from huggingface_hub.errors import StrictDataclassError

from ..console.errors import RunError
from ..data.transforms import build_processor, input_size
from ..hub.convert import load_backbone_weights
from ..model import MSLForImageClassification
from ..training.parts import with_classes
from .arguments import ModelArguments


def load_trained(path: str):
    """(model, image processor) of a model folder or Hub id."""
    try:
        network = MSLForImageClassification.from_pretrained(path)
        processor = transformers.AutoImageProcessor.from_pretrained(path)
    except Exception as error:  # what a damaged config.json raises is as varied as the damage
        reason = error.__cause__ if isinstance(error, StrictDataclassError) else error
        raise RunError(f"{path}: is no model folder and no model of the Hub that can be loaded ({reason})") from error
    damaged = [name for name, values in network.state_dict().items() if not values.isfinite().all()]
    if damaged:
        raise RunError(f"{path}: {len(damaged)} of its weights hold values that are no numbers, such as {damaged[0]}; "
                       "it scores nothing. Take a checkpoint from before")  # fmt: skip
    return network, processor


def load_model(model: ModelArguments, label_names: list[str]):
    """(model, image processor): from a backbone with a new head, or from an MSL model."""
    if model.model and model.final_image_size is not None:
        raise RunError("--final_image_size makes a model of its size; it goes with --backbone, not with --model")
    if model.final_image_size is not None and model.image_size is None:
        raise RunError("--final_image_size is of the last epochs; say with --image_size what those before have")
    if model.model:
        network, processor = load_trained(model.model)
        input_size(processor)  # which a batch needs
        return with_classes(network, label_names, model.model), processor
    if model.backbone is None:
        raise RunError(
            "say which network to train: --backbone (a pretrained image backbone) or --model (an MSL model)"
        )
    network = MSLForImageClassification.from_backbone(
        model.backbone,
        label_names,
        head=model.head,
        num_heads=model.num_heads,
        csra_lambda=model.csra_lambda,
        image_size=model.final_image_size or model.image_size,
        output_stride=model.output_stride,
        pretrained=not model.from_scratch,
    )
    if model.backbone_weights is not None:
        load_backbone_weights(network.backbone, model.backbone_weights)
    processor = build_processor(
        None if model.from_scratch else model.backbone,
        network.config.image_height_width,
        model.image_mean,
        model.image_std,
        model.interpolation,
    )
    if model.final_image_size is not None:
        network.check_input_size(model.image_size, model.image_size)
    return network, processor
