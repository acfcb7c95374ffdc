"""Low priority for threads whose work must not delay answers."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

NICENESS = 10
"""Nice value; 19 is the lowest priority."""


def give_way() -> None:
    """Lower the priority of the calling thread and of the threads that it starts."""
    if sys.platform == "linux":  # other systems have no priority per thread
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
