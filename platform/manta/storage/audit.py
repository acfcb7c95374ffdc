"""The audit log of a storage: who made and revoked keys, which keys were refused, who logged in, and which version became champion.

It is `<storage>/audit.jsonl`, one JSON object a line, readable by its owner only. Lines are added, never changed. A storage in an
object store has none; the decisions about versions are in its registry all the same.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from manta.storage.folders import Storage

FILE = "audit.jsonl"
USER = "MANTA_USER"
OWNER_ONLY = 0o600
logger = logging.getLogger(__name__)


def acting_user() -> str:
    """Return $MANTA_USER, else user@host."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        name = str(os.getuid())
    return os.environ.get(USER) or f"{name}@{socket.gethostname()}"


def record(storage: Storage, event: str, *, by: str, **facts: object) -> None:
    """Add a line. If that fails, the log of the process has the reason, and what happened goes on."""
    if storage.url is not None:
        return
    line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, "by": by, **facts}
    path = storage.root / FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, OWNER_ONLY)
        try:
            os.write(file, (json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
        finally:
            os.close(file)
    except OSError as error:
        logger.warning("%s cannot be written (%s): %s by %s", path, error.strerror, event, by)
