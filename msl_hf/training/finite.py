"""Whether what is trained is still numbers, without making the host wait for the device in every step."""

from collections.abc import Iterable, Sequence

import torch

from .losses import IGNORED

MOST_STEPS = 1000  # micro-batches that are remembered at most, until the device is asked


class FiniteCheck:
    """Remembers on the device which micro-batch was the first whose loss is no number, or whose targets are none.

    Asking for it makes the host wait, and is done where it waits anyhow: when a log line is due, before an evaluation
    and before anything is saved.
    """

    def __init__(self):
        self._forget()

    def _forget(self) -> None:
        self._seen: list[tuple[int, Sequence[str]]] = []  # step and image ids of the micro-batches since the last look
        self._first: torch.Tensor | int = -1  # number of the first bad one among them
        self._values: torch.Tensor | float = 0.0  # its losses, and whether its targets are in order

    def note(self, losses: dict[str, torch.Tensor], labels: torch.Tensor, step: int, image_ids: Sequence[str]) -> None:
        """A micro-batch more.

        Args:
            losses: Scalars, `loss` the first; equal names in every micro-batch between two looks.
            labels: (B, C) targets.
            step: Optimizer steps before it.
            image_ids: Of its images, as far as they are known.

        Raises:
            FloatingPointError: as `read` does, where nobody has looked for very long.
        """
        wrong = wrong_targets(labels).any()
        values = torch.stack([value.detach().float() for value in (*losses.values(), wrong)])
        is_bad = (self._first == -1) & ~(values[0].isfinite() & (values[-1] == 0))
        self._first = torch.where(is_bad, len(self._seen), self._first)
        self._values = torch.where(is_bad, values, self._values)
        self._names = tuple(losses)
        self._seen.append((step, image_ids))
        if len(self._seen) >= MOST_STEPS:
            self.read()

    def read(self) -> None:
        """Wait for the device, and forget what was good.

        Raises:
            FloatingPointError: for the first micro-batch whose loss is not finite, naming step, losses and images.
            ValueError: for the first one with targets outside [0, 1].
        """
        if not self._seen:
            return
        first, seen, values = int(self._first), self._seen, self._values
        self._forget()
        if first < 0:
            return
        step, image_ids = seen[first]
        images = f" on the images {', '.join(image_ids)}" if image_ids else ""
        *parts, wrong = values.tolist()
        if wrong:
            raise ValueError(f"the targets of step {step}{images} are not all in [0, 1], or -100 where unknown")
        shown = ", ".join(f"{name} {part:.4g}" for name, part in zip(self._names, parts, strict=True))
        raise FloatingPointError(f"the loss is not finite at step {step} ({shown}){images}")


def check_finite_weights(named: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Refuse weights that are no numbers.

    Args:
        named: Names and values; of sharded ones the part of this process is looked at.

    Raises:
        FloatingPointError: naming the first of them.
    """
    local = {name: value.to_local() if hasattr(value, "to_local") else value for name, value in named}
    finite = {name: value.detach().isfinite().all() for name, value in local.items() if value.is_floating_point()}
    if finite and not torch.stack(list(finite.values())).all():
        name = next(name for name, is_finite in finite.items() if not is_finite)
        raise FloatingPointError(f"the weights are not finite any more, {name} the first of them")


def check_targets(labels: torch.Tensor) -> None:
    """Refuse targets that are neither in [0, 1] nor -100, of which a loss would make nonsense.

    Args:
        labels: (B, C) targets.

    Raises:
        ValueError: naming the values.
    """
    wrong = labels[wrong_targets(labels)]
    if len(wrong):
        values = ", ".join(sorted({f"{value:g}" for value in wrong.flatten()[:1000].tolist()})[:5])
        raise ValueError(f"labels hold {values}: a target lies in [0, 1], and -100 is one that is not known; turn "
                         "whatever else means unknown into -100, and whatever means absent into 0")  # fmt: skip


def wrong_targets(labels: torch.Tensor) -> torch.Tensor:
    """(B, C) bool: which targets are neither in [0, 1] nor -100."""
    return (labels != IGNORED) & ~((labels >= 0) & (labels <= 1))
