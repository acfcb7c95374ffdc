"""`DriftWindow`: whether what a version answers lately looks like its answers to the validation rows.

It shows before anybody knows which answers were right that other questions come in, or the same ones in other words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from manta.inference.answer_profile import confidence_bin, stability_by_chance, stability_index

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.inference.answer_profile import AnswerProfile

PART_ROWS = 1000
"""The window is the part that fills up and the full one before it, so it goes on with 1,000 to 2,000 answers."""
LEAST_ROWS = 200
"""Fewer say nothing."""


@dataclass(frozen=True)
class Drift:
    """How far the window's answers are from those to the validation rows."""

    index: float
    """Population stability index."""
    by_chance: float
    """What it would be on average if nothing had changed."""


class DriftWindow:
    """The latest answers of a version, counted as the profile in its manifest is."""

    def __init__(self, expected: AnswerProfile, *, labels: Sequence[str]) -> None:
        self._expected = expected
        self._places = {name: place for place, name in enumerate(labels)}
        self._now, self._before = self._empty(), self._empty()

    @property
    def num_rows(self) -> int:
        """Answers in the window."""
        return self._now.num_rows + self._before.num_rows

    def add(self, labels: Sequence[str], confidence: float) -> None:
        """One answer: the labels that apply, and how sure it is."""
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
        """The drift of `labels` and of `confidence`; nothing while there are too few answers."""
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
