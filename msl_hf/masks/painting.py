"""What is seen in the holes: the one function that paints masks over a batch of images."""

import math
from collections.abc import Iterable

import torch

FILLS = ("black", "zero", "noise", "image", "mixed")


def apply_mask(
    pixel_values: torch.Tensor,
    keep: torch.Tensor,
    image_mean: Iterable[float] | None = None,
    image_std: Iterable[float] | None = None,
    fill: str = "black",
    keep_value: float = 1.0,
    generator: torch.Generator | None = None,
    others: torch.Tensor | None = None,
) -> torch.Tensor:
    """Remove pixels from normalised images: `x * M` of the paper's equation 1, done in [0, 1] space.

    The paper's fill is black. With the others something lies over the image, as things do that hide an object.

    Args:
        pixel_values: (B, 3, H, W) float, normalised as `(rgb - image_mean) / image_std` with rgb in [0, 1].
        keep: (B, 1, H, W) bool, True = keep.
        image_mean: The three means of the normalisation. Needed for the fills `"black"`, `"noise"` and `"mixed"`, and
            for `keep_value != 1`.
        image_std: The three standard deviations, likewise.
        fill: `"black"` paints removed pixels black whatever the normalisation; `"zero"` sets them to 0 in normalised
            space, which is the colour `image_mean`; `"noise"` draws every channel of every pixel from [0, 1];
            `"image"` shows another image there; `"mixed"` draws black, noise or another image for each image.
        keep_value: Factor on the kept pixels in [0, 1] space. 1 is the binary mask; 225/255 = 0.882 is the
            unbinarised mask of Table 5.
        generator: CPU generator of what is drawn: noise, which image, which fill. Noise also depends on the kind of
            device.
        others: (B, 3, H, W), normalised likewise: what `"image"` and `"mixed"` show. None takes another image of the
            batch for each image.

    Returns:
        A new (B, 3, H, W) tensor of the dtype of `pixel_values`.

    Raises:
        ValueError: for an unknown fill, a keep or others that do not fit the images, a missing mean or std, or a batch
            of one image, where another one is to be shown.

    Examples:
        >>> images = torch.ones(2, 3, 4, 4)
        >>> keep = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
        >>> apply_mask(images, keep, image_mean=[0.5] * 3, image_std=[0.5] * 3).unique()
        tensor([-1.])
    """
    if fill not in FILLS:
        raise ValueError(f"fill must be one of {', '.join(FILLS)}, got {fill!r}")
    if not pixel_values.is_floating_point():
        raise ValueError(f"pixel_values must be normalised floating-point images, got {pixel_values.dtype}")
    expected = (pixel_values.shape[0], 1, *pixel_values.shape[-2:])
    if tuple(keep.shape) != expected or keep.dtype != torch.bool:
        raise ValueError(f"keep must be a bool tensor of shape {expected}, got {keep.dtype} {tuple(keep.shape)}")
    if fill in ("image", "mixed"):
        if others is None:
            others = pixel_values[_other_positions(len(pixel_values), generator).to(pixel_values.device)]
        elif others.shape != pixel_values.shape:
            raise ValueError(f"others must be of the shape of the images, {tuple(pixel_values.shape)}, "
                             f"got {tuple(others.shape)}")  # fmt: skip
        others = others.to(pixel_values.dtype)
    if keep_value == 1.0 and fill == "zero":
        return pixel_values.masked_fill(~keep, 0.0)
    if keep_value == 1.0 and fill == "image":
        return torch.where(keep, pixel_values, others)
    if image_mean is None or image_std is None:
        raise ValueError(f"apply_mask needs image_mean and image_std for fill={fill!r} with keep_value={keep_value}; "
                         "pass those of the image processor, or use fill='zero' with keep_value=1")  # fmt: skip
    image_mean, image_std = list(image_mean), list(image_std)
    if not math.isfinite(keep_value) or not all(map(math.isfinite, image_mean)) or not all(image_std):
        raise ValueError(f"image_mean and keep_value must be numbers, and image_std not 0, got {image_mean}, "
                         f"{keep_value} and {image_std}")  # fmt: skip
    # Made on the host and sent, which does not wait for the device as making it there would.
    mean, std = (
        torch.tensor(values, dtype=pixel_values.dtype).view(1, -1, 1, 1) for values in (image_mean, image_std)
    )
    black, white = (end.to(pixel_values.device, non_blocking=True) for end in (-mean / std, (1 - mean) / std))
    removed = {"black": black, "zero": torch.zeros_like(black), "image": others}.get(fill)
    if removed is None:
        removed = black + (white - black) * _uniform_like(pixel_values, generator)
    if fill == "mixed":
        kind = torch.randint(3, (len(pixel_values), 1, 1, 1), generator=generator)
        kind = kind.to(pixel_values.device, non_blocking=True)
        removed = torch.where(kind == 0, black, torch.where(kind == 1, removed, others))
    # In [0, 1] space x * v; back in normalised space that is x * v + black * (1 - v).
    kept = pixel_values if keep_value == 1.0 else pixel_values * keep_value + black * (1.0 - keep_value)
    return torch.where(keep, kept, removed)


def _other_positions(count: int, generator: torch.Generator | None) -> torch.Tensor:
    """For each of `count` positions another one, no two the same."""
    if count < 2:
        raise ValueError("fill='image' and 'mixed' show another image of the batch, and it has only one: pass others")
    return (torch.arange(count) + torch.randint(1, count, (1,), generator=generator)) % count


def _uniform_like(values: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Numbers in [0, 1), drawn on the device of the values from a seed that the CPU generator draws."""
    (seed,) = torch.randint(2**62, (1,), generator=generator).tolist()
    own = torch.Generator(values.device).manual_seed(seed)
    return torch.rand(values.shape, generator=own, device=values.device, dtype=values.dtype)
