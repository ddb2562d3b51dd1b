"""Callbacks that the trainer adds by itself."""

import os
import signal
import threading
from pathlib import Path

import torch
from accelerate.utils import reduce
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from .adapters import merged


class SetEpoch(TrainerCallback):
    """Tell the training set and the loss which epoch it is, so that what they do depends on counters alone.

    `Trainer` itself does so for data sets, in a single process only.

    Args:
        listeners: Those with a method `set_epoch` are told.
    """

    def __init__(self, *listeners):
        self.listeners = [listener for listener in listeners if hasattr(listener, "set_epoch")]

    def on_epoch_begin(self, args, state, control, **kwargs):
        # At the begin of an epoch state.epoch is whole, but for a run resumed within one.
        for listener in self.listeners:
            listener.set_epoch(int((state.epoch or 0) + 1e-6))


class SaveBestModel(TrainerCallback):
    """Write the model to a folder whenever the evaluation during training improves its mAP.

    The best so far is read from the log history, which travels in the checkpoints: a resumed run never overwrites a
    better model of before the interruption. For that an epoch is evaluated before its last step is saved, and not
    after, as `Trainer` does where `save_strategy` is "steps".

    Args:
        folder: Where the model, and the processor that the trainer was given, are written.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)

    def on_step_end(self, args, state, control, **kwargs):
        if args.eval_strategy == IntervalStrategy.EPOCH and float(state.epoch).is_integer():
            control.should_evaluate = True

    def on_epoch_end(self, args, state, control, **kwargs):
        if any(entry["step"] == state.global_step for entry in state.log_history if "eval_mAP" in entry):
            control.should_evaluate = False

    def on_evaluate(self, args, state, control, model=None, processing_class=None, **kwargs):
        if best_evaluation(state.log_history) is not state.log_history[-1] or not state.is_world_process_zero:
            return
        # File by file from a folder beside: whoever is killed while writing leaves the model of before, or this one.
        temporary = self.folder / ".best"
        merged(model).save_pretrained(temporary)
        if processing_class is not None:
            processing_class.save_pretrained(temporary)
        for file in temporary.iterdir():
            os.replace(file, self.folder / file.name)
        temporary.rmdir()


class SaveOnTermination(TrainerCallback):
    """On SIGTERM, the warning of schedulers, finish the step, save a checkpoint and stop.

    Attributes:
        stopped: Whether that has happened.
    """

    def __init__(self):
        self.asked, self.stopped, self._earlier = False, False, None
        self._sum: torch.Tensor | None = None  # of the processes that were asked, one step ago

    def on_train_begin(self, args, state, control, **kwargs):
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._earlier = signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_) -> None:
        self.asked = True

    def on_step_end(self, args, state, control, **kwargs):
        asked = self.asked
        if args.world_size > 1:  # the signal does not reach all processes within the same step
            # What is read is of the step before: by now the device has it, and has another step to do meanwhile.
            asked = self._sum is not None and bool(self._sum)
            self._sum = reduce(torch.full((), float(self.asked), device=args.device), reduction="sum")
        if asked:
            self.stopped = control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.stopped:  # within an epoch, which nobody evaluates
            control.should_evaluate = control.should_save = False

    def on_train_end(self, args, state, control, **kwargs):
        if self._earlier is not None:
            signal.signal(signal.SIGTERM, self._earlier)


def best_evaluation(log_history: list[dict]) -> dict | None:
    """The log entry of the first evaluation with the highest mAP."""
    return max((entry for entry in log_history if "eval_mAP" in entry), key=lambda e: e["eval_mAP"], default=None)
