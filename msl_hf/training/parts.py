"""What `MSLTrainer` makes where it is not given: model, image processor, batches, metrics."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoImageProcessor, PreTrainedModel

from ..data.files import listed
from ..data.schema import class_names_of, column, is_schema
from ..data.transforms import ImageDataset, StreamedImages, build_processor
from ..model import MSLConfig, MSLForImageClassification


def has_images(dataset) -> bool:
    """Whether a data set holds images and labels as `datasets` stores them, of which batches are yet to be made.

    One with a transform of its own (`with_transform`) makes what its user wants.
    """
    datasets = sys.modules.get("datasets")
    if datasets is None or not isinstance(dataset, datasets.Dataset | datasets.IterableDataset):
        return False
    if isinstance(dataset, datasets.Dataset) and dataset.format["type"] == "custom":
        return False
    features = dataset.features or (dataset._resolve_features().features if not hasattr(dataset, "__len__") else {})
    return any(isinstance(feature, datasets.Image) for feature in features.values())


def in_schema(
    datasets: Mapping[str, Any], class_names: Sequence[str] | None = None, otherwise: Sequence[str] | None = None
) -> dict:
    """Data sets with images, by name, with the columns of the schema and one list of classes.

    Args:
        datasets: Those that `load_image_folder` and the like give are left as they are; labels of others may be
            written in any of the ways that `load_images` reads.
        class_names: The classes in order; None takes those that the features of the data hold.
        otherwise: The classes where they hold none; None takes all names in the data, sorted.

    Raises:
        DataError: where the labels cannot be read.
        ValueError: where the data sets have different classes, or others than `class_names`.
    """
    if not datasets:
        return {}
    from ..data.readers.hub import as_schema
    from ..data.readers.hub_labels import stored_class_names

    result, foreign = {}, {True: {}, False: {}}  # streams, and data sets
    for name, dataset in datasets.items():
        if is_schema(dataset):
            result[name] = dataset
        else:
            is_stream = not hasattr(dataset, "__len__")
            foreign[is_stream][name] = dataset._resolve_features() if is_stream else dataset
    stored = {name: class_names_of(dataset) for name, dataset in result.items()}
    for name, dataset in (*foreign[True].items(), *foreign[False].items()):
        if (names := stored_class_names(dataset.features)) is not None:
            stored[name] = names
    class_names = class_names or next(iter(stored.values()), otherwise)
    for name, found in stored.items():
        if list(found) != list(class_names):
            raise ValueError(f"{name} has the classes {listed(found)}, and not {listed(class_names)} in this order; "
                             "read all splits with one list of classes (class_names)")  # fmt: skip
    for group in filter(None, foreign.values()):
        result.update(as_schema("the data set", group, class_names=class_names))
    return {name: result[name] for name in datasets}


def make_images(dataset, processor, augment: bool = False, seed: int = 0) -> ImageDataset | StreamedImages:
    """A data set of the schema, or a stream of such, as the images of a run."""
    kind = ImageDataset if hasattr(dataset, "__len__") else StreamedImages
    return kind(dataset, processor, augment=augment, seed=seed, normalize=False)


def make_model(model: str | os.PathLike | nn.Module, class_names: Sequence[str] | None, seed: int, **kwargs):
    """The model that a name, a folder, a backbone or a model stands for.

    Args:
        model: Hub id or folder of an MSL model or of a backbone, a backbone, or any network with `logits`, which is
            returned as it is.
        class_names: Of the data; None where they hold none.
        seed: Of the head's fresh weights.
        **kwargs: For `MSLForImageClassification.from_backbone`, or `from_pretrained` for an MSL model.

    Raises:
        ValueError: where there are no class names, or a model has other classes than the data.
    """
    is_name = isinstance(model, str | os.PathLike)
    if is_name and _is_msl(model):
        network = MSLForImageClassification.from_pretrained(model, **kwargs)
        return network if class_names is None else with_classes(network, list(class_names), str(model))
    if not is_name and not _is_backbone(model):
        if kwargs:
            raise ValueError(f"model_init_kwargs ({', '.join(kwargs)}) say how a model is made of its name or of a "
                             "backbone, and the model is made already")  # fmt: skip
        if class_names is not None and isinstance(model, MSLForImageClassification):
            own = classes_of(model)
            if own != list(class_names):
                raise ValueError(f"the model has the classes {listed(own)}, the data {listed(class_names)}; give it "
                                 "those of the data, with model.replace_head(class_names)")  # fmt: skip
        return model
    kwargs.setdefault("label_names", class_names)
    if kwargs["label_names"] is None:
        raise ValueError("the data hold no class names for a new head; pass them: "
                         "MSLTrainingArguments(model_init_kwargs={'label_names': [...]})")  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MSLForImageClassification.from_backbone(model, **kwargs)


def classes_of(network: MSLForImageClassification) -> list[str]:
    """The class names of a model, in order."""
    return [network.config.id2label[index] for index in range(network.config.num_labels)]


def with_classes(network: MSLForImageClassification, class_names: list[str], name: str) -> MSLForImageClassification:
    """The trained model with the classes of the data; where they are others, the head is replaced, and said so."""
    own = classes_of(network)
    if own != class_names:
        new = network.replace_head(class_names)
        known = [label for label in class_names if label not in new]
        gone = [label for label in own if label not in class_names]
        print(f"{name}: its head is replaced by one for {len(class_names)} classes. "
              f"Known, with their trained weights: {listed(known) or 'none'}. New: {listed(new) or 'none'}. "
              f"Left out: {listed(gone) or 'none'}")  # fmt: skip
    return network


def make_processor(model: nn.Module, source: str | os.PathLike | None):
    """The image processor of a model: its own, or one for its backbone's mean, deviation and the model's size.

    Args:
        model: That was made, or given.
        source: The name or folder that it was made of; None where a model was given.

    Raises:
        ValueError: where nothing says which one it is.
    """
    is_msl = isinstance(model, MSLForImageClassification)
    backbone = getattr(getattr(model, "config", None), "backbone_config", None)
    own = source if source is not None else getattr(model, "name_or_path", None)
    if is_msl and source is not None and not _is_msl(source):
        return build_processor(source, model.config.image_height_width)
    for name in filter(None, (own, getattr(backbone, "name_or_path", None))):
        try:
            processor = AutoImageProcessor.from_pretrained(name)
        except (OSError, ValueError):
            continue
        is_own = name == own and (not is_msl or _is_msl(name))
        return processor if is_own else build_processor(name, model.config.image_height_width)
    raise ValueError("nothing says how images are normalised for this model: pass its image processor as "
                     "processing_class (msl_hf.data.build_processor makes one)")  # fmt: skip


def _is_msl(name: str | os.PathLike) -> bool:
    try:
        return isinstance(AutoConfig.from_pretrained(name), MSLConfig)
    except (OSError, ValueError):  # the bare name of an architecture, or what loading the backbone will explain
        return False


def _is_backbone(model: nn.Module) -> bool:
    """Whether a network gives features instead of logits, as `AutoModel` does."""
    config = type(getattr(model, "config", None))
    if isinstance(model, MSLForImageClassification):  # which AutoModel loads, too
        return False
    return isinstance(model, PreTrainedModel) and config in MODEL_MAPPING and isinstance(model, MODEL_MAPPING[config])


def choose_ignored_as(given: str | None, train, classification_loss: str) -> str:
    """What an unknown label is in training: what was given, else what suits loss and data, which is printed.

    Args:
        given: `"negative"`, `"ignore"` or None.
        train: The training images, a data set or stream of the schema.
        classification_loss: `ll_r` and `splc` judge assumed negatives; the others learn from what is known.
    """
    is_stream = not hasattr(train, "__len__")
    unknown = [] if is_stream or "ignored" not in train.features else column(train, "ignored")
    if "ignored" not in train.features or not (is_stream or any(unknown)):
        return given or "negative"
    chosen = given or ("negative" if classification_loss in ("ll_r", "splc") else "ignore")
    known = [*map(len, column(train, "labels")), *map(len, unknown)] if not is_stream else [0]
    if given is None and chosen == "ignore" and sum(known) == len(unknown) * len(class_names_of(train)) > 0:
        print("No label is known to be absent in any image: what is known alone would teach that all are present")
        chosen = "negative"
    means = {"negative": "count as negative", "ignore": "are left out of the loss"}[chosen]
    print(f"Unknown labels {means} in training (--ignored_as {chosen})")
    return chosen
