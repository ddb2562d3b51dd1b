import os

import pytest

from msl_hf.console.processes import in_child, process_memory


def test_a_child_is_another_process_and_hands_back_results_and_errors():
    assert in_child(os.getpid) != os.getpid()
    with pytest.raises(ZeroDivisionError):
        in_child(divmod, 1, 0)


def test_peak_is_at_least_what_is_used_now():
    assert process_memory("VmHWM") >= process_memory("VmRSS") >= process_memory("RssAnon") > 50
