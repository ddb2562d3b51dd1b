"""The one schema of all loaders, and turning its labels into targets.

Columns: `image`, `labels` and, where the data set has such, `ignored` (lists of class
indices), `image_id`, `objects` where there are boxes, and `crop` where a sample is a
part of its image.
"""

from collections.abc import Mapping, Sequence

import torch

IGNORED = -100.0  # target of an entry that counts neither as positive nor as negative


class DataError(ValueError):
    """Something is wrong with the user's data; the message names the file or value and the way out."""


def make_features(class_names: Sequence[str], ignored: bool = False, objects: bool = False, crop: bool = False):
    """`datasets.Features` of the schema; what a data set does not know about an object (`truncated`, ...) is None."""
    from datasets import ClassLabel, Features, List, Value
    from datasets import Image as ImageFeature

    label = ClassLabel(names=list(class_names))
    columns = {"image": ImageFeature(), "labels": List(label), "image_id": Value("string")}
    if ignored:
        columns["ignored"] = List(label)
    if objects:
        columns["objects"] = {
            "label": List(label),
            "bbox": List(List(Value("float32"), length=4)),
            "area": List(Value("float32")),
            "truncated": List(Value("bool")),
            "difficult": List(Value("bool")),
            "crowd": List(Value("bool")),
            "visible": List(Value("float32")),
        }
    if crop:
        columns["crop"] = List(Value("float32"), length=4)
    return Features(columns)


def is_schema(dataset) -> bool:
    """Whether a `datasets.Dataset` or stream has the columns of the schema, as the loaders here give them."""
    from datasets import Value

    features = dataset.features or {}
    own = make_features([])
    kinds = {name: type(features.get(name)) for name in own}
    if kinds != {name: type(feature) for name, feature in own.items()}:
        return False
    labels = features["labels"].feature
    return hasattr(labels, "names") and features["image_id"] == Value("string")


def class_names_of(dataset) -> list[str]:
    """The class names of a `datasets.Dataset` of the schema, in the order of their indices."""
    return list(dataset.features["labels"].feature.names)


def column(dataset, name: str) -> list:
    """The values of one column of a `datasets.Dataset`; unlike `dataset[:][name]` it decodes no image."""
    return dataset.with_format(None)[name][:]


def undecoded(dataset):
    """The data set or stream with `image` as {"path", "bytes"}, for `read_image`, whose errors name the file."""
    from datasets import Image as ImageFeature

    return dataset.with_format(None).cast_column("image", ImageFeature(decode=False))


def make_targets(rows: Sequence[Mapping], num_labels: int, ignored_as: str) -> torch.Tensor:
    """`labels` and, where there is one, `ignored` of every row -> (N, C) multi-hot targets.

    Args:
        rows: N mappings with lists of class indices.
        num_labels: C.
        ignored_as: `"negative"` (0) or `"ignore"` (-100).
    """
    targets = torch.zeros(len(rows), num_labels)
    for target, row in zip(targets, rows, strict=True):
        if ignored_as == "ignore":
            target[list(row.get("ignored") or [])] = IGNORED
        target[list(row["labels"])] = 1.0
    return targets


class MultiLabelCollator:
    """Items with label lists -> a batch with multi-hot targets.

    Args:
        num_labels: C.
        ignored_as: What an ignored label becomes: `"negative"` (0; how the reference trains) or `"ignore"` (-100; how
            everyone evaluates).

    Examples:
        >>> item = {"pixel_values": torch.zeros(3, 4, 4), "labels": [1], "ignored": [2]}
        >>> MultiLabelCollator(3, ignored_as="ignore")([item])["labels"]
        tensor([[   0.,    1., -100.]])
    """

    def __init__(self, num_labels: int, ignored_as: str = "negative"):
        if ignored_as not in ("negative", "ignore"):
            raise ValueError(f"ignored_as must be 'negative' or 'ignore', got {ignored_as!r}")
        self.num_labels, self.ignored_as = num_labels, ignored_as

    def __call__(self, items: Sequence[Mapping]) -> dict[str, torch.Tensor | list[str]]:
        """Returns float `labels` (B, C), `image_ids` where items have them, and what the network is to see.

        That is `pixel_values` (B, 3, H, W), or `features` (B, L, D) of a cache; either may have its masked copy beside
        it, `masked_pixel_values` or `masked_features`.
        """
        batch = {"labels": make_targets(items, self.num_labels, self.ignored_as)}
        for name in ("pixel_values", "masked_pixel_values", "features", "masked_features"):
            if name in items[0]:
                batch[name] = torch.stack([item[name] for item in items])
        if all(item.get("image_id") is not None for item in items):
            batch["image_ids"] = [item["image_id"] for item in items]
        return batch
