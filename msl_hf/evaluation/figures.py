"""What people would rather look at than read."""

import os

from .text import plain_text, save_figure

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


def plot_robustness(results: dict[str, dict], path: str | os.PathLike) -> None:
    """mAP, CR and CF1 over the share of removed pixels, a line for each model, as a PNG (Figure 3 as a curve).

    Args:
        results: Model name -> `{"clean": metrics, "robustness": [{"mean_hole_ratio", metrics}]}`, fractions of 1.
        path: Where the PNG goes.
    """
    from matplotlib.figure import Figure

    with plain_text(results) as note:
        figure = Figure(figsize=(12, 3.8), layout="constrained")
        for axis, metric in zip(figure.subplots(1, 3), ("mAP", "CR", "CF1"), strict=True):
            for name, result in results.items():
                rows = sorted(result["robustness"], key=lambda row: row["mean_hole_ratio"])
                points = [(0.0, result["clean"][metric]), *((row["mean_hole_ratio"], row[metric]) for row in rows)]
                axis.plot([100 * x for x, _ in points], [100 * y for _, y in points], marker="o", label=name)
            axis.set(xlabel="removed pixels (%)", ylabel=f"{metric} (%)", ylim=(0, 100))
            axis.grid(alpha=0.3)
        axis.legend()
        save_figure(figure, path, note)


def plot_breakdown(results: dict[str, dict], path: str | os.PathLike) -> bool:
    """Average precision of each model in each group of objects with its 95 % interval, as a PNG.

    Args:
        results: Model name -> `{"breakdown": ...}` as `evaluation.breakdown.breakdown` gives it.
        path: Where the PNG goes.

    Returns:
        False, and no file, where the data have no boxes.
    """
    from matplotlib.figure import Figure

    first = next(iter(results.values()))["breakdown"]
    properties = [name for name, groups in first.items() if isinstance(groups, dict) and name != "mAP"]
    if not properties:
        return False
    with plain_text(results) as note:
        figure = Figure(figsize=(3.4 * len(properties) + 1, 3.8), layout="constrained")
        for axis, name in zip(figure.subplots(1, len(properties), squeeze=False)[0], properties, strict=True):
            groups = [group for group, values in first[name].items() if values["positives"]]
            for offset, (model, result) in enumerate(results.items()):
                values = [result["breakdown"][name][group] for group in groups]
                heights = [100 * value["AP"] for value in values]
                # The interval may lie beside the value itself, which is no mean of the samples.
                pairs = [(100 * value["AP"], [100 * end for end in value["interval"]]) for value in values]
                low = [max(0.0, height - interval[0]) for height, interval in pairs]
                high = [max(0.0, interval[1] - height) for height, interval in pairs]
                positions = [index + (offset + 0.5) * 0.8 / len(results) - 0.4 for index in range(len(groups))]
                axis.bar(positions, heights, width=0.8 / len(results), yerr=[low, high], capsize=2, label=model)
            labels = [f"{group}\n({first[name][group]['positives']})" for group in groups]
            axis.set_xticks(range(len(groups)), labels, fontsize=8)
            axis.set(title=name, ylabel="AP (%)" if name == properties[0] else None, ylim=(0, 100))
            axis.grid(axis="y", alpha=0.3)
        axis.legend()
        save_figure(figure, path, note)
    return True


def plot_occluders(results: dict[str, dict], path: str | os.PathLike) -> bool:
    """AP of covered objects over the covered share, a panel for each occluder and a line for each model, as a PNG.

    Args:
        results: Model name -> `{"occluders": {kind: [{"covered", "AP", "interval"}]}}`, fractions of 1; `nothing` are
            the same objects uncovered.
        path: Where the PNG goes.

    Returns:
        False, and no file, where nothing was covered.
    """
    from matplotlib.figure import Figure

    kinds = [kind for kind in next(iter(results.values()))["occluders"] if kind != "nothing"]
    if not kinds:
        return False
    with plain_text(results) as note:
        figure = Figure(figsize=(4 * len(kinds), 3.8), layout="constrained")
        for axis, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
            for name, result in results.items():
                rows = sorted(
                    (*result["occluders"]["nothing"], *result["occluders"][kind]), key=lambda r: r["covered"]
                )
                shares = [100 * row["covered"] for row in rows]
                axis.plot(shares, [100 * row["AP"] for row in rows], marker="o", label=name)
                low, high = zip(*([100 * end for end in row["interval"]] for row in rows), strict=True)
                axis.fill_between(shares, low, high, alpha=0.15)
            covers = "another photograph" if kind == "image" else kind
            axis.set(title=f"covered by {covers}", xlabel="covered share of the box (%)", ylim=(0, 100))
            axis.grid(alpha=0.3)
        figure.axes[0].set_ylabel("AP of the covered objects (%)")
        figure.axes[-1].legend()
        save_figure(figure, path, note)
    return True


def plot_frontier(points: dict[str, list[tuple[float, float]]], path: str | os.PathLike) -> None:
    """Clean against masked mAP: a cross with standard deviations for each way of training, as a PNG.

    Args:
        points: Way of training -> (clean, masked) mAP of each seed, fractions of 1.
        path: Where the PNG goes.
    """
    import numpy as np
    from matplotlib.figure import Figure

    with plain_text(points) as note:
        figure = Figure(figsize=(9, 5.5), layout="constrained")
        axis = figure.subplots()
        for number, (name, values) in enumerate(points.items()):
            mean, deviation = 100 * np.mean(values, axis=0), 100 * np.std(values, axis=0, ddof=min(1, len(values) - 1))
            axis.errorbar(*mean, xerr=deviation[0], yerr=deviation[1], color=f"C{number % 10}",
                          marker="osD^vP*X"[number // 10 % 8], linestyle="none", label=name)  # fmt: skip
        axis.set(xlabel="mAP on whole images (%)", ylabel="mAP on masked images (%)")
        axis.grid(alpha=0.3)
        figure.legend(loc="outside right upper", fontsize="small")
        save_figure(figure, path, note)


def plot_per_class(per_class: dict[str, dict[str, float | None]], path: str | os.PathLike) -> None:
    """Average precision of every class, best first, on whole and on masked images, as a PNG.

    Args:
        per_class: Class name -> `{"clean": AP, "masked": AP}`, fractions of 1, None where the test has no positive.
        path: Where the PNG goes.
    """
    from matplotlib.figure import Figure

    measured = {name: row for name, row in per_class.items() if row["clean"] is not None}
    ranked = sorted(measured.items(), key=lambda item: item[1]["clean"])
    with plain_text(per_class) as note:
        figure = Figure(figsize=(7, 1.2 + 0.24 * len(ranked)), layout="constrained")
        axis = figure.subplots()
        for offset, (images, label) in zip(
            (0.2, -0.2), (("clean", "whole images"), ("masked", "masked images")), strict=True
        ):
            heights = [position + offset for position in range(len(ranked))]
            axis.barh(heights, [100 * row[images] for _, row in ranked], height=0.4, label=label)
        axis.set_yticks(range(len(ranked)), [name for name, _ in ranked])
        axis.set(xlabel="average precision (%)", xlim=(0, 100), ylim=(-0.6, len(ranked) - 0.4))
        axis.grid(alpha=0.3, axis="x")
        axis.legend(loc="lower right")
        save_figure(figure, path, note)
