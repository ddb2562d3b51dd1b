"""How an image is looked at: in which size, mirrored, in tiles; and how what is seen becomes one logit a class.

No `from __future__ import annotations` here, as in the other files of the repository.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers.utils import logging

logger = logging.get_logger(__name__)

OVERLAP = 0.25  # of a tile's side with the next one's
PART = re.compile(r"(?:(whole|mirror)|([1-9]\d*)x([1-9]\d*))(?:@([1-9]\d*))?")
MOST_TILES = 64


@dataclass(frozen=True)
class Part:
    """One way to look at an image: as a whole, at its mirror image, or at the tiles of a grid.

    Args:
        rows: Of the grid; 1 x 1 is the whole image.
        columns: Of the grid.
        is_mirrored: Left and right exchanged.
        side: Height in pixels to which what is looked at is resized; the width is in the proportion of the model's
            input. None is the size that the model was trained with.
    """

    rows: int = 1
    columns: int = 1
    is_mirrored: bool = False
    side: int | None = None

    def __str__(self) -> str:
        grid = f"{self.rows}x{self.columns}"
        name = "mirror" if self.is_mirrored else "whole" if grid == "1x1" else grid
        return name if self.side is None else f"{name}@{self.side}"

    def size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) in pixels of what the network is given, of a model whose input is `image_size`."""
        height, width = image_size
        return image_size if self.side is None else (self.side, round(self.side * width / height))

    def boxes(self, width: int, height: int) -> list[tuple[int, int, int, int]]:
        """(left, top, right, bottom) in pixels of what is looked at in an image, row by row.

        Tiles of n in a row are 1 / (n - (n - 1) / 4) of the side, 57 % for two, and overlap by a quarter of theirs.

        Raises:
            ValueError: for a grid that is finer than the image.
        """
        if self.rows > height or self.columns > width:
            raise ValueError(f"the view {self} cuts finer than the image of {width} x {height} pixels")
        intervals = [_intervals(count, length) for count, length in ((self.rows, height), (self.columns, width))]
        return [(left, top, right, bottom) for top, bottom in intervals[0] for left, right in intervals[1]]

    def crops(self, image, resize: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        """What the network is given of an image: (3, H, W) for every tile.

        Args:
            image: A PIL image, or a tensor (3, height, width), in the size that it is stored in.
            resize: A part of the image and `side` -> (3, H, W), what the image processor makes of it.
        """
        is_tensor = isinstance(image, torch.Tensor)
        width, height = (image.shape[-1], image.shape[-2]) if is_tensor else image.size
        crops = []
        for left, top, right, bottom in self.boxes(width, height):
            if (right - left, bottom - top) == (width, height):
                crop = image
            else:
                crop = image[..., top:bottom, left:right] if is_tensor else image.crop((left, top, right, bottom))
            crop = resize(crop, self.side)
            crops.append(crop.flip(-1) if self.is_mirrored else crop)
        return crops

    def score_maps(self, network, crops: Sequence[torch.Tensor]) -> torch.Tensor:
        """(B, C, h, w) class score maps of the whole image: those of the tiles, and their mean where they overlap."""
        maps = [network.score_maps(crop) for crop in crops]
        if self.is_mirrored:
            maps = [one.flip(-1) for one in maps]
        if len(maps) == 1:
            return maps[0]
        # So many cells that a tile's map keeps about the number that it has.
        height, width = (
            round(length * (count - OVERLAP * (count - 1)))
            for length, count in zip(maps[0].shape[-2:], (self.rows, self.columns), strict=True)
        )
        total = maps[0].new_zeros(*maps[0].shape[:2], height, width)
        times = maps[0].new_zeros(height, width)
        for one, (left, top, right, bottom) in zip(maps, self.boxes(width, height), strict=True):
            total[..., top:bottom, left:right] += _to_size(one, bottom - top, right - left)
            times[top:bottom, left:right] += 1
        return total / times


@dataclass(frozen=True)
class Views:
    """How an image is looked at: the mean of the logits of one or more parts.

    Written as `whole@256`, `mirror@224`, `2x2@160` (tiles that overlap by a quarter), joined by `+`; without `@` it is
    the size that the model was trained with.

    Examples:
        >>> views = Views.parse("whole@224+2x2@160")
        >>> [str(part) for part in views.parts], views.cost((160, 160))
        (['whole@224', '2x2@160'], 5.96)
        >>> views.parts[1].boxes(700, 350)
        [(0, 0, 400, 200), (300, 0, 700, 200), (0, 150, 400, 350), (300, 150, 700, 350)]
    """

    parts: tuple[Part, ...]

    @classmethod
    def parse(cls, text: "str | Views") -> "Views":
        """The views that a text describes.

        Raises:
            ValueError: for other texts, and for a grid of more than 64 tiles.
        """
        if isinstance(text, Views):
            return text
        if not isinstance(text, str):
            raise ValueError(f"a view is written as text, such as 'whole@224+2x2@160', got {text!r}")
        parts = []
        for name in text.split("+"):
            match = PART.fullmatch(name.strip())
            if match is None:
                raise ValueError(f"{text!r} is no view: {name.strip()!r} is none of whole, mirror or ROWSxCOLUMNS "
                                 "such as 2x2, each perhaps with @SIDE in pixels, joined by +")  # fmt: skip
            kind, rows, columns, side = match.groups()
            rows, columns = int(rows or 1), int(columns or 1)
            if rows * columns > MOST_TILES:
                raise ValueError(f"{text!r}: {rows} x {columns} are more than {MOST_TILES} tiles")
            parts.append(Part(rows, columns, kind == "mirror", int(side) if side else None))
        return cls(tuple(parts))

    def __str__(self) -> str:
        return "+".join(map(str, self.parts))

    def sizes(self, image_size: tuple[int, int]) -> list[tuple[int, int]]:
        """(H, W) of what `crops` gives, of a model whose input is `image_size`."""
        return [part.size(image_size) for part in self.parts for _ in range(part.rows * part.columns)]

    def cost(self, image_size: tuple[int, int]) -> float:
        """Pixels that the network sees of an image, as a multiple of those of the plain pass at `image_size`."""
        pixels = sum(height * width for height, width in self.sizes(image_size))
        return round(pixels / (image_size[0] * image_size[1]), 4)

    def crops(self, image, resize: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        """What the network is given of an image, part after part; see `Part.crops`."""
        return [crop for part in self.parts for crop in part.crops(image, resize)]

    def logits(self, network: Callable, crops: Sequence[torch.Tensor]) -> torch.Tensor:
        """(B, C) logits from what `crops` gives, of several images stacked to (B, 3, H, W) each."""
        return combined([tile_logits(network, tiles) for _, tiles in self._by_part(crops)])

    def score_maps(self, network, crops: Sequence[torch.Tensor]) -> torch.Tensor:
        """(B, C, h, w) class score maps of the whole image: the mean of those of the parts.

        Args:
            network: What has `score_maps`.
            crops: As for `logits`.
        """
        maps = [part.score_maps(network, tiles) for part, tiles in self._by_part(crops)]
        grid = [max(one.shape[axis] for one in maps) for axis in (-2, -1)]
        return combined([_to_size(one, *grid) for one in maps])

    def _by_part(self, crops: Sequence[torch.Tensor]) -> list[tuple[Part, Sequence[torch.Tensor]]]:
        counts = [part.rows * part.columns for part in self.parts]
        ends = list(itertools.accumulate(counts))
        return [(part, crops[end - count : end]) for part, count, end in zip(self.parts, counts, ends, strict=True)]

    def check(self, network, processor) -> None:
        """Refuse what the network or the image processor cannot do, before images are read.

        Raises:
            ValueError: naming the view, and the next sizes where there are some.
        """
        for part in self.parts:
            if part.side is None:
                continue
            if getattr(processor, "do_center_crop", False) or not getattr(processor, "do_resize", False):
                raise ValueError(f"the view {part} needs an image processor that resizes to a height and width and "
                                 "does not crop; use whole, mirror or tiles without @")  # fmt: skip
            size = part.size(network.config.image_height_width)
            try:
                network.check_input_size(*size)
            except ValueError as error:
                raise ValueError(f"the view {part}: {error}") from error


def tile_logits(network: Callable, crops: Sequence[torch.Tensor]) -> torch.Tensor:
    """(B, C) from (B, 3, H, W) for every tile: of each class that of the tile where it is greatest."""
    logits = [network(pixel_values=crop).logits for crop in crops]
    return logits[0] if len(logits) == 1 else torch.stack(logits).amax(dim=0)


def resized_by(processor) -> Callable[..., torch.Tensor]:
    """An image and `side` -> (3, H, W): the image processor, made to resize to another height where one is given."""

    def resize(image, side: int | None) -> torch.Tensor:
        if side is None:
            return processor(images=image, return_tensors="pt")["pixel_values"][0]
        height, width = Part(side=side).size((processor.size["height"], processor.size["width"]))
        size = {"height": height, "width": width}
        return processor(images=image, size=size, return_tensors="pt")["pixel_values"][0]

    return resize


def combined(logits: Sequence):
    """The mean of the logits of several parts; of one part they are left as they are, to the bit."""
    return logits[0] if len(logits) == 1 else sum(logits) / len(logits)


def _to_size(maps: torch.Tensor, height: int, width: int) -> torch.Tensor:
    if maps.shape[-2:] == (height, width):
        return maps
    return F.interpolate(maps, (height, width), mode="bilinear", align_corners=False)


def views_of(given: "str | Views | None", config) -> Views:
    """The views that are asked for, else those of a model's configuration, else the plain pass.

    Thresholds belong to the view that they were chosen for: that they are used with another one is said, once.
    """
    own = Views.parse(getattr(config, "views", None) or "whole")
    views = own if given is None else Views.parse(given)
    if views != own and getattr(config, "thresholds", None) is not None:
        logger.warning_once(
            f"The thresholds of this model were chosen for {own}, and it looks at images as {views}, where other "
            f"labels reach them. To choose anew: msl-hf evaluate --model ... --tune_views validation --views {views}"
        )
    return views


def _intervals(count: int, length: int) -> list[tuple[int, int]]:
    side = min(length, max(1, round(length / (count - OVERLAP * (count - 1)))))
    starts = [round(number * (length - side) / max(1, count - 1)) for number in range(count)]
    return [(start, start + side) for start in starts]
