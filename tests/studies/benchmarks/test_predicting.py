import pytest

from msl_hf.studies.benchmarks.predicting import measure_prediction


@pytest.mark.slow
def test_images_of_each_size_are_predicted_in_a_process_of_its_own(monkeypatch):
    monkeypatch.setattr("msl_hf.studies.benchmarks.predicting.FILE_ROWS", 30)
    results = list(measure_prediction([20, 70], seed=0))
    assert [(result["num_images"], result["num_shards"]) for result in results] == [(20, 1), (70, 3)]
    assert all(result["images_per_second"] > 0 for result in results)
    assert all(result["peak_memory_mb"] >= result["start_memory_mb"] > 0 for result in results)
