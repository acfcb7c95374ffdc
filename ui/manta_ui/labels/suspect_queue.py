"""The suspects of a check that wait for a person's decision, the most doubtful first, and the decisions about them on disk."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from manta.errors import InputError
from manta.label_check.decisions import LabelDecision, add_decisions, now_in_utc, read_decisions
from manta.label_check.suspects import CHECKS, SUSPECTS_FILE, Suspects

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from manta.label_check.suspects import Suspect
    from manta.labels import RowLabels

AWAY_S = 600.0
"""Seconds after which a row that somebody else looks at is offered to others."""
Key = tuple[str, "RowLabels"]
"""Text hash and given label: one decision is about all rows that have both."""


@dataclass(frozen=True, eq=False)
class SuspectQueue:
    """The suspects of a check and the place of one person in it. Gradio sees any new one as changed."""

    found: Suspects
    decided: Mapping[Key, LabelDecision]
    """The last decision of anybody about each row."""
    at: int
    """Index of the shown suspect; after the last one, their number."""
    mine: tuple[tuple[int, LabelDecision], ...] = ()
    """This person's decisions that can be taken back, the last one last, each with its suspect's index."""

    @property
    def suspect(self) -> Suspect | None:
        """The suspect that is shown; None after the last one."""
        return self.found.rows[self.at] if self.at < len(self.found.rows) else None

    @property
    def num_decided(self) -> int:
        """Number of suspects about which somebody has decided."""
        return sum(key_of(suspect) in self.decided for suspect in self.found.rows)

    def moved(self, steps: int) -> SuspectQueue:
        """Return the queue at a later suspect, or at an earlier one, decided or not."""
        return replace(self, at=min(max(self.at + steps, 0), len(self.found.rows)))


class Desks:
    """Which suspect each open page shows, so that two people are not given the same one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown: dict[str, tuple[Path, int, float]] = {}

    def next_open(self, queue: SuspectQueue, *, start: int, session: str) -> SuspectQueue:
        """Return the queue at the first suspect from `start` on that is not decided and that nobody else looks at."""
        now = time.monotonic()
        with self._lock:
            others = {
                at
                for other, (file, at, when) in self._shown.items()
                if other != session and file == queue.found.decisions and now - when < AWAY_S
            }
            rows = queue.found.rows
            is_open = (at for at in range(start, len(rows)) if at not in others and key_of(rows[at]) not in queue.decided)
            at = next(is_open, len(rows))
            self._shown[session] = queue.found.decisions, at, now
        return replace(queue, at=at)


def key_of(suspect: Suspect) -> Key:
    """Return what a decision about a suspect is about."""
    return suspect.text_hash, suspect.given


def check_files(root: Path) -> list[Path]:
    """Return the files of suspects in a storage folder, the newest first."""
    return sorted((root / CHECKS).glob(f"*/{SUSPECTS_FILE}"), key=lambda path: path.stat().st_mtime, reverse=True)


def opened(file: Path) -> SuspectQueue:
    """Return the queue of a file of suspects, at its beginning.

    Raises:
        InputError: the file of suspects or of decisions is missing or faulty.
    """
    return refreshed(SuspectQueue(Suspects.read(file), {}, 0))


def refreshed(queue: SuspectQueue) -> SuspectQueue:
    """Return the queue with the decisions that everybody has made up to now.

    Raises:
        InputError: the file of decisions is faulty.
    """
    path = queue.found.decisions
    decided = {(item.text_hash, item.old): item for _, item in read_decisions(path)} if path.exists() else {}
    return replace(queue, decided=decided)


def decide(queue: SuspectQueue, new: RowLabels | None, *, who: str) -> SuspectQueue:
    """Write a decision about the shown suspect to disk, and return the queue with it.

    Raises:
        InputError: a label is not one of the data, or the file cannot be written.
    """
    suspect = queue.suspect
    if suspect is None:
        raise InputError("there is no row to decide about; open the check again.")
    unknown = _unknown(new, queue.found.labels)
    if unknown:
        raise InputError(f"{unknown[0]!r} is not a label of the data; choose one of its labels.")
    decision = LabelDecision(suspect.text_hash, suspect.given, new, who, now_in_utc())
    _write(queue.found.decisions, decision)
    return replace(queue, decided={**queue.decided, key_of(suspect): decision}, mine=(*queue.mine, (queue.at, decision)))


def taken_back(queue: SuspectQueue) -> SuspectQueue:
    """Take this person's last decision back on disk, and return the queue at its suspect; unchanged if there is none.

    Raises:
        InputError: the file cannot be written.
    """
    if not queue.mine:
        return queue
    at, decision = queue.mine[-1]
    _write(queue.found.decisions, replace(decision, undone=True))
    return refreshed(replace(queue, at=at, mine=queue.mine[:-1]))


def _unknown(new: RowLabels | None, labels: Collection[str]) -> list[str]:
    names = () if new is None else (new,) if isinstance(new, str) else new
    return [name for name in names if name not in labels]


def _write(path: Path, decision: LabelDecision) -> None:
    try:
        add_decisions(path, [decision])
    except OSError as error:
        raise InputError(f"{path}: the decision is not kept ({error.strerror}); make room or have its rights changed.") from None
