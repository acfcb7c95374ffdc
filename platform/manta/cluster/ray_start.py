"""Preparation of a start of Ray on this machine, and the error if it fails. Nothing here imports Ray."""

from __future__ import annotations

import os
import secrets
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from manta.errors import MantaError, RunError, last_cause
from manta.storage.folders import partial_beside

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCAL_HOST = "127.0.0.1"
"""The address by which the processes of a cluster on this machine know each other."""
OWNER_ONLY = 0o600


@contextmanager
def starting_ray(address: str | None) -> Iterator[None]:
    """Turn what goes wrong while Ray is started, or connected to at `address`, into one sentence.

    Raises:
        RunError: with that sentence.
    """
    if address is None:
        keep_token_private()
    try:
        yield
    except MantaError:
        raise
    except Exception as error:
        if address is not None:
            raise RunError(f"no Ray cluster answers at {address} ({last_cause(error)}).") from error
        advice = "stop other work on this machine, or set RAY_ADDRESS to a cluster that runs"
        raise RunError(f"Ray did not start on this machine ({last_cause(error)}); {advice}, and try again.") from error


def keep_token_private() -> None:
    """Make the token file of this machine's clusters, readable by its owner only. Ray would make it readable by all.

    A file that Ray has made is closed to others.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):  # a home that cannot be written: Ray says what it lacks
        path.parent.mkdir(exist_ok=True)
        new = partial_beside(path)
        try:
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY), "w", encoding="utf-8") as file:
                file.write(secrets.token_hex(32))
            with suppress(FileExistsError):
                path.hardlink_to(new)  # in one step, and never over the token of a cluster that runs
        finally:
            new.unlink(missing_ok=True)
        path.chmod(OWNER_ONLY)
