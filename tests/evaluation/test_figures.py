from PIL import Image

from msl_hf.evaluation.figures import plot_training_curves


def test_curves_are_drawn_with_and_without_a_selection_split(tmp_path):
    log = [{"epoch": e / 2, "loss": 1 / (e + 1), "loss_recognition": 1.0, "loss_masked": 2.0} for e in range(8)]
    plot_training_curves(log, tmp_path / "plain.png")
    plot_training_curves([*log, {"epoch": 1, "eval_mAP": 0.3}, {"epoch": 2, "eval_mAP": 0.5}], tmp_path / "both.png")
    widths = [Image.open(tmp_path / name).size[0] for name in ("plain.png", "both.png")]
    assert widths[1] > 1.5 * widths[0]
    colours = [
        len(Image.open(tmp_path / name).convert("RGB").getcolors(1 << 20)) for name in ("plain.png", "both.png")
    ]
    assert min(colours) > 20  # something was drawn
