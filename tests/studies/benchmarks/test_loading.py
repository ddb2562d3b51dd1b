import numpy as np
import torch
from PIL import Image

from msl_hf.studies.benchmarks import loading


def test_both_ways_load_the_same_files(tmp_path):
    """Ours and the usual way: same shape, about the same pixels on average, about half of them black."""
    paths, masks = loading._write_files(tmp_path, 300, 200, 6, seed=0)
    assert Image.open(paths[0]).size == (300, 200)
    assert all(0.4 < np.asarray(Image.open(mask)).mean() / 255 < 0.65 for mask in masks)
    batches = loading._our_loading(paths, 64, 0, mask=True)(), loading._usual_loading(paths, masks, 64)()
    assert all(found.shape == (6, 3, 64, 64) and torch.isfinite(found).all() for found in batches)
    black, zero = batches[0].amin(dim=(0, 2, 3), keepdim=True), torch.zeros(1, 3, 1, 1)
    kept = [
        (found != hole).all(dim=1).float().mean().item() for found, hole in zip(batches, (black, zero), strict=True)
    ]
    assert all(0.35 < share < 0.6 for share in kept)
    pixels = loading._our_loading(paths, 64, 0)()
    floats = loading._our_loading(paths, 64, 0, normalize=True)()
    assert pixels.dtype == torch.uint8 and 4 * pixels.nbytes == floats.nbytes


def test_measurements(monkeypatch):
    monkeypatch.setitem(loading.LOADS, "tiny", (60, 40, 32, 3))
    threads = torch.get_num_threads()
    result = loading.measure_loading("tiny", rounds=2, seed=0)
    assert result["ours"] > 0 and result["usual"] > 0 and torch.get_num_threads() == threads
    assert (result["batch_mb"], result["batch_mb_floats"]) == (32 * 3 * 32 * 32 / 2**20, 4 * 32 * 3 * 32 * 32 / 2**20)
    assert result["ratio"]["spread"][0] <= result["ratio"]["median"] <= result["ratio"]["spread"][1]
