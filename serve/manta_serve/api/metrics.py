"""All Prometheus metrics of a replica."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil

from manta_serve.monitoring.exposition import Family

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manta_serve.answering.service import Service
    from manta_serve.answering.services import Services
    from manta_serve.batching.answer_cache import AnswerCache
    from manta_serve.monitoring.service_metrics import ServiceMetrics


def families_of(services: Services) -> list[Family]:
    """Return all metrics of a replica."""
    shared = services.first
    comparisons = [service.shadow.comparison for service in services if service.shadow is not None]
    return [
        *_requests(shared.metrics),
        *_batches(shared),
        *_cache(shared.cache),
        *_models(services),
        *_answers(shared.metrics),
        *(family for comparison in comparisons if comparison is not None for family in comparison.families()),
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


def _cache(cache: AnswerCache | None) -> Iterator[Family]:
    if cache is not None:
        texts = Family("manta_cache_texts_total", "counter", "Texts that were asked, by whether the cache had their answer.")
        texts.add(cache.num_hits, result="hit")
        texts.add(cache.num_misses, result="miss")
        yield texts


def _models(services: Services) -> Iterator[Family]:
    ready = Family("manta_ready", "gauge", "1 while requests should be sent here, 0 while it is stopping.")
    ready.add(services.ready)
    info = Family("manta_model_info", "gauge", "1 for every version that is loaded: champion, candidate or another.")
    refused = Family("manta_refused_versions", "gauge", "Versions that were to answer and could not; /v1/model says why.")
    for service in services:
        models = service.models
        candidate = models.candidate
        for model in models.loaded:
            role = "champion" if model is models.current else "candidate" if model is candidate else "other"
            info.add(1, model=model.name, version=str(model.version), role=role, format=model.format)
        refused.add(len(models.refused), model=service.name)
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
    for (model, number), of_version in metrics.versions.copy().items():
        which = {"model": model, "version": str(number)}
        for name, count in of_version.labels.copy().items():
            labels.add(count, label=name, **which)
        texts.add(of_version.num_texts, **which)
        uncertain.add(of_version.num_uncertain, **which)
        confidence.add_histogram(of_version.confidence, **which)
        seconds.add_histogram(of_version.seconds, **which)
        queued.add_histogram(of_version.queued, **which)
        for what, drift in (of_version.drift.drift() if of_version.drift is not None else {}).items():
            index.add(drift.index, of=what, **which)
            chance.add(drift.by_chance, of=what, **which)
    yield from (labels, texts, uncertain, confidence, seconds, queued, index, chance)


def _process() -> Iterator[Family]:
    process = psutil.Process()
    memory = Family("manta_memory_bytes", "gauge", "Resident memory of the replica.")
    memory.add(process.memory_info().rss)
    times = process.cpu_times()
    cpu = Family("manta_cpu_seconds_total", "counter", "Processor time that the replica has used.")
    cpu.add(times.user + times.system)
    yield from (memory, cpu)
