"""Evaluation on partial inputs (Figure 3): every test image under a mask of its own, fixed by the seed."""

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from ..data.transforms import normalized
from ..masks import MaskBank, apply_mask, counter_generator


class MaskedDataset(Dataset):
    """A data set whose image `i` lies under a mask that depends on (seed, i) alone.

    Batch size, number of processes and model make no difference, so that models are compared on the same inputs. Use a
    bank that training has not seen: `train_bank, test_bank = bank.split(0.5)`.

    Args:
        dataset: Gives `pixel_values` (3, H, W), normalised or uint8, among other columns; what it gives in uint8 stays
            so where the fill is black.
        masks: Bank to draw from.
        image_mean: Mean of the normalisation.
        image_std: Standard deviation of the normalisation.
        seed: Seed of the choice of masks.
        fill: What is seen where pixels are removed, as for `apply_mask`; with `"image"` and `"mixed"` another image of
            the data set, which (seed, i) choose.
        keep_value: Factor on kept pixels, as for `apply_mask`.

    Raises:
        ValueError: where another image is to be seen, and there is none.
    """

    def __init__(
        self,
        dataset,
        masks: MaskBank,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        seed: int = 0,
        fill: str = "black",
        keep_value: float = 1.0,
    ):
        self.dataset, self.masks, self.seed, self.fill, self.keep_value = dataset, masks, seed, fill, keep_value
        self.image_mean, self.image_std = image_mean, image_std
        if fill in ("image", "mixed") and len(dataset) < 2:
            raise ValueError(f"fill={fill!r} shows another image of the data set, which has {len(dataset)}")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        item = dict(self.dataset[index])
        image = item["pixel_values"].unsqueeze(0)
        generator = counter_generator(self.seed, index)
        keep = self.masks.sample(1, image.shape[-2:], generator=generator)
        if image.dtype == torch.uint8 and self.fill == "black" and self.keep_value == 1:
            item["pixel_values"] = image.masked_fill(~keep, 0).squeeze(0)
        else:
            statistics, others = (self.image_mean, self.image_std), None
            if self.fill in ("image", "mixed"):
                (shift,) = torch.randint(1, len(self), (1,), generator=generator).tolist()
                other = self.dataset[(index + shift) % len(self)]["pixel_values"]
                others = normalized(other.unsqueeze(0), *statistics)
            image = normalized(image, *statistics)
            masked = apply_mask(image, keep, *statistics, self.fill, self.keep_value, generator, others)
            item["pixel_values"] = masked.squeeze(0)
        return item
