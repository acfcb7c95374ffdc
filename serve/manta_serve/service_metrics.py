"""`ServiceMetrics`: what one replica counts, for GET /metrics and for the comparison of versions in GET /v1/model.

Counting costs some microseconds a request: additions to plain numbers, no locks. The event loop counts requests and answers, the
computing thread batches; each number has one thread that changes it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import psutil

from manta.answer_profile import NUM_CONFIDENCE_BINS
from manta_serve.drift import DriftWindow
from manta_serve.exposition import Family, Histogram

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manta_serve.batching import BatchDone
    from manta_serve.served_model import ServedModel
    from manta_serve.service import Answer, Service

PATHS = ("/v1/classify", "/v1/feedback", "/v1/model", "/metrics", "/healthz", "/readyz", "/docs", "/openapi.json")
OTHER = "other"
"""Any other path: a client must not be able to make up numbers without end."""
SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
CONFIDENCE = tuple((place + 1) / NUM_CONFIDENCE_BINS for place in range(NUM_CONFIDENCE_BINS))
MOST_VERSIONS = 16
"""Versions that are told of: one that has not answered for longest is forgotten when there are more."""


class VersionMetrics:
    """What one version answered."""

    def __init__(self, model: ServedModel) -> None:
        manifest = model.manifest
        self.num_texts = 0
        self.num_uncertain = 0
        self.labels = Counter(dict.fromkeys(manifest.labels, 0))
        self.confidence = Histogram(CONFIDENCE)
        self.seconds = Histogram(SECONDS)
        """From a request's arrival at the queue to its answer."""
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
    """The counts of one replica since it was started."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int, str]] = Counter()
        """By path, status and, where there is one, the problem's code."""
        self.durations = {path: Histogram(SECONDS) for path in ("/v1/classify", "/v1/feedback")}
        self.versions: dict[int, VersionMetrics] = {}
        self.batch_texts, self.batch_tokens, self.batch_seconds = Histogram(TEXTS), Histogram(TOKENS), Histogram(SECONDS)

    def request(self, path: str, *, status: int, problem: str, seconds: float) -> None:
        """Count a request that came to its end."""
        self.requests[path if path in PATHS else OTHER, status, problem] += 1
        if path in self.durations:
            self.durations[path].add(seconds)

    def answer(self, answer: Answer) -> None:
        """Count what was answered."""
        model = answer.model
        of_version = self.versions.pop(model.version, None) or VersionMetrics(model)
        self.versions[model.version] = of_version  # at the end: what has not answered for longest is the first to be forgotten
        if len(self.versions) > MOST_VERSIONS:
            del self.versions[next(iter(self.versions))]
        of_version.add(answer)

    def batch(self, done: BatchDone) -> None:
        """Count a batch; called on the computing thread."""
        self.batch_texts.add(done.num_texts)
        self.batch_tokens.add(done.num_tokens)
        self.batch_seconds.add(done.computed_s)


def families_of(service: Service) -> list[Family]:
    """All figures of a replica."""
    comparison = None if service.shadow is None else service.shadow.comparison
    return [
        *_requests(service.metrics),
        *_batches(service),
        *_models(service),
        *_answers(service.metrics),
        *(comparison.families() if comparison is not None else ()),
        *_process(),
    ]


def _requests(metrics: ServiceMetrics) -> Iterator[Family]:
    requests = Family("manta_requests_total", "counter", "Requests by path, status and the code of what was wrong.")
    for (path, status, problem), count in sorted(metrics.requests.copy().items()):
        requests.add(count, path=path, status=str(status), problem=problem)
    yield requests
    seconds = Family("manta_request_seconds", "histogram", "From a request's first byte to the end of its answer.")
    for path, histogram in metrics.durations.items():
        seconds.add_histogram(histogram, path=path)
    yield seconds


def _batches(service: Service) -> Iterator[Family]:
    metrics = service.metrics
    queued = Family("manta_queued_texts", "gauge", "Texts that wait to be computed.")
    queued.add(service.batcher.num_queued_texts)
    yield queued
    for name, meaning, histogram in (
        ("manta_batch_texts", "Texts computed together.", metrics.batch_texts),
        ("manta_batch_tokens", "Tokens computed together, padding included.", metrics.batch_tokens),
        ("manta_batch_seconds", "How long a batch was computed.", metrics.batch_seconds),
    ):
        family = Family(name, "histogram", meaning)
        family.add_histogram(histogram)
        yield family


def _models(service: Service) -> Iterator[Family]:
    models = service.models
    ready = Family("manta_ready", "gauge", "1 while requests should be sent here, 0 while it is stopping.")
    ready.add(service.ready)
    info = Family("manta_model_info", "gauge", "1 for every version that is loaded: champion, candidate or another.")
    candidate = models.candidate
    for model in models.loaded:
        role = "champion" if model is models.current else "candidate" if model is candidate else "other"
        info.add(1, model=model.name, version=str(model.version), role=role, form=model.form)
    refused = Family("manta_refused_versions", "gauge", "Versions that were to answer and could not; /v1/model says why.")
    refused.add(len(models.refused))
    yield from (ready, info, refused)


def _answers(metrics: ServiceMetrics) -> Iterator[Family]:
    labels = Family("manta_labels_total", "counter", "How often each label was answered.")
    texts = Family("manta_texts_total", "counter", "Texts that were answered.")
    uncertain = Family("manta_uncertain_total", "counter", "Answers less sure than the version's threshold.")
    confidence = Family("manta_confidence", "histogram", "How sure answers are.")
    seconds = Family("manta_answer_seconds", "histogram", "From a request's texts being queued to their being computed.")
    queued = Family("manta_queue_seconds", "histogram", "The part of it until the first text's turn.")
    index = Family("manta_drift_psi", "gauge", "Stability index of the latest answers against those to the validation rows.")
    chance = Family("manta_drift_psi_by_chance", "gauge", "What it would be on average if nothing had changed.")
    for number, of_version in metrics.versions.copy().items():
        version = str(number)
        for name, count in of_version.labels.copy().items():
            labels.add(count, version=version, label=name)
        texts.add(of_version.num_texts, version=version)
        uncertain.add(of_version.num_uncertain, version=version)
        confidence.add_histogram(of_version.confidence, version=version)
        seconds.add_histogram(of_version.seconds, version=version)
        queued.add_histogram(of_version.queued, version=version)
        for what, drift in (of_version.drift.drift() if of_version.drift is not None else {}).items():
            index.add(drift.index, version=version, of=what)
            chance.add(drift.by_chance, version=version, of=what)
    yield from (labels, texts, uncertain, confidence, seconds, queued, index, chance)


def _process() -> Iterator[Family]:
    process = psutil.Process()
    memory = Family("manta_memory_bytes", "gauge", "Resident memory of the replica.")
    memory.add(process.memory_info().rss)
    times = process.cpu_times()
    cpu = Family("manta_cpu_seconds_total", "counter", "Processor time that the replica has used.")
    cpu.add(times.user + times.system)
    yield from (memory, cpu)
