"""Images -> pixel values: random crops and flips in training, the image processor itself in evaluation."""

import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from inspect import signature

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, get_worker_info
from torchvision.transforms.v2 import functional as tv
from transformers import AutoImageProcessor, ViTImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling
from transformers.utils import logging

from .images import read_image
from .schema import DataError, undecoded

logger = logging.get_logger(__name__)

CROP_SCALE = (0.7, 1.0)  # share of the image's area that a training crop covers
CROP_RATIO = (3 / 4, 4 / 3)  # width / height of a training crop
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "nearest")


def build_processor(
    backbone: str | os.PathLike | None,
    image_size: int | tuple[int, int],
    image_mean: list[float] | None = None,
    image_std: list[float] | None = None,
    interpolation: str | None = None,
) -> ViTImageProcessor:
    """The image processor of a model: squash-resize to the input size, then the backbone's own normalisation.

    Args:
        backbone: Hub id or folder whose mean, standard deviation and interpolation are taken; None, or a backbone
            without any, gives ImageNet's mean and standard deviation and bicubic interpolation.
        image_size: Side or (H, W) in pixels.
        image_mean: Overrides the mean, in [0, 1] units. The reference uses `[0, 0, 0]` on VOC and COCO.
        image_std: Overrides the standard deviation. The reference uses `[1, 1, 1]` on VOC and COCO.
        interpolation: Overrides the interpolation, in training and evaluation: `"bilinear"` (the reference),
            `"bicubic"`, `"lanczos"` or `"nearest"`.

    Raises:
        ValueError: for another interpolation.
    """
    if interpolation is not None and interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {interpolation!r}")
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    mean, std, resample = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling.BICUBIC
    if backbone is not None:
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # which of its image libraries timm falls back to is of no interest here
        try:
            source = AutoImageProcessor.from_pretrained(backbone)
        except (OSError, ValueError):  # a backbone without a processor
            source = None
        finally:
            logging.set_verbosity(verbosity)
        if hasattr(source, "data_config"):  # timm
            mean, std = source.data_config["mean"], source.data_config["std"]
            resample = PILImageResampling[source.data_config["interpolation"].upper()]
        elif source is not None and getattr(source, "image_mean", None) is not None:
            mean, std, resample = source.image_mean, source.image_std, source.resample
    if interpolation is not None:
        resample = PILImageResampling[interpolation.upper()]
    return ViTImageProcessor(
        size={"height": height, "width": width},
        image_mean=list(image_mean or mean),
        image_std=list(image_std or std),
        resample=resample,
    )


def input_size(processor) -> tuple[int, int]:
    """(height, width) in pixels of what an image processor makes of every image.

    Raises:
        ValueError: where it makes images of several sizes, which no batch holds.
    """
    does = {name: getattr(processor, f"do_{name}", False) for name in ("center_crop", "resize")}
    size = processor.crop_size if does["center_crop"] else processor.size if does["resize"] else {}
    if not (size.get("height") or 0) > 0 or not (size.get("width") or 0) > 0:
        how = f"resizes to {dict(size)}" if size else "does not resize"
        raise ValueError(f"the image processor {how}, so that images keep different sizes; give it a size of height "
                         "and width in preprocessor_config.json")  # fmt: skip
    return size["height"], size["width"]


def resized(image: Image.Image, processor, size: dict[str, int] | None = None) -> torch.Tensor:
    """(3, H, W) uint8: what the image processor makes of an image before it normalises; `normalized` does the rest.

    Of a processor that does something else than scale by 1/255 and normalise: its float pixel values, which
    `normalized` leaves alone.

    Args:
        image: The image.
        processor: The image processor.
        size: `height` and `width` in pixels to resize to; None is the processor's own size.
    """
    options = {"return_tensors": "pt"} if size is None else {"return_tensors": "pt", "size": size}
    if _ends_with_normalisation(processor):
        pixels = processor(image, do_rescale=False, do_normalize=False, **options)["pixel_values"][0]
        if pixels.dtype == torch.uint8:
            return pixels
    return processor(image, **options)["pixel_values"][0]


def resize_by(processor) -> Callable[[Image.Image, int | None], torch.Tensor]:
    """What makes `resized` pixels of an image, in the processor's own size or with another height."""

    def resize(image: Image.Image, side: int | None) -> torch.Tensor:
        if side is None:
            return resized(image, processor)
        height, width = input_size(processor)
        return resized(image, processor, {"height": side, "width": round(side * width / height)})

    return resize


def _ends_with_normalisation(processor) -> bool:
    does = all(getattr(processor, name, False) for name in ("do_rescale", "do_normalize"))
    return does and math.isclose(processor.rescale_factor, 1 / 255) and len(processor.image_mean) == 3


