"""What people would rather look at than read."""

import os

LOSS_LABELS = {
    "loss": "loss",
    "loss_recognition": "recognition branch",
    "loss_masked": "masked branch",
    "loss_consistency": "label consistency",
}


def plot_training_curves(log_history: list[dict], path: str | os.PathLike) -> None:
    """Losses and, where a split selects the best epoch, its mAP over the epochs, as a PNG.

    Args:
        log_history: `trainer.state.log_history`.
        path: Where the PNG goes.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    training = [entry for entry in log_history if "loss" in entry]
    evaluations = [entry for entry in log_history if "eval_mAP" in entry]
    figure = Figure(figsize=(10 if evaluations else 5.5, 3.6), layout="constrained")
    axes = figure.subplots(1, 2 if evaluations else 1, squeeze=False)[0]
    for key, label in LOSS_LABELS.items():
        points = [(entry["epoch"], entry[key]) for entry in training if key in entry]
        if points:
            axes[0].plot(*zip(*points, strict=True), label=label)
    axes[0].set(xlabel="epoch", ylabel="training loss (components unweighted)", ylim=(0, None))
    if training:
        axes[0].legend()
    if evaluations:
        epochs, scores = zip(*((entry["epoch"], 100 * entry["eval_mAP"]) for entry in evaluations), strict=True)
        axes[1].plot(epochs, scores, marker="o")
        axes[1].set(xlabel="epoch", ylabel="mAP on the selection split (%)")
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
