"""The rows that wait for a person's judgment: those of a classified file, or a sample of the texts that the service was asked."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from manta_ui.classify.row_answers import RowAnswer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from manta_ui.classify.row_files import RowFile
    from manta_ui.clients.api import Answer, ModelInfo, Said, SampledText, Text

NUM_RANDOM = 30
"""Texts of a random sample to judge."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows with their answers."""

    name: str
    """Name of their source, for use in a sentence."""
    texts: list[Text]
    answers: list[RowAnswer]
    model: ModelInfo


@dataclass(frozen=True, eq=False)
class Classified(Rows):
    """A file's rows with their answers."""

    file: RowFile
    seconds: float
    """Seconds that the classification took."""


@dataclass(frozen=True, eq=False)
class Sampled(Rows):
    """Texts that the service was asked, in random order, with the answers it gave."""

    known: list[Answer]
    """The answers with all scores."""
    corrections: list[Said | None]
    """Earlier judgments, by row."""

    @classmethod
    def of(cls, sampled: Sequence[SampledText], *, model: ModelInfo) -> Sampled:
        """Return the rows of a sample."""
        known = [item.answer for item in sampled]
        return cls(
            "the service's latest texts",
            [item.texts for item in sampled],
            [RowAnswer.of(answer) for answer in known],
            model,
            known,
            [item.correction for item in sampled],
        )


@dataclass(frozen=True, eq=False)
class Queue:
    """Rows in the order in which they are judged, and what was said so far. Gradio sees any new one as changed."""

    rows: Rows
    order: tuple[int, ...]
    """Indices of the rows to judge, each with an answer."""
    at: int = 0
    """Position in `order`; after the last row, its length."""
    said: Mapping[int, Said] = field(default_factory=dict)
    """The labels that people gave, by row."""
    is_random: bool = False
    """True if the rows are a random sample, so that the share of right answers estimates the accuracy."""

    @classmethod
    def of(cls, rows: Rows) -> Queue:
        """Return the rows without a judgment, the least sure first."""
        before = rows.corrections if isinstance(rows, Sampled) else []
        judged = {index for index, said in enumerate(before) if said is not None}
        open_rows = [index for index, answer in enumerate(rows.answers) if answer.problem is None and index not in judged]
        return cls(rows, tuple(sorted(open_rows, key=lambda index: _sureness(rows.answers[index]))))

    @classmethod
    def at_random(cls, rows: Sampled) -> Queue:
        """Return NUM_RANDOM of the sampled texts, at the first one that nobody has judged."""
        order = tuple(range(min(NUM_RANDOM, len(rows.texts))))
        said = {index: correction for index in order if (correction := rows.corrections[index]) is not None}
        at = next((place for place, index in enumerate(order) if index not in said), len(order))
        return cls(rows, order, at, said, is_random=True)

    @property
    def row(self) -> int | None:
        """Index of the row that is shown; None after the last one."""
        return self.order[self.at] if self.at < len(self.order) else None

    @property
    def num_right(self) -> int:
        """Number of judged rows whose answer was right."""
        answers = self.rows.answers
        return sum(set(answers[row].labels) == ({said} if isinstance(said, str) else set(said)) for row, said in self.said.items())

    def moved(self, steps: int) -> Queue:
        """Return the queue at a later row, or at an earlier one."""
        return replace(self, at=min(max(self.at + steps, 0), len(self.order)))

    def turned_to(self, row: int) -> Queue:
        """Return the queue at a row; unchanged if that row has no answer."""
        return replace(self, at=self.order.index(row)) if row in self.order else self

    def heard(self, row: int, said: Said) -> Queue:
        """Return the queue after a judgment on the shown row: at the next one."""
        return replace(self, said={**self.said, row: said}).moved(1)


def _sureness(answer: RowAnswer) -> tuple[bool, float]:
    return not answer.uncertain, answer.score or 0.0
