"""Mistakes in what a user asked for, which end a command with a message instead of a stack trace."""


class RunError(Exception):
    """A mistake in what the user asked for; commands print the message without a stack trace."""
