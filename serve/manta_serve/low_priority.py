"""Work that gives way: the processor is given to it when no answer needs it."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

NICENESS = 10
"""Of 19."""


def give_way() -> None:
    """Lower the calling thread's priority, and that of the threads it starts."""
    if sys.platform == "linux":  # elsewhere a thread has no priority of its own
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
