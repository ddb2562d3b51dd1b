import pytest

from msl_hf.evaluation import text
from msl_hf.evaluation.figures import plot_breakdown, plot_frontier, plot_per_class, plot_robustness

NAMES = ["$", "$$", "a_b^c", "\\frac{", "%s {x}", "a\nb", "犬と猫"]


def robustness(name):
    return {"clean": {"mAP": 0.5, "CR": 0.4, "CF1": 0.3}, "breakdown": {"num_images": 1, "size": {
        name: {"positives": 3, "AP": 0.5, "interval": [0.4, 0.6]}}},
        "robustness": [{"mean_hole_ratio": 0.5, "mAP": 0.2, "CR": 0.2, "CF1": 0.1}]}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_of_any_characters_are_drawn(name, tmp_path):
    plot_per_class({name: {"clean": 0.5, "masked": 0.2}}, tmp_path / "per_class.png")
    plot_robustness({name: robustness(name)}, tmp_path / "robustness.png")
    plot_breakdown({name: robustness("small")}, tmp_path / "breakdown.png")
    plot_frontier({name: [(0.5, 0.2)]}, tmp_path / "frontier.png")
    assert len(list(tmp_path.iterdir())) == 4


def test_a_figure_says_which_characters_no_font_has(monkeypatch):
    with text.plain_text(["cat", "$_^"]) as note:
        assert note is None
    monkeypatch.setattr(text, "_characters", lambda file: set("cato"))
    text._families.cache_clear()
    with text.plain_text(["cat", "dog"]) as note:
        assert "No installed font has 2 characters of the names (U+0064, U+0067)" in note
    text._families.cache_clear()
