"""Training: the loss, the arguments, the trainer."""

from .arguments import MSLTrainingArguments
from .losses import MSLLoss
from .trainer import MSLTrainer

__all__ = ["MSLLoss", "MSLTrainer", "MSLTrainingArguments"]
