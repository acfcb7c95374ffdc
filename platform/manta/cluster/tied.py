"""`start_tied` runs a command that ends with the process that started it, also if that one is killed.

Between the two stands a small process of this module, whose stdin is a pipe from the starter. The kernel closes the pipe when the
starter ends. A parent-death signal of Linux would not do: it follows the thread that started the command.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import Any

MARGIN_S = 5.0


def start_tied(command: list[str], *, stops_within_s: float, **options: Any) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, with options of `Popen`. `stop_tied` ends it, and so does the end of this process.

    It gets SIGTERM, and after `stops_within_s` it is killed, with all processes of its group.
    """
    tie = [sys.executable, "-IS", __file__, str(stops_within_s), *command]
    return subprocess.Popen(tie, stdin=subprocess.PIPE, start_new_session=True, **options)  # noqa: S603  # our own command


def stop_tied(process: subprocess.Popen[bytes], *, stops_within_s: float) -> None:
    """End a command that `start_tied` started, and wait for its end."""
    if process.stdin is not None:
        process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(stops_within_s + MARGIN_S)


def main() -> None:
    """Run the command of the arguments until it ends or stdin is closed. The standard library is all that is imported here."""
    stops_within_s, command = float(sys.argv[1]), sys.argv[2:]
    signal.signal(signal.SIGTERM, lambda *_: None)  # it is sent to the whole group, and meant for the others
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603  # the starter's

    def end_with_it() -> None:
        os._exit(process.wait() & 0xFF)

    threading.Thread(target=end_with_it, daemon=True).start()
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(stops_within_s)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
