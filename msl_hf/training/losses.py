"""The loss of Masked Supervised Learning (equations 1 and 2), and the classification losses that it may hold."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ..model.heads_msl import IGNORED, mean_over_valid


def binary_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Unreduced binary cross-entropy with logits, (B, C) -> (B, C): the paper's classification loss."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


class WeightedBCE(nn.Module):
    """Unreduced binary cross-entropy whose positive term is multiplied by a factor of each class.

    Args:
        pos_weight: (C,) factors > 0.
    """

    def __init__(self, pos_weight: Sequence[float]):
        super().__init__()
        pos_weight = torch.as_tensor(pos_weight, dtype=torch.float32)
        if pos_weight.ndim != 1 or not (torch.isfinite(pos_weight) & (pos_weight > 0)).all():
            raise ValueError(f"pos_weight takes a positive factor for each class, got {pos_weight.tolist()}")
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(B, C) logits and targets -> (B, C) losses."""
        if logits.shape[-1] != len(self.pos_weight):
            raise ValueError(f"{len(self.pos_weight)} factors in pos_weight for {logits.shape[-1]} classes")
        return F.binary_cross_entropy_with_logits(
            logits, targets, reduction="none", pos_weight=self.pos_weight.to(logits.device)
        )


class LargeLossRejection(nn.Module):
    """Binary cross-entropy for images whose absent labels are only assumed: LL-R (Kim et al., CVPR 2022).

    A network learns clean labels before it memorises wrong ones, so that among the zeros those of the largest loss are
    the likeliest to be forgotten labels. In epoch t = 1, 2, ... the ceil((t - 1) * delta * B * C) zeros of the batch
    with the largest losses count with loss 0; a verified absence is a zero like the others. The first epoch, and
    evaluation, are plain binary cross-entropy.

    Args:
        delta: Share of the entries of a batch that each epoch adds to the rejected ones; the paper's 0.2 %.

    Examples:
        >>> loss = LargeLossRejection(delta=0.25)
        >>> loss.set_epoch(1)  # the second one: one of four entries
        >>> loss(torch.tensor([[3.0, -3.0], [1.0, 2.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
        tensor([[0.0000, 0.0486],
                [1.3133, 0.1269]])
    """

    def __init__(self, delta: float = 0.002):
        super().__init__()
        self.delta = delta
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Epochs are counted from 0."""
        self.epoch = epoch

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(B, C) logits and targets -> (B, C) losses."""
        losses = binary_cross_entropy(logits, targets)
        rejected = min(math.ceil(self.epoch * self.delta * targets.numel()), targets.numel())
        if not self.training or not rejected:
            return losses
        assumed = torch.where(targets == 0, losses.detach(), 0.0)
        least = assumed.flatten().topk(rejected).values[-1]
        return losses.masked_fill((targets == 0) & (assumed >= least), 0.0)


class SelfPacedCorrection(nn.Module):
    """Focal loss with a margin that takes confident zeros for forgotten labels: SPLC (Zhang et al. 2021).

    From the second epoch on a zero of probability above `threshold` counts as a one. With p of the logit, less
    `margin` where the label is given, an entry costs `(1 - p)^gamma * -log p` where it counts as one and
    `p^gamma * -log(1 - p)` where it counts as zero. The first epoch, and evaluation, correct nothing.

    Args:
        threshold: Probability above which a zero is corrected (0.6 in the paper).
        margin: Subtracted from the logits of given labels, which thus have to be surer (1).
        gamma: Focusing exponent (2).
    """

    def __init__(self, threshold: float = 0.6, margin: float = 1.0, gamma: float = 2.0):
        super().__init__()
        self.threshold, self.margin, self.gamma = threshold, margin, gamma
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Epochs are counted from 0."""
        self.epoch = epoch

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(B, C) logits and targets -> (B, C) losses."""
        logits = torch.where(targets == 1, logits - self.margin, logits)
        probabilities = logits.sigmoid()
        if self.training and self.epoch >= 1:
            targets = torch.where(probabilities > self.threshold, 1.0, targets)
        distance = targets * (1 - probabilities) + (1 - targets) * probabilities
        return distance**self.gamma * binary_cross_entropy(logits, targets)


