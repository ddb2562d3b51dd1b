"""Local features of a frozen backbone, computed once and kept: the head then trains on them for as long as wanted.

A training image is cached in several views, each as an epoch without a cache would show it, and under a mask where the
loss has a masked branch. Epoch e then trains on view e modulo their number.
"""

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..data.transforms import ImageDataset, input_size, normalized
from ..evaluation.robustness import MaskedDataset
from ..masks import MaskBank, counter_generator

BLOCK = 64  # images in a file
DTYPES = {"float16": np.float16, "bfloat16": np.uint16, "float32": np.float32}  # and how numpy holds them
ABOUT = "about.json"


class View(Dataset):
    """One view of every image, normalised: as an epoch would show it, or under a mask.

    Args:
        images: The training images.
        number: Of the view; the epoch whose augmentation it has.
        masks: `MaskBank` to draw masks from, by seed, view and image alone; None leaves images whole.
        mask_fill: What is seen where pixels are removed, as for `apply_mask`; another image is one of the data set.
        mask_keep_value: Factor on kept pixels.
        probability: With which an image is masked.
    """

    def __init__(
        self,
        images: ImageDataset,
        number: int,
        masks: MaskBank | None = None,
        mask_fill: str = "black",
        mask_keep_value: float = 1.0,
        probability: float = 1.0,
    ):
        self.number, self.masks, self.mask_fill, self.mask_keep_value = number, masks, mask_fill, mask_keep_value
        self.images = copy.copy(images)
        self.images._epoch = torch.tensor(number)  # of its own
        self.statistics = images.processor.image_mean, images.processor.image_std
        self.seed = int(np.random.SeedSequence([images.seed, number]).generate_state(1)[0])
        self.probability, self.masked = probability, None
        if masks is not None:
            self.masked = MaskedDataset(self.images, masks, *self.statistics, self.seed, mask_fill, mask_keep_value)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        is_masked = self.masked is not None and (
            self.probability == 1 or torch.rand(1, generator=counter_generator(self.seed, index, 1)) < self.probability
        )
        item = (self.masked if is_masked else self.images)[index]
        return normalized(item["pixel_values"], *self.statistics)

    def made_of(self) -> dict:
        """What its pixels depend on, beside the images."""
        images = self.images
        about = {"view": self.number, "processor": images.processor.to_dict(), "augment": images.augment}
        if images.augment:
            about |= {"crop_scale": images.crop_scale, "seed": images.seed}
        if self.masks is not None:
            about |= {"masks": masks_fingerprint(self.masks), "mask_fill": self.mask_fill, "seed": images.seed,
                      "mask_keep_value": self.mask_keep_value, "mask_probability": self.probability}  # fmt: skip
        return about


class ViewDataset(Dataset):
    """Labels and, of the view whose turn it is, what the branches of the loss see.

    Args:
        images: The training images.
        branches: Name of what a branch sees, such as `pixel_values` and `masked_pixel_values`, or `features` and
            `masked_features` -> for each view what gives it by index.
    """

    def __init__(self, images: ImageDataset, branches: Mapping[str, Sequence]):
        known = [name for name in ("labels", "ignored", "image_id") if name in images.dataset.features]
        self.rows, self.branches = images.dataset.select_columns(known), dict(branches)
        self.num_views = len(next(iter(self.branches.values())))
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Show the view of this epoch from now on."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        view = int(self._epoch) % self.num_views
        return {**self.rows[index], **{name: views[view][index] for name, views in self.branches.items()}}


