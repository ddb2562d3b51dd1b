"""Callbacks that the trainer adds by itself."""

from transformers import TrainerCallback


class EpochForDataset(TrainerCallback):
    """Tell the training set which epoch it is in, so that its augmentation depends on (seed, epoch, index) alone.

    `Trainer` itself does so in a single process only.
    """

    def __init__(self, dataset):
        self.dataset = dataset

    def on_epoch_begin(self, args, state, control, **kwargs):
        # At the begin of an epoch state.epoch is whole, but for a run resumed within one.
        self.dataset.set_epoch(int((state.epoch or 0) + 1e-6))


class SaveBestModel(TrainerCallback):
    """Write the model to a folder whenever the evaluation during training improves its mAP.

    The best so far is read from the log history, which travels in the checkpoints: a resumed run never overwrites a
    better model of before the interruption.

    Args:
        folder: Where the model, and the processor that the trainer was given, are written.
    """

    def __init__(self, folder: str):
        self.folder = folder

    def on_evaluate(self, args, state, control, model=None, processing_class=None, **kwargs):
        if best_evaluation(state.log_history) is not state.log_history[-1] or not state.is_world_process_zero:
            return
        model.save_pretrained(self.folder)
        if processing_class is not None:
            processing_class.save_pretrained(self.folder)


def best_evaluation(log_history: list[dict]) -> dict | None:
    """The log entry of the first evaluation with the highest mAP."""
    return max((entry for entry in log_history if "eval_mAP" in entry), key=lambda e: e["eval_mAP"], default=None)
