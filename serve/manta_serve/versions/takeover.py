"""The moment at which several replicas take a new champion together. Only the log of decisions and the time determine it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from manta.registry.decisions import CROWNING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.registry.decisions import Decision

TOGETHER_AFTER = timedelta(seconds=15)
"""Time from a promotion to the moment at which several replicas take the new champion: enough to notice and load it."""


def answering(decisions: Sequence[Decision], *, now: datetime) -> int | None:
    """Return the version with which running replicas answer, according to the log of decisions; None if the log does not say.

    A champion takes over TOGETHER_AFTER its decision, unless another decision comes before that.
    """
    crowned = [item for item in decisions if item.action in (*CROWNING, "rolled back")]
    if not crowned:
        return None
    found = crowned[0].previous
    for decision, following in zip(crowned, [*crowned[1:], None], strict=True):
        moment = datetime.fromisoformat(decision.at) + TOGETHER_AFTER
        until = now if following is None else datetime.fromisoformat(following.at)
        if moment <= until:
            found = decision.version
    return found
