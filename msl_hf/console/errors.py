"""Mistakes in what a user asked for, which end a command with a message instead of a stack trace."""

import contextlib
from collections.abc import Iterator

from huggingface_hub.errors import StrictDataclassError


class RunError(Exception):
    """A mistake in what the user asked for; commands print the message without a stack trace."""


@contextlib.contextmanager
def user_input() -> Iterator[None]:
    """Within: errors are about what the user gave, or what is not installed; networks raise assertions, too."""
    try:
        yield
    except StrictDataclassError as error:  # a value that MSLConfig refuses
        raise RunError(str(error.__cause__ or error)) from error
    except (ValueError, OSError, ImportError, AssertionError, RuntimeError) as error:
        raise RunError(str(error) or type(error).__name__) from error
