"""The rows of a classified file that wait for a person's judgment, the least sure first."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from manta_ui.classify.row_answers import RowAnswer
    from manta_ui.classify.row_files import RowFile
    from manta_ui.clients.api import ModelInfo, Said, Text


@dataclass(frozen=True, eq=False)
class Classified:
    """A file's rows with their answers."""

    file: RowFile
    texts: list[Text]
    answers: list[RowAnswer]
    model: ModelInfo
    seconds: float
    """Seconds that the classification took."""


@dataclass(frozen=True, eq=False)
class Queue:
    """The rows of a file in the order in which they are judged, and what was said so far. Gradio sees any new one as changed."""

    classified: Classified
    order: tuple[int, ...]
    """Indices of the rows that have an answer."""
    at: int = 0
    """Position in `order`; after the last row, its length."""
    said: Mapping[int, Said] = field(default_factory=dict)
    """The labels that people gave, by row."""

    @classmethod
    def of(cls, classified: Classified) -> Queue:
        """Return the queue of a file, with nothing said yet."""
        answered = [index for index, answer in enumerate(classified.answers) if answer.problem is None]
        return cls(classified, tuple(sorted(answered, key=lambda index: _sureness(classified.answers[index]))))

    @property
    def row(self) -> int | None:
        """Index of the row that is shown; None after the last one."""
        return self.order[self.at] if self.at < len(self.order) else None

    @property
    def num_unsure(self) -> int:
        """Number of rows whose answer is uncertain."""
        return sum(answer.uncertain for answer in self.classified.answers)

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
