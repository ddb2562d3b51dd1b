"""The paper's learning-rate schedule; all others are those of transformers."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_step_schedule(
    optimizer: Optimizer, steps_per_epoch: float, warmup_epochs: float, step_epochs: int, gamma: float = 0.1
) -> LambdaLR:
    """Linear warm-up, then a factor `gamma` every `step_epochs` epochs, counted from the start of the run.

    The reference warms up for 2 epochs and steps every 4 (VOC) or 5 (COCO, WIDER): from epoch 20 on VOC the learning
    rate is 1e-5 of where it began.

    Args:
        optimizer: Its groups' `lr` are the peak.
        steps_per_epoch: Optimizer steps of an epoch.
        warmup_epochs: Length of the warm-up in epochs.
        step_epochs: Epochs between two steps.
        gamma: Factor of a step.
    """
    warmup_steps = warmup_epochs * steps_per_epoch

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return gamma ** (int(step / steps_per_epoch + 1e-6) // step_epochs)

    return LambdaLR(optimizer, factor)
