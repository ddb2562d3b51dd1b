import pytest
from PIL import Image

from msl_hf.studies.benchmarks import scaling


def test_every_point_is_measured_by_itself(monkeypatch, tmp_path):
    """The base settings with one quantity changed, for both variants; then the figure."""
    asked = []

    def measure(network, variant, threads, use_cpu, seed, **settings):
        asked.append((variant, settings))
        return {"images_per_second": 10.0, "memory_mb": 100.0 * settings["batch_size"]}

    monkeypatch.setattr(scaling, "measure_point", measure)
    points = list(scaling.measure_scaling("lite0_224", 1, True, 0))
    assert len(points) == len(asked) == 2 * sum(len(values) for values in scaling.SWEEPS.values())
    for point, (variant, settings) in zip(points, asked, strict=True):
        assert settings == {**scaling.BASE, point["quantity"]: point["value"]} and variant == point["variant"]
    scaling.plot_scaling(points, tmp_path / "scaling.png")
    assert Image.open(tmp_path / "scaling.png").size[0] > 1000


@pytest.mark.slow
def test_a_point():
    point = scaling.measure_point("lite0_224", "ours", 1, True, 0, batch_size=1, image_size=64, num_labels=5)
    assert point["images_per_second"] > 0 and point["memory_mb"] > 0
