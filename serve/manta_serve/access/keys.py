"""`KeyStore`: the API keys of a service, in `<storage>/keys.json`. It holds only their SHA-256, and only its owner may read it.

A key has 256 random bits, so it cannot be guessed, and a plain hash is as safe as a slow one.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from manta.errors import InputError
from manta.storage import audit
from manta.storage.folders import disk_errors, write_atomically
from manta_serve.http.paths import KeyScope

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from manta.storage.folders import Storage

PREFIX = "manta_"
"""Prefix of every key, by which scanners for leaked secrets find it."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
LOOK_EVERY_S = 1.0
LONGEST_KEY = 200
OWNER_ONLY = 0o600
SCOPES: tuple[KeyScope, ...] = get_args(KeyScope)
logger = logging.getLogger(__name__)


class ApiKey(BaseModel):
    """The stored data of one key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """The person or service the key is for. It appears in logs and request counts; the key itself never does."""
    sha256: str
    created: str
    """UTC, ISO 8601."""
    scopes: tuple[KeyScope, ...] = SCOPES
    """Purposes that the key may be used for."""
    ends: str | None = None
    """Time from which the key is refused, in UTC, ISO 8601. None: never."""

    def has_ended(self, now: datetime) -> bool:
        """Tell whether the key is refused because of its end."""
        return self.ends is not None and now >= datetime.fromisoformat(self.ends)


class KeyFile(BaseModel):
    """Content of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[ApiKey, ...] = ()


class KeyStore:
    """The keys of one storage. Any thread and any number of processes may use it at once."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.path: Path = storage.on_disk(what="API keys are a file that all replicas read") / "keys.json"
        self._known: tuple[ApiKey, ...] = ()
        self._seen: tuple[int, ...] | None = None
        self._looked_at = float("-inf")
        self._lock = threading.Lock()

    def create(self, name: str, *, scopes: Sequence[KeyScope] = SCOPES, days: int | None = None) -> str:
        """Create a key and return it. It cannot be shown again. With `days`, it is refused after that time.

        Raises:
            InputError: the name is taken or not valid, or the storage cannot be written.
        """
        if not NAME.fullmatch(name):
            raise InputError(f"{name!r}: not a name for a key; take letters, digits, dots, dashes and underscores, 100 at most.")
        key = PREFIX + secrets.token_urlsafe(32)
        with self._writing():
            keys = self._read()
            if any(item.name == name for item in keys):
                raise InputError(f"{name}: there is a key of that name already; revoke it first, or take another name.")
            now = datetime.now(UTC)
            ends = None if days is None else (now + timedelta(days=days)).isoformat(timespec="seconds")
            kept = tuple(scope for scope in SCOPES if scope in scopes)
            created = now.isoformat(timespec="seconds")
            self._write((*keys, ApiKey(name=name, sha256=_digest(key), created=created, scopes=kept, ends=ends)))
        audit.record(self.storage, "key created", by=audit.acting_user(), key=name, scopes=kept, ends=ends)
        return key

    def list(self) -> list[ApiKey]:
        """Return the stored data of every key, oldest first.

        Raises:
            InputError: the file is damaged.
        """
        return [*self._read()]

    def revoke(self, name: str) -> None:
        """Revoke a key. Running services refuse it within a second or two.

        Raises:
            InputError: there is no key of that name.
        """
        with self._writing():
            keys = self._read()
            left = tuple(item for item in keys if item.name != name)
            if len(left) == len(keys):
                names = ", ".join(item.name for item in keys) or "none"
                raise InputError(f"{name}: no key of that name; there are: {names}.")
            self._write(left)
        audit.record(self.storage, "key revoked", by=audit.acting_user(), key=name)

    def any(self) -> bool:
        """Tell whether there is any key.

        Raises:
            InputError: the file is damaged.
        """
        return bool(self._read())

    def check(self, key: str) -> ApiKey | None:
        """Return what is stored of a valid key, else None. The time it takes reveals nothing about the stored keys."""
        if len(key) > LONGEST_KEY:
            return None
        digest = _digest(key)
        found: ApiKey | None = None
        for item in self._current():
            if hmac.compare_digest(item.sha256, digest):
                found = item
        return None if found is None or found.has_ended(datetime.now(UTC)) else found

    def _current(self) -> tuple[ApiKey, ...]:
        """Return the keys, read at most one second ago; none if the file cannot be read."""
        with self._lock:
            now = time.monotonic()
            if now - self._looked_at < LOOK_EVERY_S:
                return self._known
            self._looked_at = now
            seen = self._state()
            if seen != self._seen:
                try:
                    self._known = self._read()
                except InputError as error:
                    logger.error("every key is refused: %s", error)
                    self._known = ()
                self._seen = seen
            return self._known

    def _state(self) -> tuple[int, ...]:
        """Return values that change when the file changes."""
        try:
            found = self.path.stat()
        except OSError:
            return ()
        return (found.st_mtime_ns, found.st_ino, found.st_size)

    def _read(self) -> tuple[ApiKey, ...]:
        try:
            return KeyFile.model_validate_json(self.path.read_bytes()).keys
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror}); only the user who made the keys may.") from None
        except ValidationError:
            raise InputError(f"{self.path}: damaged; remove it and create the keys again.") from None

    def _write(self, keys: tuple[ApiKey, ...]) -> None:
        with disk_errors(self.path):
            write_atomically(self.path, KeyFile(keys=keys).model_dump_json(indent=2) + "\n", mode=OWNER_ONLY)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the lock for writing. With one writer at a time, a revoked key cannot come back."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, OWNER_ONLY)
        except OSError as error:
            raise InputError(f"{self.path.parent}: cannot be written ({error.strerror}); set MANTA_STORAGE.") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