def normalized(
    pixel_values: torch.Tensor, image_mean: Sequence[float] | None, image_std: Sequence[float] | None
) -> torch.Tensor:
    """(..., 3, H, W) uint8 pixels -> float32 `(pixels / 255 - image_mean) / image_std`, on their device.

    Floating-point pixel values are normalised already, and returned as they are.

    Raises:
        ValueError: for uint8 pixels without mean and standard deviation.
    """
    if pixel_values.dtype != torch.uint8:
        return pixel_values
    if image_mean is None or image_std is None:
        raise ValueError("pixel_values are uint8, and nothing says how they are normalised: pass the image processor "
                         "(processing_class), or give normalised floating-point images")  # fmt: skip
    # In place: torchvision's two functions make four copies of the image.
    mean, std = (torch.tensor(list(values)).view(3, 1, 1) for values in (image_mean, image_std))
    scale, offset = (values.to(pixel_values.device, non_blocking=True) for values in (1 / (255 * std), mean / std))
    return pixel_values.float().mul_(scale).sub_(offset)


class ImageDataset(Dataset):
    """Rows of the schema, decoded and transformed when they are read.

    The augmentation of a sample is a function of (seed, epoch, index): the same in every worker, in a resumed run, and
    in the plain and the MSL run that are compared.

    Args:
        dataset: A `datasets.Dataset` of the schema.
        processor: The model's image processor; in evaluation it makes the pixel values.
        augment: Horizontal flip and a random crop, for training.
        crop_scale: Least and largest share of the area that a training crop covers; (1, 1) only flips (WIDER).
        seed: Seed of the augmentation.
        normalize: False leaves `pixel_values` in uint8, a quarter of the memory on their way to the device, where
            `MSLTrainer` normalises them.
        first_size: (height, width) of augmented images in the first epochs, instead of the processor's own size.
        first_epochs: So many epochs.
    """

    def __init__(
        self,
        dataset,
        processor: ViTImageProcessor,
        augment: bool = False,
        crop_scale: tuple[float, float] = CROP_SCALE,
        seed: int = 0,
        normalize: bool = True,
        first_size: tuple[int, int] | None = None,
        first_epochs: int = 0,
    ):
        self.dataset = undecoded(dataset)
        self.first_size, self.first_epochs = first_size, first_epochs
        self.processor, self.augment, self.crop_scale, self.seed = processor, augment, tuple(crop_scale), seed
        self.normalize = normalize
        # In shared memory, so that workers that already run see the epoch change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Draw the augmentation of this epoch from now on."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        return self.transform(self.dataset[index], index)

    def transform(self, row: dict, index: int) -> dict:
        """An undecoded row and its index -> `pixel_values` (3, H, W), `labels`, `ignored`, `image_id`."""
        if self.augment:
            # No side of a crop is shorter than this share of the image's shorter one: a larger image is not decoded.
            share = math.sqrt(self.crop_scale[0] * CROP_RATIO[0])
            epoch = int(self._epoch)
            size = self.first_size if epoch < self.first_epochs else input_size(self.processor)
            side = math.ceil(max(size) / share)
            image = read_image(row, (side, side))
            rng = np.random.default_rng([self.seed, epoch, index])
            pixel_values = augmented_pixels(image, self.processor, rng, self.crop_scale, size)
            if self.normalize:
                pixel_values = normalized(pixel_values, self.processor.image_mean, self.processor.image_std)
        elif self.normalize:
            pixel_values = self.processor(read_image(row), return_tensors="pt")["pixel_values"][0]
        else:
            pixel_values = resized(read_image(row), self.processor)
        known = {name: row.get(name) for name in ("ignored", "image_id")}
        return {"pixel_values": pixel_values, "labels": row["labels"], **known}


