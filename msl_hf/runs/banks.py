"""The masks of a run: those of training, and those of its masked test."""

from collections.abc import Sequence

from ..masks import MaskBank
from .arguments import MaskArguments

GENERATED = ("generated", "patches")  # masks that are no folder
NUM_MASKS = 2000  # generated masks: half for training, half for the masked test


def load_masks(masks: MaskArguments, has_test: bool = True) -> tuple[MaskBank, MaskBank]:
    """(training bank, test bank), disjoint.

    Half of the masks are for the test. Those of a folder all train where nothing is tested, or the test has masks from
    elsewhere (what of them is in the folder as well does not train).
    """
    bank = mask_bank(masks.masks, masks.mask_hole, masks.hole_ratio)
    whole = uses_whole_folder(masks, has_test)
    if whole and not has_test:
        return bank, bank  # the second tests nothing
    train = bank if whole else bank.split(0.5)[0]
    source, interval = masks.eval_masks or masks.masks, masks.eval_hole_ratio or masks.hole_ratio
    if (source, interval) == (masks.masks, masks.hole_ratio):
        return train, bank.split(0.5)[1]
    test = mask_bank(source, masks.mask_hole, interval).split(0.5)[1]
    return (train if source in GENERATED and source != masks.masks else train.without(test)), test


def uses_whole_folder(masks: MaskArguments, has_test: bool = True) -> bool:
    """Whether training sees all masks of a folder, so that none of them is left to test with."""
    return masks.masks not in GENERATED and (not has_test or masks.eval_masks not in (None, masks.masks))


def mask_bank(source: str, mask_hole: str, hole_ratio: Sequence[float]) -> MaskBank:
    """The whole bank of `generated`, `patches` or a folder."""
    if source == "generated":
        return MaskBank.generate(NUM_MASKS, tuple(hole_ratio))
    if source == "patches":
        return MaskBank.patches()
    return MaskBank.from_folder(source, mask_hole, tuple(hole_ratio))