class AsymmetricLoss(nn.Module):
    """Asymmetric loss (Ridnik et al. 2021), without reduction, which timm's has in its newest versions alone.

    With p of the logit, a present label costs `(1 - p)^gamma_pos * -log p`, an absent one
    `p'^gamma_neg * -log(1 - p')` with p' = max(p - clip, 0). As in the published training no gradient goes through the
    focusing weight.

    Args:
        gamma_neg: Focusing exponent of absent labels.
        gamma_pos: Focusing exponent of present labels.
        clip: Probability that absent labels may have without cost.
    """

    def __init__(self, gamma_neg: float = 4.0, gamma_pos: float = 0.0, clip: float = 0.05):
        super().__init__()
        self.gamma_neg, self.gamma_pos, self.clip = gamma_neg, gamma_pos, clip

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(B, C) logits and targets -> (B, C) losses, in float32: half precision would round 1 - p to 0."""
        probabilities, targets = logits.float().sigmoid(), targets.float()
        absent = (1 - probabilities + self.clip).clamp(max=1)
        losses = -targets * probabilities.clamp(min=1e-8).log() - (1 - targets) * absent.clamp(min=1e-8).log()
        with torch.no_grad():
            surety = targets * probabilities + (1 - targets) * absent
            weights = (1 - surety) ** (targets * self.gamma_pos + (1 - targets) * self.gamma_neg)
        return weights * losses


def make_classification_loss(
    name: str,
    pos_weight: Sequence[float] | None = None,
    asl_gamma_neg: float = 4.0,
    asl_gamma_pos: float = 0.0,
    asl_clip: float = 0.05,
) -> Callable:
    """A classification loss without reduction, (logits, targets) (B, C) -> (B, C), by its name.

    Args:
        name: `"bce"`, `"asl"` (asymmetric loss, Ridnik et al. 2021) or `"focal"` (Lin et al. 2017, gamma 2, alpha
            0.25); where absent labels are only assumed, `"ll_r"` (`LargeLossRejection`) or `"splc"`
            (`SelfPacedCorrection`).
        pos_weight: (C,) factors on the positive term, for `"bce"` only.
        asl_gamma_neg: Focusing exponent of absent labels in the asymmetric loss; the defaults of all three are those
            of its published training, which like this one sends no gradient through the focusing weight.
        asl_gamma_pos: Focusing exponent of present labels in it.
        asl_clip: Probability that absent labels may have without cost in it.
    """
    if pos_weight is not None and name != "bce":
        raise ValueError(f"pos_weight belongs to the loss 'bce', not to {name!r}")
    if name == "asl":
        return AsymmetricLoss(asl_gamma_neg, asl_gamma_pos, asl_clip)
    if name == "focal":
        from torchvision.ops import sigmoid_focal_loss

        return sigmoid_focal_loss
    if name == "ll_r":
        return LargeLossRejection()
    if name == "splc":
        return SelfPacedCorrection()
    return binary_cross_entropy if pos_weight is None else WeightedBCE(pos_weight)


def balanced_pos_weight(targets: torch.Tensor) -> torch.Tensor:
    """Number of negatives / number of positives of each class, so that both sides weigh the same in sum.

    Args:
        targets: (N, C) training targets; -100 counts on neither side.

    Returns:
        (C,) factors; 1 for a class that lacks positives or negatives.
    """
    positives, negatives = (targets == 1).sum(dim=0), (targets == 0).sum(dim=0)
    one_sided = (positives == 0) | (negatives == 0)
    return torch.where(one_sided, 1.0, negatives / positives.clamp(min=1))


class MSLLoss(nn.Module):
    """`w1 * BCE(z, y) + w2 * BCE(z', y) + w3 * mean((sigmoid(z) - sigmoid(z'))^2)`.

    z are the logits of the recognition branch (the image), z' those of the masked branch (the same network on the
    masked image). All three means run over the batch and the classes, leaving out ignored entries (-100), and are
    computed in float32.

    Args:
        weights: (w1, w2, w3) of recognition, masked and label-consistency term; (0.3, 0.2, 0.5) is the best row of
            Table 7, (1, 0, 0) plain supervised training, w3 = 0 "MaBr only", w2 = 0 "LaCo only".
        classification_loss: Replaces the binary cross-entropy: a callable (logits, targets) -> (B, C) losses without
            reduction, such as `AsymmetricLoss()`.

    Examples:
        >>> loss = MSLLoss()(torch.randn(2, 5), torch.randn(2, 5), torch.ones(2, 5))
        >>> sorted(loss)
        ['consistency', 'loss', 'masked', 'recognition']
    """

    def __init__(
        self,
        weights: Sequence[float] = (0.3, 0.2, 0.5),
        classification_loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = binary_cross_entropy,
    ):
        super().__init__()
        weights = tuple(float(weight) for weight in weights)
        if len(weights) != 3 or min(weights) < 0 or sum(weights) == 0:
            raise ValueError(f"weights must be three numbers >= 0, not all 0 (recognition, masked, consistency), "
                             f"got {weights}")  # fmt: skip
        self.weights = weights
        self.classification_loss = classification_loss

    @property
    def needs_masked_branch(self) -> bool:
        """False where w2 = w3 = 0: then the masked forward need not happen at all."""
        return self.weights[1] > 0 or self.weights[2] > 0

    def forward(
        self,
        logits: torch.Tensor,
        masked_logits: torch.Tensor | None,
        labels: torch.Tensor,
        chosen: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """The weighted sum and its parts.

        Args:
            logits: z, (B, C).
            masked_logits: z', (B, C), or those of the chosen images alone; may be None where w2 = w3 = 0.
            labels: y, (B, C) multi-hot, -100 = ignored.
            chosen: (B',) which images z' are of; None is all. The masked and the consistency term are means over them.

        Returns:
            Scalars `loss` (weighted sum) and, unweighted, `recognition`, `masked`, `consistency`; without
            `masked_logits` only `loss` and `recognition`.
        """
        if masked_logits is None and self.needs_masked_branch:
            raise ValueError(f"weights {self.weights} need the logits of the masked branch")
        logits = logits.float()

        def classification(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            ignored = labels == IGNORED
            targets = labels.float().masked_fill(ignored, 0.0)
            # A sure and true zero: nothing that a loss over the whole batch would choose.
            return mean_over_valid(self.classification_loss(logits.masked_fill(ignored, -1e4), targets), labels)

        components = {"recognition": classification(logits, labels)}
        if masked_logits is not None:
            masked_logits = masked_logits.float()
            if chosen is not None:
                logits, labels = logits[chosen], labels[chosen]
            components["masked"] = classification(masked_logits, labels)
            difference = logits.sigmoid() - masked_logits.sigmoid()
            components["consistency"] = mean_over_valid(difference.square(), labels)
        total = sum(
            weight * component for weight, component in zip(self.weights, components.values(), strict=False) if weight
        )
        return {"loss": total, **components}
