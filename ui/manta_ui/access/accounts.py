"""The accounts that may log in to the page: a file of names and hashed passwords, which only its owner may write.

A password is stored as its scrypt hash with its own salt (RFC 7914, with the cost that OWASP's cheat sheet on password storage
recommends). The file is read again at each login and each check of rights, so that a removal takes effect at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
import stat
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from manta.errors import InputError
from manta.storage import audit
from manta.storage.folders import Storage, disk_errors, write_atomically

if TYPE_CHECKING:
    from pathlib import Path

LOG = logging.getLogger("manta.page")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")
LONGEST_NAME = 100
SHORTEST_PASSWORD = 10
LONGEST_PASSWORD = 1000
SALT_BYTES = 16
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**15, 8, 3
SCRYPT_MEMORY_BYTES = 64 * 1024**2
OWNER_ONLY = 0o600
TOO_OPEN = 0o037
"""Permissions that the file must not give: write to its group, anything to others. The group may read, as for mounted secrets."""
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
"""The wait after a wrong password: it doubles with each further one for the same name."""
FORGETS_AFTER_S = 900.0
MOST_WAITING = 5
"""Attempts for one name that may wait; more are refused at once."""
MOST_NAMES = 10_000
CALM_S = 60.0
"""Seconds between two audit records of unknown names, so that nobody fills the disk with made-up ones."""
UNKNOWN = "an unknown name"
"""Stands in the audit log for a name that is not in the file, because people type passwords there, too."""


class Account(BaseModel):
    """The stored data of one person."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    salt: str
    """Hexadecimal."""
    scrypt: str
    """Hexadecimal; the hash of the password's UTF-8 bytes."""
    may_promote: bool = False
    """True if this person may change which version answers, and start and stop jobs."""


class AccountFile(BaseModel):
    """Content of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    accounts: tuple[Account, ...] = ()


@dataclass
class _Attempts:
    """The attempts to log in under one name, which are checked one at a time."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    num_wrong: int = 0
    """Wrong passwords in a row."""
    num_waiting: int = 0
    last: float = 0.0
    """Time of the last wrong password."""

    def wait_s(self) -> float:
        """Return the seconds until the next password is checked."""
        now = time.monotonic()
        if not self.num_wrong or now - self.last > FORGETS_AFTER_S:
            self.num_wrong = 0
            return 0.0
        return max(0.0, self.last + min(FIRST_WAIT_S * 2.0 ** (self.num_wrong - 1), LONGEST_WAIT_S) - now)


