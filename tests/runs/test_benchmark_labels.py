from msl_hf.runs.benchmark_labels import measure_label_file, process_memory


def test_annotations_of_the_asked_size_are_loaded_in_another_process():
    result = measure_label_file(seed=0, size=(30, 70))
    assert result["num_images"] == 30 and 0 < result["file_mb"] < 1
    assert result["seconds"] > 0 and result["dataset_mb"] > 0


def test_peak_is_at_least_what_is_used_now():
    assert process_memory("VmHWM") >= process_memory("VmRSS") > 50
