"""A function in a process of its own: a fault in an engine's compiled code ends that process, and not the command.

The process is a new Python and no child of `multiprocessing`, which would run the user's own script again.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class ProcessLostError(Exception):
    """The process ended before its function returned or raised. The message names the signal or the exit code."""


def run_in_own_process(function: Callable[..., None], *arguments: Any) -> None:
    """Run a function in a new process and wait for it. What it prints is not shown.

    The function, its arguments and its errors must be picklable.

    Raises:
        ProcessLostError: the process ended before the function.
        Exception: the function's own error.
    """
    command = [sys.executable, "-P", "-m", __name__]  # -P: no file of the working directory takes a package's place
    done = subprocess.run(command, input=pickle.dumps((function, arguments)), capture_output=True, check=False)  # noqa: S603
    if not done.stdout:
        raise ProcessLostError(_reason(done.returncode))
    error = pickle.loads(done.stdout)  # noqa: S301  # of our own process
    if error is not None:
        raise error


def _reason(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print, also those in C++, is no answer
    error: Exception | None = None
    try:
        function, arguments = pickle.load(sys.stdin.buffer)  # noqa: S301  # of the process that started this one
        function(*arguments)
    except Exception as raised:  # noqa: BLE001  # the caller raises it
        error = raised
    answers.write(pickle.dumps(error))
    answers.close()


if __name__ == "__main__":
    _main()
