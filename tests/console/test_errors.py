import pytest

from msl_hf.console.errors import RunError, user_input


@pytest.mark.parametrize(
    "error",
    [RuntimeError("WandbCallback needs wandb"), ImportError("no wandb"), AssertionError("height 50"), OSError()],
)
def test_what_is_not_installed_or_does_not_fit_is_a_message(error):
    with pytest.raises(RunError, match=str(error) or "OSError"), user_input():
        raise error
