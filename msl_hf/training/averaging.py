"""An exponential moving average of the weights over the steps of a run."""

import contextlib
import copy
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
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
        self.model, self.decay = model, decay
        self.checkpoint: str | os.PathLike | None = None  # that the run goes on from
        # Counted here: torch's AveragedModel counts on the device, and waits for it once for each tensor.
        self.count, self.averaged = 0, copy.deepcopy(model)

    def on_train_begin(self, args, state, control, **kwargs):
        if self.checkpoint is not None:
            self.load(self.checkpoint)

    def on_save(self, args, state, control, **kwargs):
        # The checkpoints of a hyperparameter search, which lie elsewhere, are not resumed.
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if args.should_save and folder.is_dir():
            self.save(folder)

    @torch.no_grad()
    def on_step_end(self, args, state, control, **kwargs):
        factor = min(self.decay, (1 + self.count) / (10 + self.count)) if self.count else 0.0
        current = self.model.state_dict()
        for name, averaged in self.averaged.state_dict().items():
            if averaged.is_floating_point():
                averaged.lerp_(current[name].to(averaged.device), 1 - factor)
            else:
                averaged.copy_(current[name])  # the number of batches that BatchNorm has seen
        self.count += 1

    def on_train_end(self, args, state, control, **kwargs):
        if self.count:
            self.model.load_state_dict(self.averaged.state_dict())

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within: the model has the averaged weights."""
        if not self.count:
            yield
            return
        own = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.averaged.state_dict())
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def save(self, checkpoint: str | os.PathLike) -> None:
        """Into a checkpoint."""
        values = {name: value.cpu().contiguous() for name, value in self.averaged.state_dict().items()}
        save_file(values, Path(checkpoint) / FILE, {"count": str(self.count)})

    def load(self, checkpoint: str | os.PathLike) -> None:
        """From a checkpoint.

        Raises:
            FileNotFoundError: where the checkpoint is of a run without average.
        """
        file = Path(checkpoint) / FILE
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file; the checkpoint is of a run without ema_decay")
        with safe_open(file, "pt") as stored:
            self.count = int(stored.metadata()["count"])
        self.averaged.load_state_dict(load_file(file))
