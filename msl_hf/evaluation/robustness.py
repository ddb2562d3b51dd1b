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
        fill: What removed pixels are, as for `apply_mask`.
    """

    def __init__(
        self,
        dataset,
        masks: MaskBank,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        seed: int = 0,
        fill: str = "black",
    ):
        self.dataset, self.masks, self.seed, self.fill = dataset, masks, seed, fill
        self.image_mean, self.image_std = image_mean, image_std

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        item = dict(self.dataset[index])
        image = item["pixel_values"].unsqueeze(0)
        keep = self.masks.sample(1, image.shape[-2:], generator=counter_generator(self.seed, index))
        if image.dtype == torch.uint8 and self.fill == "black":
            item["pixel_values"] = image.masked_fill(~keep, 0).squeeze(0)
        else:
            image = normalized(image, self.image_mean, self.image_std)
            item["pixel_values"] = apply_mask(image, keep, self.image_mean, self.image_std, self.fill).squeeze(0)
        return item
