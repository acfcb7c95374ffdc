"""`DriftWindow`: compares a version's latest answers with its answers to the validation rows.

A difference shows that other questions come in, or the same ones in other words, before anyone knows which answers were right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from manta.inference.answer_profile import confidence_bin, stability_by_chance, stability_index

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.inference.answer_profile import AnswerProfile

PART_ROWS = 1000
"""Answers in one part. The window is the part being filled and the full one before it, so it holds 1,000 to 2,000 answers."""
LEAST_ROWS = 200
"""Fewest answers for which drift is reported."""


@dataclass(frozen=True)
class Drift:
    """Difference between the window's answers and those to the validation rows."""

    index: float
    """Population stability index."""
    by_chance: float
    """Average index that chance alone gives if nothing has changed."""


class DriftWindow:
    """The latest answers of a version, counted in the same way as the profile in its manifest."""

    def __init__(self, expected: AnswerProfile, *, labels: Sequence[str]) -> None:
        self._expected = expected
        self._places = {name: place for place, name in enumerate(labels)}
        self._now, self._before = self._empty(), self._empty()

    @property
    def num_rows(self) -> int:
        """Number of answers in the window."""
        return self._now.num_rows + self._before.num_rows

    def add(self, labels: Sequence[str], confidence: float) -> None:
        """Count one answer: the labels that apply, and its confidence."""
        part = self._now
        for name in labels:
            part.labels[self._places[name]] += 1
        if not labels:
            part.labels[-1] += 1  # a multilabel model's profile counts these at the end
        part.confidence[confidence_bin(confidence)] += 1
        part.num_rows += 1
        if part.num_rows >= PART_ROWS:
            self._before, self._now = part, self._empty()

    def drift(self) -> dict[str, Drift]:
        """Return the drift of `labels` and of `confidence`; an empty dictionary if there are too few answers."""
        if self.num_rows < LEAST_ROWS:
            return {}
        pairs = {
            "labels": (self._expected.labels, self._now.labels, self._before.labels),
            "confidence": (self._expected.confidence, self._now.confidence, self._before.confidence),
        }
        drift = {}
        for name, (expected, now, before) in pairs.items():
            found = [sum(counts) for counts in zip(now, before, strict=True)]
            drift[name] = Drift(stability_index(expected, found), stability_by_chance(expected, found))
        return drift

    def _empty(self) -> _Part:
        return _Part([0] * len(self._expected.labels), [0] * len(self._expected.confidence))


@dataclass
class _Part:
    labels: list[int]
    confidence: list[int]
    num_rows: int = 0
