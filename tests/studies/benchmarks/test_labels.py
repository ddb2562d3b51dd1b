import pytest

from msl_hf.studies.benchmarks.labels import measure_images, measure_label_file, measure_large_dataset


@pytest.mark.slow
def test_annotations_of_the_asked_size_are_loaded_in_another_process():
    result = measure_label_file(seed=0, size=(30, 70))
    assert result["num_images"] == 30 and 0 < result["file_mb"] < 1
    assert result["seconds"] > 0 and result["dataset_mb"] > 0


@pytest.mark.slow
def test_large_data_sets_are_mapped_and_streamed(monkeypatch):
    monkeypatch.setattr("msl_hf.studies.benchmarks.labels.SHARD_ROWS", 20)
    result = measure_large_dataset(seed=0, size=(50, 7))
    assert result["num_images"] == 50 and result["file_mb"] > 0 and result["mapped"]["seconds_again"] > 0
    assert all(result[way]["rows_per_second"] > 0 for way in ("mapped", "streamed"))


@pytest.mark.slow
def test_images_of_a_data_set_larger_than_memory_are_all_read():
    result = measure_images(seed=0, size=(70, 30_000))
    assert result["data_mb"] > 1.9 and result["streamed"]["num_images"] == result["mapped"]["num_images"] == 70
    assert all(len(result[way]["memory_mb"]) == 4 for way in ("mapped", "streamed"))
