"""The log of who decided what about a model's versions, when, why and on which figures.

Each decision is one tag of the registered model, under a key of its own. A tag is set whole or not at all, so two that are
made at the same time are both kept, and every machine that uses the registry reads the same log, be it a SQLite file or a
server. Nothing here ever changes or removes one.
"""

from __future__ import annotations

import getpass
import os
import secrets
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manta.registry.gate import GateLine

KEY_PREFIX = "manta.decision."
USER = "MANTA_USER"

Action = Literal["first", "promoted", "forced", "refused", "rolled back", "deleted"]
CROWNING = ("first", "promoted", "forced")


def _user() -> str:
    """$MANTA_USER, else user@host."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a container's user need not have a name
        name = str(os.getuid())
    return os.environ.get(USER) or f"{name}@{socket.gethostname()}"


class Decision(BaseModel):
    """One line of the log."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    action: Action
    """`first`: champion without comparison, as there was none. `forced`: champion in spite of the gate."""
    version: int
    """Which version it is about; after a rollback, the one that is champion again."""
    previous: int | None = None
    """The champion until then."""
    why: str = ""
    by: str = Field(default_factory=_user)
    at: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="microseconds"))
    """UTC, ISO 8601."""
    figures: tuple[GateLine, ...] = ()
    """The lines of the gate, where it was run."""

    def key(self) -> str:
        """A tag's key that no other decision has, in the order of time."""
        moment = "".join(sign for sign in self.at[:26] if sign not in "-:")  # older servers take no colons
        return f"{KEY_PREFIX}{moment}.{secrets.token_hex(4)}"


def read_decisions(tags: dict[str, str]) -> list[Decision]:
    """The decisions among a registered model's tags, oldest first; one that this version cannot read is passed over."""
    found: list[Decision] = []
    for key in sorted(key for key in tags if key.startswith(KEY_PREFIX)):
        try:
            found.append(Decision.model_validate_json(tags[key]))
        except ValidationError:
            continue
    return found


def line_of_champions(decisions: Sequence[Decision]) -> list[int]:
    """The champion that the log ends with, after those that a rollback would go back to, in order.

    A rollback takes the last one off the line, and whatever is between it and the one it went back to.
    """
    line: list[int] = []
    for decision in decisions:
        if decision.action in CROWNING:
            if decision.previous is not None and line[-1:] != [decision.previous]:
                line.append(decision.previous)  # became the champion by other hands than ours
            line.append(decision.version)
        elif decision.action == "rolled back":
            del line[-1:]
            while line and line[-1] != decision.version:
                line.pop()
            line = line or [decision.version]
    return line
