"""Errors that are shown to users. Each message says in one or two sentences what is wrong, where, and what to do.

The command line prints the message without a traceback and exits with `exit_code`.
"""


class MantaError(Exception):
    """A failure with a known reason."""

    exit_code = 1


class RunError(MantaError):
    """A failure while the work ran (exit code 1)."""


class InputError(MantaError):
    """A wrong config, data or argument; nothing was started or written (exit code 2)."""

    exit_code = 2
