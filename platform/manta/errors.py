"""The errors a person may meet. Each message is one sentence or two: what is wrong, where, and what to do.

The command line prints the message alone, without a traceback, and exits with `exit_code`.
"""


class MantaError(Exception):
    """The run failed for a reason that we can name."""

    exit_code = 1


class RunError(MantaError):
    """Something went wrong while the work ran (exit code 1)."""


class InputError(MantaError):
    """The config, the data or an argument is wrong; nothing was started or written (exit code 2)."""

    exit_code = 2
