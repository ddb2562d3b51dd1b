"""The splits of a run: which they are, their images checked, their labels and the weights of these."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..console.errors import RunError
from ..console.files import read_json
from ..data.files import split_name
from ..data.images import check_images, image_files
from ..data.schema import class_names_of, column, make_targets
from ..training.losses import balanced_pos_weight
from .arguments import DataArguments

if TYPE_CHECKING:  # predictions of image files work without it
    from datasets import Dataset, IterableDataset


@dataclass
class Splits:
    """The splits of a run; `selection` and `test` are None where there is none. `names` is what the data call them."""

    train: Dataset | IterableDataset
    selection: Dataset | None
    test: Dataset | None
    names: dict[str, str | None]


def prepare_splits(datasets: Mapping[str, Dataset], data: DataArguments, progress: bool) -> Splits:
    """Choose the splits, hold out a validation split if asked to, and check every image.

    Args:
        datasets: The `DatasetDict` of the schema.
        data: Which splits, and how much of them.
        progress: Show a progress bar while images are checked.

    Raises:
        RunError: for a split that does not exist, is empty, or shares images with the training split.
        DataError: listing all images that cannot be decoded.
    """
    from datasets import IterableDataset

    if data.drop_bad_images and not data.check_images:
        raise RunError("--drop_bad_images leaves out what the check of all images finds; do not turn it off")
    selection = None if data.selection_split == "none" else data.selection_split
    held_out = _called(datasets, "validation")
    if data.validation_fraction and held_out is not None and selection is None:
        print(f"The data have a split {held_out!r} to select by; --validation_fraction holds nothing out")
        selection = held_out
    whole = "trainval" if "trainval" in datasets and selection is None else "train"
    train = find_split(datasets, data.train_split or whole)
    is_stream = isinstance(datasets[train], IterableDataset)
    if data.validation_fraction and held_out is None:
        if is_stream:
            raise RunError("--validation_fraction cannot hold out a share of a stream; name a split to select by")
        parts = datasets[train].train_test_split(data.validation_fraction, seed=0)
        datasets = {**datasets, train: parts["train"], "validation": parts["test"]}
        selection = selection or "validation"
    names = {
        "train": train,
        "selection": None if selection is None else find_split(datasets, selection),
        "test": test_split_of(datasets, train),
    }
    chosen: dict[str, Dataset | None] = {}
    for role, name in names.items():
        limit = data.max_train_samples if role == "train" else data.max_eval_samples
        if name is None:
            chosen[role] = None
        elif role == "train" and is_stream:
            chosen[role] = datasets[name] if limit is None else datasets[name].take(limit)
        else:
            dataset = _downloaded(datasets[name], limit) if is_stream else datasets[name]
            chosen[role] = check_split(dataset, name, limit, data.drop_bad_images, progress, data.check_images)
    if is_stream:
        return Splits(**chosen, names=names)
    others = [role for role in ("selection", "test") if chosen[role] is not None]
    if others:
        trained = image_files(chosen["train"], data.check_images)
    for role in others:
        both = image_files(chosen[role], data.check_images).keys() & trained
        if both:
            raise RunError(f"{len(both)} images of split {names[role]!r} are trained on as part of split "
                           f"{train!r}, such as {trained[min(both)]}; choose another split")  # fmt: skip
    return Splits(**chosen, names=names)


def find_split(datasets: Mapping[str, Dataset], name: str) -> str:
    """The split of that name; val, valid, dev, eval and validation are synonyms, in whatever case."""
    if name in datasets:
        return name
    found = _called(datasets, split_name(name))
    if found is None:
        raise RunError(f"there is no split {name!r}; the data have {', '.join(datasets)}")
    return found


def test_split_of(datasets: Mapping[str, Dataset], train: str | None = None) -> str | None:
    """The split to measure on in the end: test, else validation; None where all there is is trained on."""
    others = [name for name in datasets if name != train]
    return _called(others, "test") or _called(others, "validation")


def _called(datasets: Iterable[str], split: str | None) -> str | None:
    """The split that is called so, in one of the ways of `data.files.SPLIT_NAMES`."""
    return next((name for name in datasets if split is not None and split_name(name) == split), None)


def _downloaded(stream: IterableDataset, limit: int | None) -> Dataset:
    """The first rows of a stream (all without a limit) as a data set, for evaluation."""
    from datasets import Dataset

    rows = list(itertools.islice(stream, limit))
    return Dataset.from_list(rows, features=stream.features)


def check_split(
    dataset: Dataset, name: str, limit: int | None, drop_bad_images: bool, progress: bool, decode: bool = True
) -> Dataset:
    """A split, or a random part of it, without broken images; classes without a positive are named."""
    if limit is not None and limit < len(dataset):
        dataset = dataset.shuffle(seed=0).select(range(limit))
    if decode:
        dataset, dropped = check_images(dataset, drop=drop_bad_images, progress=progress)
        for message in dropped:
            print(f"Left out: {message}")
    if len(dataset) == 0:
        raise RunError(f"split {name!r} holds no images")
    counts = np.zeros(len(class_names_of(dataset)), dtype=int)
    for labels in column(dataset, "labels"):
        counts[labels] += 1
    if not counts.any():
        raise RunError(f"no image of split {name!r} shows any of its {len(counts)} classes")
    empty = [label for label, count in zip(class_names_of(dataset), counts, strict=True) if count == 0]
    if empty:
        print(f"Warning: no image of split {name!r} shows {', '.join(empty)}; left out of its mAP")
    return dataset


def hide_labels(train: Dataset, share: float, seed: int) -> Dataset:
    """The training images with every entry, present or absent, unknown with probability `share`.

    Args:
        train: A data set of the schema.
        share: In [0, 1).
        seed: What is hidden of row i depends on the seed and i alone.
    """
    from datasets import IterableDataset

    if isinstance(train, IterableDataset):
        raise RunError("--hidden_labels draws what to hide for each row, which a stream does not number; leave it out")
    features = train.features["labels"]
    count, columns = len(features.feature.names), {"labels": [], "ignored": []}
    unknown = column(train, "ignored") if "ignored" in train.features else [[]] * len(train)
    for index, (labels, ignored) in enumerate(zip(column(train, "labels"), unknown, strict=True)):
        hidden = set(np.flatnonzero(np.random.default_rng([seed, index]).random(count) < share).tolist())
        columns["labels"].append(sorted(set(labels) - hidden))
        columns["ignored"].append(sorted(set(ignored) | hidden))
    train = train.remove_columns([name for name in columns if name in train.features])
    for name, values in columns.items():
        train = train.add_column(name, values, feature=features)
    return train


def load_pos_weight(source: str, train: Dataset, ignored_as: str) -> list[float] | None:
    """The factors that `--pos_weight` asks for, in the order of the classes; None without any.

    Args:
        source: `none`, `balanced`, or a JSON file with a list of factors or a dictionary from class names to them.
        train: The training images, whose labels `balanced` counts.
        ignored_as: What an ignored label is in training.
    """
    from datasets import IterableDataset

    if source == "none":
        return None
    names = class_names_of(train)
    if source == "balanced":
        if isinstance(train, IterableDataset):
            raise RunError("--pos_weight balanced counts the training labels, which a stream does not allow; "
                           "pass a file of weights")  # fmt: skip
        used = [name for name in ("labels", "ignored") if name in train.features]
        rows = train.with_format(None).select_columns(used)
        return balanced_pos_weight(make_targets(list(rows), len(names), ignored_as)).tolist()
    weights = read_json(Path(source), (dict, list))
    if isinstance(weights, dict):
        if set(weights) != set(names):
            differing = sorted(set(weights) ^ set(names))
            raise RunError(f"{source}: its names are not the {len(names)} classes of the data ({differing[0]!r}, ...)")
        weights = [weights[name] for name in names]
    if not isinstance(weights, list) or not all(isinstance(weight, int | float) for weight in weights):
        raise RunError(f"{source}: must hold a list of {len(names)} numbers, or a number under each class name")
    if len(weights) != len(names):
        raise RunError(f"{source}: holds {len(weights)} weights for {len(names)} classes")
    return weights
