"""Errors that are shown to users. Each message says in one or two sentences what is wrong, where, and what to do.

The command line prints the message without a traceback and exits with `exit_code`.
"""

import re

PASSWORD = re.compile(r"(?<=://)[^/\s'\"()<>]*@")


def without_passwords(text: str) -> str:
    """Return the text without the names and passwords of the URLs in it, such as http://user:password@host."""
    return PASSWORD.sub("", text)


def last_cause(error: BaseException) -> str:
    """Return the innermost cause of an error in one line, without passwords of URLs."""
    while (cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__)) is not None:
        error = cause
    # Of an error that a worker of Ray sends, the last line is the cause; before it comes the worker's traceback.
    lines = str(error).strip().splitlines() or ["no reason given"]
    return without_passwords(f"{type(error).__name__}: {lines[-1].strip()[:300]}")


class MantaError(Exception):
    """A failure with a known reason. Its message shows no passwords of URLs."""

    def __str__(self) -> str:
        return without_passwords(super().__str__())

    exit_code = 1


class RunError(MantaError):
    """A failure while the work ran (exit code 1)."""


class InputError(MantaError):
    """A wrong config, data or argument; nothing was started or written (exit code 2)."""

    exit_code = 2
