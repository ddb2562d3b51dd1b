"""An exponential moving average of the weights over the steps of a run."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

FILE = "averaged.safetensors"


class WeightAverage(TrainerCallback):
    """Averages weights and running statistics after every step; evaluation and the trained model are the average.

    The factor on the average so far is `min(decay, (1 + n) / (10 + n))` after n steps, so that the weights of the
    start do not weigh on a short run.

    Args:
        model: The model that is trained.
        decay: The factor in the long run, in (0, 1); 0.99 averages over the last hundred steps or so.
    """

    def __init__(self, model: nn.Module, decay: float):
        def average(averaged: torch.Tensor, current: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
            if not averaged.is_floating_point():
                return current  # the number of batches that BatchNorm has seen
            factor = min(decay, (1 + int(count)) / (10 + int(count)))
            return averaged.lerp(current.to(averaged.device), 1 - factor)

        self.model = model
        self.checkpoint: str | os.PathLike | None = None  # that the run goes on from
        self.averaged = AveragedModel(model, avg_fn=average, use_buffers=True)

    def on_train_begin(self, args, state, control, **kwargs):
        if self.checkpoint is not None:
            self.load(self.checkpoint)

    def on_save(self, args, state, control, **kwargs):
        # The checkpoints of a hyperparameter search, which lie elsewhere, are not resumed.
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if args.should_save and folder.is_dir():
            self.save(folder)

    def on_step_end(self, args, state, control, **kwargs):
        self.averaged.update_parameters(self.model)

    def on_train_end(self, args, state, control, **kwargs):
        if self.averaged.n_averaged:
            self.model.load_state_dict(self.averaged.module.state_dict())

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within: the model has the averaged weights."""
        if not self.averaged.n_averaged:
            yield
            return
        own = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.averaged.module.state_dict())
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def save(self, checkpoint: str | os.PathLike) -> None:
        """Into a checkpoint."""
        state = {name: value.detach().cpu().contiguous() for name, value in self.averaged.state_dict().items()}
        save_file(state, Path(checkpoint) / FILE)

    def load(self, checkpoint: str | os.PathLike) -> None:
        """From a checkpoint.

        Raises:
            FileNotFoundError: where the checkpoint is of a run without average.
        """
        file = Path(checkpoint) / FILE
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file; the checkpoint is of a run without ema_decay")
        self.averaged.load_state_dict(load_file(file))
