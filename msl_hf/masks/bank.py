"""Banks of binary masks: generated, read from a folder, or patches."""

import contextlib
import operator
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import cached_assets_path
from PIL import Image

from .counters import counter_generator
from .drawing import GENERATOR_VERSION, RESOLUTION, draw_irregular_mask

MASK_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


class MaskBank:
    """A set of binary masks to draw from, one independent mask per image.

    Masks are held bit-packed (1,000 masks of 512 x 512 take 33 MB) and gathered on the target device in one indexing
    operation, with nearest-neighbour resizing and random flips.

    Args:
        keep: (N, H, W) bool array or tensor, True = keep, False = removed. H = W = 512 unless you made them yourself.

    Attributes:
        hole_ratios: (N,) float tensor, the share of removed pixels of every mask, computed from the mask.

    Examples:
        >>> bank = MaskBank.generate(8, hole_ratio=(0.5, 0.6), seed=0)
        >>> bank.sample(4, (224, 224)).shape
        torch.Size([4, 1, 224, 224])
    """

    def __init__(self, keep: np.ndarray | torch.Tensor):
        keep = np.asarray(keep)
        if keep.ndim != 3 or keep.dtype != np.bool_ or keep.size == 0:
            raise ValueError(f"MaskBank takes (N, H, W) bool masks with N >= 1, got {keep.dtype} {keep.shape}")
        hole_ratios = torch.from_numpy(1.0 - keep.reshape(len(keep), -1).mean(axis=1)).float()
        self._set(np.packbits(keep, axis=2), hole_ratios, keep.shape[1:])

    def _set(self, packed: np.ndarray, hole_ratios: torch.Tensor, mask_size: tuple[int, int]) -> None:
        self._packed = {torch.device("cpu"): torch.from_numpy(packed)}  # (N, H, ceil(W / 8)) uint8 for each device
        self.hole_ratios = hole_ratios
        self._mask_size = tuple(mask_size)

    @classmethod
    def _from_packed(cls, packed: np.ndarray, hole_ratios: torch.Tensor, mask_size: tuple[int, int]) -> "MaskBank":
        bank = cls.__new__(cls)
        bank._set(packed, hole_ratios, mask_size)
        return bank

    def __len__(self) -> int:
        return len(self.hole_ratios)

    def __getitem__(self, index: int | slice | Sequence[int]) -> torch.Tensor:
        """Mask `index` as stored: (H, W) bool, True = keep; of a slice or list of indices (K, H, W)."""
        packed = self._packed[torch.device("cpu")][index].numpy()
        return torch.from_numpy(np.unpackbits(packed, axis=-1, count=self._mask_size[1]).astype(bool))

    def __repr__(self) -> str:
        low, high = self.hole_ratios.min().item(), self.hole_ratios.max().item()
        return f"{type(self).__name__}({len(self)} masks, hole ratio {low:.3f} to {high:.3f})"

    @classmethod
    def generate(cls, count: int, hole_ratio: tuple[float, float] = (0.5, 0.6), seed: int = 0) -> "MaskBank":
        """Irregular masks made of random streaks and holes, as hard as the NVIDIA test masks of the same hole ratio.

        About half of the masks leave the image border untouched. Mask `i` depends on `seed` and `i` alone. The result
        is cached on disk in the Hugging Face assets cache (`HF_ASSETS_CACHE`).

        Args:
            count: Number of masks.
            hole_ratio: Closed interval, within [0, 1], that holds the hole ratio of **every** mask.
            seed: Seed of the drawing.
        """
        low, high = _check_interval(hole_ratio)
        if high - low < 1e-3:
            raise ValueError(f"hole_ratio {tuple(hole_ratio)} is narrower than 0.001; widen the interval")
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")

        def draw() -> np.ndarray:
            with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow releases the GIL while it draws
                return np.stack(list(pool.map(lambda i: draw_irregular_mask([seed, i], low, high), range(count))))

        packed = _cached(f"irregular-v{GENERATOR_VERSION}-n{count}-{low:g}-{high:g}-s{seed}.npy", draw)
        return cls._from_packed(packed, _packed_hole_ratios(packed), (RESOLUTION, RESOLUTION))

    @classmethod
    def from_folder(
        cls, path: str | os.PathLike, hole: str, hole_ratio: tuple[float, float] | None = None
    ) -> "MaskBank":
        """Masks from a folder of image files, in the order of the file names.

        Args:
            path: Folder, searched recursively. Masks of another size than 512 x 512 are resized (nearest neighbour).
            hole: `"white"` or `"black"`: the colour of removed pixels. NVIDIA's test masks are `"white"`; QD-IMD and
                NVIDIA's training masks are `"black"`.
            hole_ratio: Keep only masks whose computed hole ratio lies in this closed interval; None keeps all.

        Raises:
            ValueError: naming the folder or file, where there is no mask in the interval, where a file is no
                two-valued mask, or where the hole ratios say that `hole` is the wrong colour.
        """
        if hole not in ("white", "black"):
            raise ValueError(f"hole must be 'white' or 'black' (the colour of removed pixels), got {hole!r}")
        low, high = _check_interval(hole_ratio or (0.0, 1.0))
        path = Path(path)
        if not path.is_dir():
            raise ValueError(f"{path}: no such folder of masks")
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in MASK_SUFFIXES)
        if not files:
            raise ValueError(f"{path}: holds no mask files ({', '.join(MASK_SUFFIXES)})")

        def read(file: Path) -> tuple[float, np.ndarray | None]:
            holes = _read_holes(file, hole)
            ratio = float(holes.mean())
            return ratio, np.packbits(~holes, axis=1) if low <= ratio <= high else None

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            read_files = list(pool.map(read, files))
        all_ratios = np.array([ratio for ratio, _ in read_files])
        chosen = [packed for _, packed in read_files if packed is not None]
        median = float(np.median(all_ratios))
        other = "black" if hole == "white" else "white"
        found = (
            f"{path}: with hole={hole!r} its {len(files)} masks remove {all_ratios.min():.0%} to "
            f"{all_ratios.max():.0%} of the image (median {median:.0%})"
        )
        # A folder that mostly removes more than was asked for has almost certainly been read with the colours swapped.
        if hole_ratio is not None and median > max(high, 0.5) and 1 - median < high:
            raise ValueError(f"{found}; the colours look swapped: pass hole={other!r}")
        if not chosen:
            raise ValueError(f"{found}, none within the hole ratio {low:g} to {high:g}; "
                             f"choose another interval, or hole={other!r} if white and black are swapped")  # fmt: skip
        packed = np.stack(chosen)
        return cls._from_packed(packed, _packed_hole_ratios(packed), (RESOLUTION, RESOLUTION))

    @classmethod
    def patches(cls, ratio: float = 0.75, patch: int = 16) -> "MaskBank":
        """Random square patches as in masked autoencoders (Table 8), drawn at the size of the image for every sample.

        Args:
            ratio: Share of the patches that is removed, in (0, 1).
            patch: Side of a patch in pixels of the network's input.
        """
        return _PatchBank(ratio, patch)

    def split(self, fraction: float = 0.5) -> tuple["MaskBank", "MaskBank"]:
        """Two disjoint banks (train, test), by position; evaluation never sees a training mask.

        Positions are taken in turn rather than as two blocks, because mask folders are ordered by difficulty.

        Args:
            fraction: Share of the masks that goes to the first bank, in (0, 1).
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must lie between 0 and 1, got {fraction}")
        steps = np.floor(np.arange(len(self) + 1) * fraction + 1e-9)
        in_train = np.diff(steps) > 0
        if in_train.all() or not in_train.any():
            raise ValueError(f"{len(self)} masks cannot be split into two banks at {fraction}; use more masks")
        return self._select(in_train), self._select(~in_train)

    def without(self, other: "MaskBank") -> "MaskBank":
        """The masks that are not in the other bank, for two banks that were not made by one `split`.

        Raises:
            ValueError: where no mask is left.
        """
        if isinstance(other, _PatchBank):  # which are drawn, and practically never one of these
            return self
        taken = {mask.tobytes() for mask in other._packed[torch.device("cpu")].numpy()}
        own = np.array([mask.tobytes() not in taken for mask in self._packed[torch.device("cpu")].numpy()])
        if not own.any():
            raise ValueError(
                f"all {len(self)} masks are in the other bank too; choose other masks or another interval"
            )
        return self._select(own)

    def _select(self, chosen: np.ndarray) -> "MaskBank":
        packed = self._packed[torch.device("cpu")].numpy()[chosen]
        return self._from_packed(packed, self.hole_ratios[torch.from_numpy(chosen)], self._mask_size)

    def sample(
        self,
        batch_size: int,
        size: int | tuple[int, int],
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """One independent random mask per image, randomly flipped, resized by nearest neighbour.

        Args:
            batch_size: B.
            size: Side or (H, W) of the images in pixels.
            device: Where the masks are gathered and returned.
            generator: CPU generator; the same generator state gives the same masks on every device.

        Returns:
            (B, 1, H, W) bool, True = keep.
        """
        height, width = _height_width(size)
        device = torch.device(device)
        if device not in self._packed:
            self._packed[device] = self._packed[torch.device("cpu")].to(device)
        # Drawn on the host, and sent without waiting for the device.
        index = torch.randint(len(self), (batch_size, 1, 1), generator=generator).squeeze(2)
        index = index.to(device, non_blocking=True)
        flip = torch.randint(2, (2, batch_size, 1), generator=generator).to(device, non_blocking=True).bool()
        rows = _nearest(self._mask_size[0], height, device)
        rows = torch.where(flip[0], rows.flip(0), rows)
        # Whole rows first, then their bits, then columns: about a third faster on a CPU than pixel by pixel.
        packed = self._packed[device][index, rows]
        bits = (packed.unsqueeze(-1) >> torch.arange(7, -1, -1, dtype=torch.uint8, device=device)) & 1
        keep = bits.flatten(2).index_select(2, _nearest(self._mask_size[1], width, device)).bool()
        return torch.where(flip[1].unsqueeze(2), keep.flip(2), keep).unsqueeze(1)


class _PatchBank(MaskBank):
    """The bank behind `MaskBank.patches`: nothing is stored, every sample is drawn."""

    def __init__(self, ratio: float, patch: int):
        if not 0 < ratio < 1 or patch < 1:
            raise ValueError(f"patches need a ratio in (0, 1) and a patch of at least 1 pixel, got {ratio}, {patch}")
        self.ratio, self.patch = ratio, patch
        self.hole_ratios = torch.tensor([ratio], dtype=torch.float32)

    def __getitem__(self, index: int) -> torch.Tensor:
        if not 0 <= operator.index(index) < len(self):
            raise IndexError(index)
        return self.sample(1, RESOLUTION, generator=counter_generator(index))[0, 0]

    def split(self, fraction: float = 0.5) -> tuple[MaskBank, MaskBank]:
        """The bank twice: nothing is stored, and at 14 x 14 patches two draws practically never coincide."""
        return self, self

    def without(self, other: MaskBank) -> MaskBank:
        """The bank itself, for the same reason."""
        return self

    def sample(self, batch_size, size, device="cpu", generator=None) -> torch.Tensor:
        height, width = _height_width(size)
        rows, columns = -(-height // self.patch), -(-width // self.patch)
        removed = round(self.ratio * rows * columns)
        order = torch.rand(batch_size, rows * columns, generator=generator).argsort(dim=1)
        order = order.to(device, non_blocking=True)
        keep = (order.argsort(dim=1) >= removed).view(batch_size, 1, rows, columns)
        keep = keep.repeat_interleave(self.patch, dim=2).repeat_interleave(self.patch, dim=3)
        return keep[:, :, :height, :width]


def _height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = map(operator.index, (size, size) if isinstance(size, Integral) else size)
    if min(height, width) < 1:
        raise ValueError(f"size must be at least 1 pixel, got {height} x {width}")
    return height, width


def _check_interval(hole_ratio: tuple[float, float]) -> tuple[float, float]:
    low, high = hole_ratio
    if not 0 <= low < high <= 1:
        raise ValueError(f"hole_ratio must be an interval within [0, 1], got {tuple(hole_ratio)}")
    return float(low), float(high)


def _nearest(source: int, target: int, device: torch.device) -> torch.Tensor:
    """(target,) source index of every target pixel's centre, as Pillow's NEAREST but for ties.

    A centre on the border of two source pixels belongs to the second. Pillow adds up floating-point steps, and so may
    find itself just before the border, in the first.
    """
    return (2 * torch.arange(target, device=device) + 1) * source // (2 * target)


def _packed_hole_ratios(packed: np.ndarray) -> torch.Tensor:
    kept = np.bitwise_count(packed).reshape(len(packed), -1).sum(axis=1, dtype=np.int64)
    return torch.from_numpy(1.0 - kept / RESOLUTION**2).float()


def _cached(name: str, draw: Callable[[], np.ndarray]) -> np.ndarray:
    """The array that the cache holds under a name, else drawn and stored; a cache that fails costs only time."""
    try:
        path = cached_assets_path("msl_hf", namespace="masks") / name
    except (OSError, ValueError):  # no place to keep it
        return draw()
    with contextlib.suppress(OSError, ValueError, EOFError):  # not there, or cut off
        return np.load(path, allow_pickle=False)
    packed = draw()
    with contextlib.suppress(OSError):
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            np.save(file, packed, allow_pickle=False)
        os.replace(file.name, path)  # whole or not at all
    return packed


def _read_holes(file: Path, hole: str) -> np.ndarray:
    """The removed pixels of a mask file: (512, 512) bool."""
    try:
        with Image.open(file) as image:
            grey = np.asarray(image.convert("L").resize((RESOLUTION, RESOLUTION), Image.Resampling.NEAREST))
    except Exception as error:  # Pillow raises half a dozen types for broken files
        raise ValueError(f"{file}: cannot be read as a mask ({error}); remove it from the folder") from error
    between = float(((grey > 64) & (grey < 192)).mean())
    if between > 0.1:
        raise ValueError(f"{file}: {between:.0%} of its pixels are neither black nor white; not a binary mask")
    return (grey >= 128) == (hole == "white")
