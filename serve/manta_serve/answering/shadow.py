"""`Shadow`: the candidate also computes the champion's texts. Its answers are compared and never sent.

It has a copy of the candidate and a low-priority thread. It computes one text at a time, and only while no text waits for the
champion. Texts that it cannot compute within seconds are dropped, so it takes neither time nor memory from answers.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manta_serve.batching.low_priority import give_way
from manta_serve.monitoring.exposition import Family, Histogram
from manta_serve.monitoring.service_metrics import CONFIDENCE, SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from manta.inference.predictor import Prediction
    from manta.texts import Text
    from manta_serve.batching.answer import Answer
    from manta_serve.versions.choice import Models
    from manta_serve.versions.served_model import ServedModel

MOST_WAITING_TEXTS = 64
MOST_AGE_S = 2.0
BUSY_LOOK_S = 0.005
logger = logging.getLogger(__name__)


class ShadowComparison:
    """Comparison of champion and candidate on the same texts."""

    def __init__(self, *, model: str, champion: int, candidate: int) -> None:
        self.model, self.champion, self.candidate = model, champion, candidate
        self.num_agreed = 0
        self.num_differed = 0
        self.num_dropped = 0
        """Texts dropped for lack of time."""
        self.champion_confidence, self.candidate_confidence = Histogram(CONFIDENCE), Histogram(CONFIDENCE)
        self.champion_seconds, self.candidate_seconds = Histogram(SECONDS), Histogram(SECONDS)
        """Seconds of computing per text: the champion's share of the request; the candidate's alone, at low priority."""

    @property
    def num_texts(self) -> int:
        """Number of texts that both answered."""
        return self.num_agreed + self.num_differed

    def add(self, champion: Prediction, candidate: Prediction, *, champion_s: float, candidate_s: float) -> None:
        """Count a text that both answered."""
        if champion.labels == candidate.labels:
            self.num_agreed += 1
        else:
            self.num_differed += 1
        self.champion_confidence.add(champion.confidence)
        self.candidate_confidence.add(candidate.confidence)
        self.champion_seconds.add(champion_s)
        self.candidate_seconds.add(candidate_s)

    def families(self) -> Iterator[Family]:
        """Yield the metrics for /metrics."""
        both = {"model": self.model, "champion": str(self.champion), "candidate": str(self.candidate)}
        texts = Family("manta_shadow_texts_total", "counter", "Texts that champion and candidate both answered.")
        texts.add(self.num_agreed, agrees="yes", **both)
        texts.add(self.num_differed, agrees="no", **both)
        dropped = Family("manta_shadow_dropped_total", "counter", "Texts that the candidate had no time for.")
        dropped.add(self.num_dropped, **both)
        confidence = Family("manta_shadow_confidence", "histogram", "How sure the two are of the same texts.")
        confidence.add_histogram(self.champion_confidence, of="champion", **both)
        confidence.add_histogram(self.candidate_confidence, of="candidate", **both)
        seconds = Family("manta_shadow_seconds", "histogram", "Computing of a text: in a batch, and alone at low priority.")
        seconds.add_histogram(self.champion_seconds, of="champion", **both)
        seconds.add_histogram(self.candidate_seconds, of="candidate", **both)
        yield from (texts, dropped, confidence, seconds)


class Shadow:
    """A shadow that has the candidate answer a share of the champion's texts. Its methods are for one event loop."""

    def __init__(self, models: Models, *, percent: float, is_busy: Callable[[], bool]) -> None:
        """Start nothing yet: a candidate's thread starts when first needed. `is_busy` tells whether texts wait for an answer."""
        self._models = models
        self._percent = percent
        self._is_busy = is_busy
        self._runner: _Runner | None = None

    @property
    def comparison(self) -> ShadowComparison | None:
        """Comparison of the current champion and candidate; None if there is no candidate."""
        runner = self._follow()
        return None if runner is None else runner.comparison

    def offer(self, texts: Sequence[Text], answer: Answer) -> None:
        """Offer an answer of which the champion computed at least one text. It is only queued for the candidate."""
        if answer.model is not self._models.current or random.random() * 100 >= self._percent:
            return
        runner = self._follow()
        if runner is not None:
            runner.offer(texts, answer)

    def close(self) -> None:
        """End the thread."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    def _follow(self) -> _Runner | None:
        """Return the runner of the current versions; None if there is no candidate."""
        champion, candidate = self._models.current, self._models.candidate
        runner = self._runner
        if runner is None or runner.candidate is not candidate or runner.champion is not champion:
            self.close()
            self._runner = None if candidate is None else _Runner(champion, candidate, is_busy=self._is_busy)
        return self._runner


@dataclass(frozen=True)
class _Job:
    """A text and the champion's answer to it."""

    text: Text
    said: Prediction
    champion_s: float
    until: float
    """Time after which it is too old."""


class _Runner:
    """The copy and the thread of one candidate."""

    def __init__(self, champion: ServedModel, candidate: ServedModel, *, is_busy: Callable[[], bool]) -> None:
        self.champion, self.candidate = champion, candidate
        self.comparison = ShadowComparison(model=champion.name, champion=champion.version, candidate=candidate.version)
        self._is_busy = is_busy
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        threading.Thread(target=self._run, name="shadow", daemon=True).start()

    def offer(self, texts: Sequence[Text], answer: Answer) -> None:
        champion_s, until = answer.computed_s / answer.num_computed, time.monotonic() + MOST_AGE_S
        with self._changed:
            room = MOST_WAITING_TEXTS - len(self._jobs)
            for text, said in zip(texts[:room], answer.predictions[:room], strict=True):
                self._jobs.append(_Job(text, said, champion_s, until))
            self.comparison.num_dropped += max(0, len(texts) - room)
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        try:
            copy = self.candidate.alone()  # at normal priority: slow loading would hold up the interpreter
            give_way()
            while (job := self._next()) is not None:
                self._compare(copy, job)
        except Exception:
            logger.exception("version %d is compared no more", self.candidate.version)

    def _next(self) -> _Job | None:
        """Return the next text once no text waits for the champion; None once closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._jobs)
                if self._closed:
                    return None
                late = time.monotonic()
                while self._jobs and self._jobs[0].until < late:
                    self._jobs.popleft()
                    self.comparison.num_dropped += 1
                if self._jobs and not self._is_busy():
                    return self._jobs.popleft()
            time.sleep(BUSY_LOOK_S)

    def _compare(self, copy: ServedModel, job: _Job) -> None:
        started = time.perf_counter()
        (found,) = copy.classify([job.text])
        took = time.perf_counter() - started
        self.comparison.add(job.said, found, champion_s=job.champion_s, candidate_s=took)
