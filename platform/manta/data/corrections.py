"""`data.corrections`: decisions of people about labels, applied when rows are read. The files of the rows stay as they are.

The format of the decisions is that of `manta.label_check.decisions`. Several decisions about a text are applied one after another:
each to the label that the ones before it gave, or to the label in the file.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from manta.data.coded import Coder
from manta.data.look_alikes import folded
from manta.data.stored import taken
from manta.errors import InputError
from manta.label_check.decisions import LabelDecision, read_decisions, text_hash
from manta.labels import names_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from manta.data.coded import Coded
    from manta.data.collect import Rows
    from manta.labels import RowLabels

MOST_SHOWN = 3
Numbered = tuple[int, LabelDecision]
"""A decision with its line in the file."""


@dataclass(frozen=True)
class Corrections:
    """What the decisions of a file have done to the rows."""

    file: str
    applied: int
    """Decisions that rows follow, those that keep a label included."""
    unused: int
    """Decisions about texts that no row has."""
    conflicting: int
    """Decisions about a label that no row with the text has."""
    relabelled: int
    """Rows with another label than in their file."""
    dropped: int
    """Rows that are left out."""
    conflicts: tuple[str, ...] = ()
    """One sentence for each of the first conflicting decisions."""

    def sentences(self) -> list[str]:
        """Return the counts in one sentence, and one for each of the first conflicts."""
        counts = f"{self.applied:,} applied, {self.unused:,} unused as no row has their text, {self.conflicting:,} conflicting"
        done = f"rows with another label: {self.relabelled:,}; rows left out: {self.dropped:,}"
        more = self.conflicting - len(self.conflicts)
        return [f"decisions of {self.file}: {counts} ({done}).", *self.conflicts, *([f"{more:,} more conflicts."] if more else [])]


@dataclass
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
    usual: dict[str, str] | None = None,
) -> Corrected:
    """Apply the decisions of a file to the rows of all splits.

    `known` are the labels of the data. `usual` are their spellings by `folded` name, if spellings are merged.

    Raises:
        InputError: the file is missing or faulty, a new label is not a known one, or no row is left; the message names the line.
    """
    decisions: dict[str, list[Numbered]] = defaultdict(list)
    numbered = [(line, _respelled(decision, usual or {})) for line, decision in read_decisions(Path(location).expanduser())]
    for line, decision in numbered:
        decisions[decision.text_hash].append((line, decision))
    used: set[int] = set()
    places: dict[int, str] = {}
    corrected = Corrected({}, {}, Corrections(location, 0, 0, 0, 0, 0))
    relabelled = dropped = 0
    for name, split in rows.items():
        changed: dict[int, RowLabels | None] = {}
        for index, text in enumerate(split.texts):
            about = decisions.get(text_hash(text))
            if about is None:
                continue
            now, lines = followed(labels[name][index], about)
            used |= lines
            places |= {line: f"{split.where(index)} has {_shown(labels[name][index])}" for line, _ in about if line not in lines}
            _check_known(about, lines, known, location)
            if now != labels[name][index]:
                changed[index] = now
        corrected.rows[name], corrected.labels[name] = _changed(split, labels[name], changed)
        dropped += sum(label is None for label in changed.values())
        relabelled += sum(label is not None for label in changed.values())
        if not corrected.rows[name].texts:
            raise InputError(f"{location}: its decisions drop every row of {split.source}; remove some of them.")
    conflicting = [(line, decision) for line, decision in numbered if line not in used and line in places]
    corrected.corrections = Corrections(
        location,
        applied=len(used),
        unused=len(numbered) - len(used) - len(conflicting),
        conflicting=len(conflicting),
        relabelled=relabelled,
        dropped=dropped,
        conflicts=tuple(_conflict(location, *item, places[item[0]]) for item in conflicting[:MOST_SHOWN]),
    )
    return corrected


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


def _respelled(decision: LabelDecision, usual: dict[str, str]) -> LabelDecision:
    def respelled(label: Any) -> Any:
        if label is None or isinstance(label, str):
            return label and usual.get(folded(label), label)
        return tuple(sorted({usual.get(folded(name), name) for name in label}))

    return dataclasses.replace(decision, old=respelled(decision.old), new=respelled(decision.new)) if usual else decision


def _check_known(decisions: list[Numbered], lines: set[int], known: Collection[str], location: str) -> None:
    for line, decision in decisions:
        unknown = [name for name in names_of(decision.new or ()) if name not in known]
        if line in lines and unknown:
            listed = ", ".join(sorted(known)[:8]) + ("…" if len(known) > 8 else "")
            raise InputError(f"{location}, line {line}: {unknown[0]!r} is not a label of the data ({listed}); fix the line.")


def _changed(rows: Rows, labels: Coded[RowLabels], changed: dict[int, RowLabels | None]) -> tuple[Rows, Coded[RowLabels]]:
    """Return the rows with other labels, without those whose label is None."""
    if not changed:
        return rows, labels
    kept = np.array([index for index in range(len(labels)) if changed.get(index, "") is not None], dtype=np.int64)
    coder: Coder[RowLabels] = Coder()
    now = (changed.get(index, labels[index]) for index in kept.tolist())
    coder.extend(label for label in now if label is not None)
    columns = {name: [values[index] for index in kept] for name, values in rows.columns.items()}
    given = taken(rows.labels, kept)
    left = dataclasses.replace(
        rows, texts=taken(rows.texts, kept), labels=given, positions=taken(rows.positions, kept), columns=columns
    )
    return left, coder.coded()


def _conflict(location: str, line: int, decision: LabelDecision, place: str) -> str:
    return f"{location}, line {line}: the decision is about {_shown(decision.old)}, but {place}; it is not applied."


def _shown(label: RowLabels) -> str:
    return f"the label {', '.join(names_of(label))!r}" if names_of(label) else "no label"
