"""`TrafficSample`: a random sample of the texts that a model was asked lately, for people to judge.

The sample is of distinct texts: each has a random priority by its hash, and those of lowest priority stay (a bottom-k sample,
Cohen and Kaplan 2007, https://doi.org/10.1145/1281100.1281133). So a text that was asked often is no more likely to be in it.
Texts are in memory only, and go with the replica.
"""

from __future__ import annotations

import heapq
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from manta_serve.batching.answer_cache import text_digest
from manta_serve.monitoring.drift import PART_ROWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.inference.predictor import Prediction
    from manta.texts import Text
    from manta_serve.batching.answer import Answer

MOST_TEXTS = 200
"""Texts in a sample: enough to tell an accuracy within some five points."""


@dataclass(frozen=True)
class SampledText:
    """A text or pair, and its latest answer."""

    text: Text
    prediction: Prediction
    version: int


@dataclass
class _Part:
    """The sample of up to PART_ROWS answers in a row."""

    texts: dict[int, SampledText] = field(default_factory=dict)
    """The texts by priority."""
    highest: list[int] = field(default_factory=list)
    """A heap of their priorities, negated."""
    num_answers: int = 0

    def add(self, priority: int, sampled: SampledText) -> None:
        self.num_answers += 1
        if priority not in self.texts:
            if len(self.texts) < MOST_TEXTS:
                heapq.heappush(self.highest, -priority)
            elif priority < -self.highest[0]:
                del self.texts[-heapq.heappushpop(self.highest, -priority)]
            else:
                return
        self.texts[priority] = sampled


class TrafficSample:
    """A sample of up to MOST_TEXTS texts of a model's latest 1,000 to 2,000 answers. It is for one event loop."""

    def __init__(self) -> None:
        self._salt = secrets.token_bytes(16)  # so that no client can choose texts that stay
        self._now, self._before = _Part(), _Part()

    @property
    def num_answers(self) -> int:
        """Number of answers that the sample is from."""
        return self._now.num_answers + self._before.num_answers

    def add(self, texts: Sequence[Text], answer: Answer) -> None:
        """Offer the texts of a request, with their answers."""
        for text, prediction in zip(texts, answer.predictions, strict=True):
            priority = int.from_bytes(text_digest(text, salt=self._salt))
            self._now.add(priority, SampledText(text, prediction, answer.model.version))
            if self._now.num_answers >= PART_ROWS:
                self._before, self._now = self._now, _Part()

    def texts(self, *, version: int) -> list[SampledText]:
        """Return the sampled texts that a version answered, in random order: the first ones are a random sample, too."""
        both = self._before.texts | self._now.texts
        lowest = sorted(both)[:MOST_TEXTS]
        return [both[priority] for priority in lowest if both[priority].version == version]
