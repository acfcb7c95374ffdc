"""`data.corrections`: decisions of people about labels, applied when rows are read. The files of the rows stay as they are.

The format of the decisions is that of `manta.label_check.decisions`. Several decisions about a text are applied one after another:
each to the label that the ones before it gave, or to the label in the file.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from manta.data.coded import Coder
from manta.errors import InputError
from manta.label_check.decisions import LabelDecision, read_decisions, text_hash
from manta.labels import names_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from manta.data.coded import Coded
    from manta.data.collect import Rows
    from manta.data.naming import Naming
    from manta.labels import RowLabels

MOST_SHOWN, MOST_LISTED = 3, 8
Numbered = tuple[int, LabelDecision]
"""A decision with its line in the file."""


@dataclass(frozen=True)
class Corrections:
    """Counts of the decisions of a file and of the rows that they changed."""

    file: str
    applied: int
    """Decisions that rows follow, those that keep a label included."""
    unused: int
    """Decisions about texts that no row has."""
    conflicting: int
    """Decisions about a label that no row with the text has."""
    relabeled: int
    """Rows with another label than in their file."""
    dropped: int
    """Rows that are left out."""
    conflicts: tuple[str, ...] = ()
    """One sentence for each of the first conflicting decisions."""

    def sentences(self) -> list[str]:
        """Return the counts in one sentence, and one for each of the first conflicts."""
        counts = f"{self.applied:,} applied, {self.unused:,} unused as no row has their text, {self.conflicting:,} conflicting"
        done = f"rows with another label: {self.relabeled:,}; rows left out: {self.dropped:,}"
        more = self.conflicting - len(self.conflicts)
        return [f"decisions of {self.file}: {counts} ({done}).", *self.conflicts, *([f"{more:,} more conflicts."] if more else [])]


@dataclass(frozen=True)
class Corrected:
    """The rows and labels of every split after the decisions."""

    rows: dict[str, Rows]
    labels: dict[str, Coded[RowLabels]]
    corrections: Corrections


def with_corrections(
    location: str,
    rows: dict[str, Rows],
    labels: dict[str, Coded[RowLabels]],
    *,
    known: Collection[str],
    naming: Naming,
) -> Corrected:
    """Apply the decisions of a file to the rows of all splits, whose labels have the names of `naming`.

    `known` are the labels of the data. Those of the decisions are renamed, too.

    Raises:
        InputError: the file is missing or faulty, a new label is not a known one, or no row is left; the message names the line.
    """
    said = Decisions(location, known=known, naming=naming)
    changes = {name: said.changes(split, labels[name]) for name, split in rows.items()}
    new_rows, new_labels = {}, {}
    for name, split in rows.items():
        new_rows[name], new_labels[name] = changed_rows(split, labels[name], changes[name])
        if not new_rows[name].texts:
            raise InputError(f"{location}: its decisions drop every row of {split.source}; remove some of them.")
    new = [label for changed in changes.values() for label in changed.values()]
    dropped = sum(label is None for label in new)
    return Corrected(new_rows, new_labels, said.corrections(relabeled=len(new) - dropped, dropped=dropped))


class Decisions:
    """The decisions of a file, and which of them rows have followed."""

    def __init__(self, location: str, *, known: Collection[str], naming: Naming) -> None:
        self._location, self._known, self._naming = location, known, naming
        self._numbered = [(line, _renamed(decision, naming)) for line, decision in read_decisions(Path(location).expanduser())]
        self._by_text: dict[str, list[Numbered]] = defaultdict(list)
        for line, decision in self._numbered:
            self._by_text[decision.text_hash].append((line, decision))
        self._used: set[int] = set()
        self._in_the_way: dict[int, str] = {}
        """A row with the text and another label, by the line of the decision that it does not follow."""

    def changes(self, rows: Rows, labels: Coded[RowLabels]) -> dict[int, RowLabels | None]:
        """Return the new label of each row that gets one; None for rows that are dropped.

        Raises:
            InputError: a new label is not a known one.
        """
        changed: dict[int, RowLabels | None] = {}
        for index, text in enumerate(rows.texts):
            about = self._by_text.get(text_hash(text))
            if about is None:
                continue
            now, lines = followed(labels[index], about)
            for line, decision in about:
                if line in lines:
                    self._check_known(line, decision)
                else:
                    self._in_the_way[line] = f"{rows.where(index)} has {_shown(labels[index])}"
            self._used |= lines
            if now != labels[index]:
                changed[index] = now
        return changed

    def corrections(self, *, relabeled: int, dropped: int) -> Corrections:
        """Return the counts, once the rows of every split were looked at."""
        conflicting = [item for item in self._numbered if item[0] not in self._used and item[0] in self._in_the_way]
        return Corrections(
            self._location,
            applied=len(self._used),
            unused=len(self._numbered) - len(self._used) - len(conflicting),
            conflicting=len(conflicting),
            relabeled=relabeled,
            dropped=dropped,
            conflicts=tuple(
                f"{self._location}, line {line}: the decision is about {_shown(decision.old)}, but {self._in_the_way[line]}; "
                "it is not applied."
                for line, decision in conflicting[:MOST_SHOWN]
            ),
        )

    def _check_known(self, line: int, decision: LabelDecision) -> None:
        unknown = [name for name in names_of(decision.new or ()) if name not in self._known and not self._naming.leaves_out(name)]
        if unknown:
            listed = ", ".join(sorted(self._known)[:MOST_LISTED]) + (", …" if len(self._known) > MOST_LISTED else "")
            raise InputError(f"{self._location}, line {line}: {unknown[0]!r} is not a label of the data ({listed}); fix the line.")


def followed(label: RowLabels, decisions: list[Numbered]) -> tuple[RowLabels | None, set[int]]:
    """Return the label that a row gets by the decisions about its text, None if it is dropped, and the lines that it follows."""
    now: RowLabels | None = label
    lines: set[int] = set()
    for line, decision in decisions:
        if decision.old in (now, label):
            now = decision.new
            lines.add(line)
        elif decision.new == now:  # the file was corrected meanwhile
            lines.add(line)
    return now, lines


def _renamed(decision: LabelDecision, naming: Naming) -> LabelDecision:
    new = None if decision.new is None else naming.of(decision.new)
    return dataclasses.replace(decision, old=naming.of(decision.old), new=new)


def changed_rows(rows: Rows, labels: Coded[RowLabels], changed: dict[int, RowLabels | None]) -> tuple[Rows, Coded[RowLabels]]:
    """Return the rows with other labels, without those whose label is None."""
    if not changed:
        return rows, labels
    kept = np.array([index for index in range(len(labels)) if changed.get(index, "") is not None], dtype=np.int64)
    coder: Coder[RowLabels] = Coder()
    now = (changed.get(index, labels[index]) for index in kept.tolist())
    coder.extend(label for label in now if label is not None)
    return rows.take(kept), coder.coded()


def _shown(label: RowLabels) -> str:
    return f"the label {', '.join(names_of(label))!r}" if names_of(label) else "no label"
