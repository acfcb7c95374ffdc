"""The log of decisions about a model's versions: who decided what, when, why and on which figures.

Each decision is one tag of the registered model, under its own key. A tag is set completely or not at all, so two decisions at the
same time are both kept. Every machine that uses the registry reads the same log, from a SQLite file or from a server. This module
never changes or removes a decision.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manta.registry.gate import GateLine
from manta.storage.audit import acting_user

KEY_PREFIX = "manta.decision."

Action = Literal["first", "promoted", "forced", "refused", "rolled back", "deleted"]
CROWNING = ("first", "promoted", "forced")


class Decision(BaseModel):
    """One entry of the log."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    action: Action
    """`first`: champion without comparison, because there was none. `forced`: champion in spite of the gate."""
    version: int
    """The version that the decision is about; for a rollback, the version that is champion again."""
    previous: int | None = None
    """The champion before the decision."""
    why: str = ""
    by: str = Field(default_factory=acting_user)
    at: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="microseconds"))
    """Time in UTC, ISO 8601."""
    figures: tuple[GateLine, ...] = ()
    """The lines of the gate, if it was run."""

    def key(self) -> str:
        """Return a unique key for a tag. Keys sort by time."""
        moment = "".join(sign for sign in self.at[:26] if sign not in "-:")  # older servers accept no colons
        return f"{KEY_PREFIX}{moment}.{secrets.token_hex(4)}"


def read_decisions(tags: dict[str, str]) -> list[Decision]:
    """Return the decisions among a registered model's tags, oldest first. Decisions that this version cannot read are skipped."""
    found: list[Decision] = []
    for key in sorted(key for key in tags if key.startswith(KEY_PREFIX)):
        try:
            found.append(Decision.model_validate_json(tags[key]))
        except ValidationError:
            continue
    return found


def line_of_champions(decisions: Sequence[Decision]) -> list[int]:
    """Return the champions that a rollback would return to, in order, and at the end the current champion.

    A rollback removes the current champion, and any champions between it and the one it returns to.
    """
    line: list[int] = []
    for decision in decisions:
        if decision.action in CROWNING:
            if decision.previous is not None and line[-1:] != [decision.previous]:
                line.append(decision.previous)  # became the champion outside of Manta
            line.append(decision.version)
        elif decision.action == "rolled back":
            del line[-1:]
            while line and line[-1] != decision.version:
                line.pop()
            line = line or [decision.version]
    return line
