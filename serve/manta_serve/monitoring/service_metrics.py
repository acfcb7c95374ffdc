"""`ServiceMetrics`: the counts of one replica, for GET /metrics and for the comparison of versions in GET /v1/model.

Counting costs some microseconds a request: it adds to plain numbers, without locks. The event loop counts requests and answers, and
the computing thread counts batches. Each number is changed by one thread only.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from manta.inference.answer_profile import NUM_CONFIDENCE_BINS
from manta_serve.http.paths import SCOPE_OF, path_of
from manta_serve.monitoring.drift import DriftWindow
from manta_serve.monitoring.exposition import Histogram

if TYPE_CHECKING:
    from manta_serve.batching.answer import Answer
    from manta_serve.batching.batcher import BatchDone
    from manta_serve.versions.served_model import ServedModel

SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
CONFIDENCE = tuple((place + 1) / NUM_CONFIDENCE_BINS for place in range(NUM_CONFIDENCE_BINS))
MOST_VERSIONS = 16
"""Most versions of a model with counts. If there are more, the version that has not answered for longest is dropped."""


class VersionMetrics:
    """Counts of one version's answers."""

    def __init__(self, model: ServedModel) -> None:
        manifest = model.manifest
        self.num_texts = 0
        self.num_uncertain = 0
        self.labels = Counter(dict.fromkeys(manifest.labels, 0))
        self.confidence = Histogram(CONFIDENCE)
        self.seconds = Histogram(SECONDS)
        """Seconds from a request's arrival in the queue to its answer."""
        self.queued = Histogram(SECONDS)
        self.drift = None if manifest.answers is None else DriftWindow(manifest.answers, labels=manifest.labels)

    def add(self, answer: Answer) -> None:
        """Count an answer."""
        for prediction in answer.predictions:
            self.labels.update(prediction.labels)
            self.confidence.add(prediction.confidence)
            self.num_uncertain += prediction.uncertain
            if self.drift is not None:
                self.drift.add(prediction.labels, prediction.confidence)
        self.num_texts += len(answer.predictions)
        self.seconds.add(answer.queued_s + answer.computed_s)
        self.queued.add(answer.queued_s)


class ServiceMetrics:
    """Counts of one replica since it started."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int, str]] = Counter()
        """Requests by path, status and problem code, which is empty if there was no problem."""
        self.durations = {path: Histogram(SECONDS) for path, scope in SCOPE_OF.items() if scope != "metrics"}
        self.versions: dict[tuple[str, int], VersionMetrics] = {}
        """Counts by the name of the model and the version."""
        self.batch_texts, self.batch_tokens, self.batch_seconds = Histogram(TEXTS), Histogram(TOKENS), Histogram(SECONDS)

    def request(self, path: str, *, status: int, problem: str, seconds: float) -> None:
        """Count a finished request."""
        name = path_of(path)
        self.requests[name, status, problem] += 1
        if name in self.durations:
            self.durations[name].add(seconds)

    def answer(self, answer: Answer) -> None:
        """Count an answer."""
        model = answer.model
        key = model.name, model.version
        of_version = self.versions.pop(key, None) or VersionMetrics(model)
        self.versions[key] = of_version  # moved to the end: the first entry has not answered for longest
        of_model = [other for other in self.versions if other[0] == model.name]
        if len(of_model) > MOST_VERSIONS:
            del self.versions[of_model[0]]
        of_version.add(answer)

    def batch(self, done: BatchDone) -> None:
        """Count a batch. Called on the computing thread."""
        self.batch_texts.add(done.num_texts)
        self.batch_tokens.add(done.num_tokens)
        self.batch_seconds.add(done.computed_s)