class StreamedImages(IterableDataset):
    """`ImageDataset` for a stream, such as a Hub data set too large to download: for training with `max_steps`.

    The augmentation of a sample is a function of (seed, epoch, position in the stream). Several workers share out the
    files that the stream is made of, and so do several processes (`deal`).

    Args:
        dataset: A `datasets.IterableDataset` of the schema.
        processor: The model's image processor.
        drop_bad_images: Skip images that cannot be read instead of stopping.
        shuffle_buffer: Rows held to draw from at random; 0 keeps the order of the stream.
        **kwargs: As for `ImageDataset`.
    """

    def __init__(self, dataset, processor, drop_bad_images: bool = False, shuffle_buffer: int = 1000, **kwargs):
        self.images = ImageDataset(dataset, processor, **kwargs)
        self.drop_bad_images = drop_bad_images
        self._rank, self._num_ranks = 0, 1
        self._passed_over, self._in_epoch = 0, -1
        if shuffle_buffer:
            shuffle = self.images.dataset.shuffle
            # datasets would read ten files at a time, and hold all of each: 3.7 GB in every worker for files of 190 MB
            # instead of 1.3 GB. Older versions (4.0 is one) have no such setting.
            few = {"max_buffer_input_shards": 2} if "max_buffer_input_shards" in signature(shuffle).parameters else {}
            self.images.dataset = shuffle(seed=self.images.seed, buffer_size=shuffle_buffer, **few)

    def set_epoch(self, epoch: int) -> None:
        """Draw the order and the augmentation of this epoch from now on."""
        self.images.set_epoch(epoch)
        self.images.dataset.set_epoch(epoch)

    def deal(self, rank: int, num_ranks: int) -> None:
        """Give this process its share: of the files, where each process gets as many, else of the rows.

        From then on the stream has no end, one pass following the other: with shares of different length the processes
        would otherwise wait for each other for ever.
        """
        if num_ranks > 1 and self._num_ranks == 1:
            from datasets.distributed import split_dataset_by_node

            self._rank, self._num_ranks = rank, num_ranks
            self.images.dataset = split_dataset_by_node(self.images.dataset, rank, num_ranks)

    def pass_over(self, batches: int, batch_size: int) -> None:
        """Of the pass at hand, give placeholders for the first batches, which a run that goes on throws away.

        They are read, and not decoded. Where bad images are dropped, all are decoded to find these.
        """
        self._passed_over, self._batch_size = 0 if self.drop_bad_images else batches, batch_size
        self._in_epoch = int(self.images._epoch)

    def __iter__(self):
        worker = get_worker_info()
        worker, num_workers = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        # Workers make whole batches in turn.
        batches = -(-(self._passed_over - worker) // num_workers) if int(self.images._epoch) == self._in_epoch else 0
        placeholders = batches * self._batch_size if batches > 0 else 0
        first, step = self._rank * num_workers + worker, self._num_ranks * num_workers
        for position, row in enumerate(self._rows()):
            if position < placeholders:
                yield {"pixel_values": torch.zeros(3, 1, 1), "labels": [], "ignored": None, "image_id": None}
                continue
            try:
                yield self.images.transform(row, first + step * position)
            except DataError as error:
                if not self.drop_bad_images:
                    raise
                logger.warning(f"Left out: {error}")

    def _rows(self) -> Iterator[dict]:
        """Of one pass, or of one after the other."""
        yield from self.images.dataset
        for epoch in itertools.count(1) if self._num_ranks > 1 else ():
            self.images.dataset.set_epoch(epoch)
            is_empty = True
            for row in self.images.dataset:
                is_empty = False
                yield row
            if is_empty:  # more processes and workers than there are files: this worker has nothing to do
                return


def augmented_pixels(
    image: Image.Image,
    processor: ViTImageProcessor,
    rng: np.random.Generator,
    crop_scale: tuple[float, float] = CROP_SCALE,
    size: tuple[int, int] | None = None,
) -> torch.Tensor:
    """(3, H, W) uint8 pixels of a random crop, flipped half of the time; of the processor's size, or this one."""
    top, left, height, width = random_crop(image.height, image.width, rng, crop_scale)
    pixels = tv.resized_crop(
        tv.pil_to_tensor(image),
        top,
        left,
        height,
        width,
        list(size or input_size(processor)),
        interpolation=tv.InterpolationMode(PILImageResampling(processor.resample).name.lower()),
        antialias=True,
    )
    return pixels.flip(2) if rng.random() < 0.5 else pixels


def random_crop(
    height: int, width: int, rng: np.random.Generator, scale: tuple[float, float] = CROP_SCALE
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random crop, drawn as torchvision's `RandomResizedCrop` does.

    A crop has a share `scale` of the area and an aspect ratio within CROP_RATIO. Where ten draws in a row do not fit,
    which is common in long images (a quarter of the crops at 640 x 427, all at 500 x 250), it is the largest central
    part of the image whose aspect ratio lies within CROP_RATIO.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        rng: What to draw from.
        scale: Least and largest share of the area; (1, 1) is the whole image, whatever its aspect ratio.
    """
    if tuple(scale) == (1.0, 1.0):
        return 0, 0, height, width
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top, left = rng.integers(height - crop_height + 1), rng.integers(width - crop_width + 1)
            return int(top), int(left), crop_height, crop_width
    crop_width = min(width, round(height * CROP_RATIO[1]))
    crop_height = min(height, round(width / CROP_RATIO[0]))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width