class Accounts:
    """The accounts of one file. Who logs in, and who fails to, is in the audit log of this machine's storage."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser()
        self._storage = Storage.resolve(None)
        self._num_unknown = 0
        """Attempts under unknown names that are not yet on record."""
        self._told_of_unknown = float("-inf")
        self._attempts: OrderedDict[str, _Attempts] = OrderedDict()

    def add(self, name: str, *, password: str, may_promote: bool) -> None:
        """Add a person who may log in. An existing person gets the new password and rights.

        Raises:
            InputError: the name is not valid, the password is too short or too long, or the file is damaged.
            RunError: the file cannot be written.
        """
        if not NAME.fullmatch(name):
            raise InputError(f"{name!r}: not a name to log in with; take letters, digits and . _ @ -, 100 at most.")
        if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
            raise InputError(
                f"the password has {len(password)} characters; take {SHORTEST_PASSWORD} or more, and {LONGEST_PASSWORD} at most."
            )
        salt = secrets.token_bytes(SALT_BYTES)
        account = Account(name=name, salt=salt.hex(), scrypt=_hash(password, salt).hex(), may_promote=may_promote)
        others = [item for item in (self.all() if self.path.exists() else ()) if item.name != name]
        self._write(*others, account)

    def remove(self, name: str) -> None:
        """Remove a person. Someone who is logged in is logged out.

        Raises:
            InputError: there is no such person, or the file is damaged.
            RunError: the file cannot be written.
        """
        found = self.all()
        left = [item for item in found if item.name != name]
        if len(left) == len(found):
            names = ", ".join(item.name for item in found) or "nobody"
            raise InputError(f"{name}: there is no such user in {self.path}, which has {names}.")
        self._write(*left)

    def all(self) -> tuple[Account, ...]:
        """Return all accounts, in the order in which they were added.

        Raises:
            InputError: the file is missing or damaged, or its permissions are too open.
        """
        try:
            mode = stat.S_IMODE(self.path.stat().st_mode)
            if mode & TOO_OPEN:
                raise InputError(f"{self.path} holds hashed passwords and is open to others (mode {mode:o}); chmod 600 {self.path}")
            return AccountFile.model_validate_json(self.path.read_bytes()).accounts
        except FileNotFoundError:
            raise InputError(f"{self.path}: no such file; make it with: manta ui add-user NAME --auth {self.path}") from None
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror}).") from None
        except ValidationError:
            raise InputError(f"{self.path}: damaged; remove it and add the users again with manta ui add-user.") from None

    def has(self, user: str) -> bool:
        """Tell whether this person may log in."""
        return any(item.name == user for item in self._readable())

    def may_promote(self, user: str) -> bool:
        """Tell whether this person may change which version answers, and start and stop jobs."""
        return any(item.may_promote for item in self._readable() if item.name == user)

    async def check(self, user: str, password: str) -> bool:
        """Tell whether name and password match. Each wrong password makes the next one for that name wait longer."""
        attempts = self._attempts.setdefault(user[:LONGEST_NAME], _Attempts())
        self._attempts.move_to_end(user[:LONGEST_NAME])
        if len(self._attempts) > MOST_NAMES:
            self._attempts.popitem(last=False)
        if attempts.num_waiting >= MOST_WAITING:
            return False
        attempts.num_waiting += 1
        try:
            async with attempts.lock:
                await asyncio.sleep(attempts.wait_s())
                if await asyncio.to_thread(self._matches, user, password):
                    attempts.num_wrong = 0
                    audit.record(self._storage, "logged in", by=user)
                    return True
                attempts.num_wrong += 1
                attempts.last = time.monotonic()
                LOG.warning("wrong password for %.100r, %d in a row", user, attempts.num_wrong)
                self._record_refusal(user, in_a_row=attempts.num_wrong)
                return False
        finally:
            attempts.num_waiting -= 1

    def _record_refusal(self, user: str, *, in_a_row: int) -> None:
        """Put a failed log-in on record. Attempts under a known name are few, as each one waits longer."""
        if self.has(user):
            audit.record(self._storage, "log-in refused", by=user, count=in_a_row)
            return
        self._num_unknown += 1
        now = time.monotonic()
        if now - self._told_of_unknown >= CALM_S:
            audit.record(self._storage, "log-in refused", by=UNKNOWN, count=self._num_unknown)
            self._num_unknown, self._told_of_unknown = 0, now

    def _matches(self, user: str, password: str) -> bool:
        if len(password) > LONGEST_PASSWORD:
            return False
        account = next((item for item in self._readable() if item.name == user), None)
        # An unknown name costs a hash, too, so that the time does not reveal which names exist.
        salt = bytes.fromhex(account.salt) if account else bytes(SALT_BYTES)
        found = _hash(password, salt)
        return account is not None and hmac.compare_digest(found.hex(), account.scrypt)

    def _readable(self) -> tuple[Account, ...]:
        """Return all accounts, or none if the file cannot be read. It was checked when the page was started."""
        with suppress(InputError):
            return self.all()
        return ()

    def _write(self, *accounts: Account) -> None:
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, AccountFile(accounts=accounts).model_dump_json(indent=2) + "\n", mode=OWNER_ONLY)


def _hash(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(
        password.encode("utf-8", "surrogatepass"), salt=salt, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P, maxmem=SCRYPT_MEMORY_BYTES
    )