class FeatureFiles:
    """(N, L, D) features in memory-mapped files of BLOCK images, written one after the other by several processes.

    Args:
        folder: Where they lie.
        made_of: What they depend on, as texts and numbers; kept beside them.
        shape: (N, L, D).
        dtype: Of the files: float16, bfloat16 or float32.

    Raises:
        ValueError: where the folder holds features that were made of something else, naming what differs.
    """

    def __init__(self, folder: str | os.PathLike, made_of: Mapping, shape: tuple[int, int, int], dtype: str):
        self.folder, self.shape, self.dtype = Path(folder), tuple(shape), dtype
        self._open: dict[int, np.ndarray] = {}
        about = json.loads(json.dumps({**made_of, "shape": self.shape, "dtype": dtype}))
        file = self.folder / ABOUT
        if file.is_file():
            found = json.loads(file.read_text())
            different = [name for name in about | found if about.get(name) != found.get(name)]
            if different:
                lines = "; ".join(f"{name} is {_short(found.get(name))} there and {_short(about.get(name))} here"
                                  for name in different)  # fmt: skip
                raise ValueError(f"{self.folder}: holds features of another run: {lines}. Give this one a folder of "
                                 "its own with --feature_dir, or remove that one")  # fmt: skip
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            _replace(file, json.dumps(about, indent=1).encode())

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> torch.Tensor:
        """(L, D) float32 features of an image."""
        block, row = divmod(index, BLOCK)
        if block not in self._open:
            self._open[block] = np.load(self._file(block), mmap_mode="r")
        values = torch.from_numpy(self._open[block][row].copy())
        return (values.view(torch.bfloat16) if self.dtype == "bfloat16" else values).float()

    def missing(self) -> list[range]:
        """The images of each file that is not there yet."""
        starts = range(0, len(self), BLOCK)
        return [
            range(start, min(start + BLOCK, len(self))) for start in starts if not self._file(start // BLOCK).exists()
        ]

    def num_bytes(self, images: int) -> int:
        """That so many images take."""
        return images * self.shape[1] * self.shape[2] * np.dtype(DTYPES[self.dtype]).itemsize

    def write(self, rows: range, features: torch.Tensor) -> None:
        """Write the file of these images, whole or not at all.

        Raises:
            ValueError: where values do not fit into the type of the files.
        """
        stored = features.detach().to("cpu", getattr(torch, self.dtype)).contiguous()
        if not stored.isfinite().all():
            raise ValueError(f"features of the backbone do not fit into {self.dtype}; take --feature_dtype bfloat16")
        values = stored.view(torch.uint16).numpy() if self.dtype == "bfloat16" else stored.numpy()
        file = self._file(rows.start // BLOCK)
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        with open(temporary, "wb") as stream:
            np.save(stream, values)
        os.replace(temporary, file)

    def _file(self, block: int) -> Path:
        return self.folder / f"{block:06d}.npy"

    def __getstate__(self) -> dict:
        return {**vars(self), "_open": {}}  # maps do not travel to workers: they would arrive as copies


def open_files(
    model, branches: Mapping[str, Sequence[View]], folder: Path, name: str, dtype: str, precision: str
) -> dict[str, list[FeatureFiles]]:
    """Files for the features of views, which may be there already.

    Args:
        model: The `MSLForImageClassification`, on its device.
        branches: Name of what a branch of the loss sees -> its views.
        folder: In which each view gets a folder.
        name: What their names begin with.
        dtype: Of the files.
        precision: That features are computed with.

    Raises:
        ValueError: where features of something else lie there, naming what differs.
    """
    first = next(iter(branches.values()))[0].images
    with torch.no_grad():
        shape = model.local_features(torch.zeros(1, 3, *input_size(first.processor), device=model.device)).shape[1:]
    weights = model.backbone.state_dict()
    common = {
        "backbone": fingerprint(*(part for key in sorted(weights) for part in (key, weights[key]))),
        "precision": precision,
        "images": images_fingerprint(first),
    }
    return {
        branch: [
            FeatureFiles(
                folder / f"{name}-{branch}-{number}", {**common, **view.made_of()}, (len(view), *shape), dtype
            )
            for number, view in enumerate(views)
        ]
        for branch, views in branches.items()
    }


def check_space(files: Sequence[FeatureFiles], title: str) -> None:
    """Say how much will be written, and refuse what the disk does not hold.

    Raises:
        ValueError: naming what is needed and what is free.
    """
    needed = sum(file.num_bytes(sum(map(len, file.missing()))) for file in files)
    if not needed:
        return
    images, locations, size = files[0].shape
    print(f"{title}: {len(files)} x {images} images x {locations} locations x {size} features in {files[0].dtype}, "
          f"{needed / 1e6:,.0f} MB to write in {files[0].folder.parent}")  # fmt: skip
    free = shutil.disk_usage(files[0].folder).free
    if needed > free:
        raise ValueError(f"{files[0].folder.parent}: the features take {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} "
                         "MB are free; take fewer --cached_views, a smaller --image_size, or another "
                         "--feature_dir")  # fmt: skip


def batches_of(views: Dataset, blocks: Sequence[range], num_workers: int) -> Iterator[tuple[range, torch.Tensor]]:
    """The images of each block, with the block."""
    loader = DataLoader(views, batch_sampler=[list(block) for block in blocks], num_workers=num_workers)
    yield from zip(blocks, loader, strict=True)


def fingerprint(*parts: bytes | str | torch.Tensor) -> str:
    """A short hash of values, in their order."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            part = part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
        total.update(part.encode() if isinstance(part, str) else part)
        total.update(b"|")
    return total.hexdigest()[:16]


def masks_fingerprint(masks: MaskBank) -> str:
    """Of the hole ratios of all masks, and of what is drawn from them."""
    drawn = masks.sample(64, (64, 64), generator=counter_generator(0))
    return fingerprint(type(masks).__name__, masks.hole_ratios, drawn)


def images_fingerprint(images: ImageDataset) -> str:
    """Of which images they are: of their names and sizes where they are files, of their bytes where they are not."""
    parts = []
    for row in images.dataset.select_columns([name for name in ("image", "crop") if name in images.dataset.features]):
        path, content = row["image"]["path"], row["image"]["bytes"]
        if content is None:
            size = os.path.getsize(path) if os.path.isfile(path) else "in an archive"
            content = f"{os.path.basename(path)} {size}"
        parts += [content, str(row.get("crop"))]
    return fingerprint(*parts)


def _short(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _replace(file: Path, content: bytes) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, file)
