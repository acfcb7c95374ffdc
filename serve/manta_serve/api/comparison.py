"""The comparison of champion and candidate in GET /v1/model: the answers of each, and the figures of the shadow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from manta_serve.answering.service import Service
    from manta_serve.answering.shadow import ShadowComparison
    from manta_serve.monitoring.exposition import Histogram
    from manta_serve.monitoring.service_metrics import ServiceMetrics
    from manta_serve.versions.served_model import ServedModel


class AnswersFigures(BaseModel):
    """Figures about one version's answers since this replica started."""

    version: int
    num_texts: int
    mean_confidence: Annotated[float | None, Field(description="Null while it has answered nothing, and so are the others.")]
    uncertain: Annotated[float | None, Field(description="Share of the answers that were uncertain.")]
    p50_ms: Annotated[float | None, Field(description="Median of the time from a request's arrival to its answer, about.")]
    p99_ms: Annotated[float | None, Field(description="99th percentile of it, about.")]

    @classmethod
    def of(cls, model: ServedModel, metrics: ServiceMetrics) -> AnswersFigures:
        """Return the figures of a version."""
        version = model.version
        found = metrics.versions.get((model.name, version))
        if found is None or not found.num_texts:
            return cls(version=version, num_texts=0, mean_confidence=None, uncertain=None, p50_ms=None, p99_ms=None)
        return cls(
            version=version,
            num_texts=found.num_texts,
            mean_confidence=found.confidence.total / found.num_texts,
            uncertain=found.num_uncertain / found.num_texts,
            p50_ms=_ms(found.seconds.quantile(0.5)),
            p99_ms=_ms(found.seconds.quantile(0.99)),
        )


class ShadowFigures(BaseModel):
    """Comparison of champion and candidate on the same texts."""

    num_texts: int
    num_dropped: Annotated[int, Field(description="Texts that the candidate had no time for.")]
    agreement: Annotated[float | None, Field(description="Share of the texts that both gave the same labels.")]
    champion_confidence: float | None
    candidate_confidence: float | None
    champion_ms: Annotated[float | None, Field(description="Computing of a text, on average: its share of the request's.")]
    candidate_ms: Annotated[float | None, Field(description="The same alone, on one thread and at low priority.")]

    @classmethod
    def of(cls, comparison: ShadowComparison) -> ShadowFigures:
        """Return the figures of a comparison."""
        count = comparison.num_texts

        def mean(histogram: Histogram) -> float | None:
            return histogram.total / count if count else None

        return cls(
            num_texts=count,
            num_dropped=comparison.num_dropped,
            agreement=comparison.num_agreed / count if count else None,
            champion_confidence=mean(comparison.champion_confidence),
            candidate_confidence=mean(comparison.candidate_confidence),
            champion_ms=_ms(mean(comparison.champion_seconds)),
            candidate_ms=_ms(mean(comparison.candidate_seconds)),
        )


class ComparisonAnswer(BaseModel):
    """Champion and candidate side by side, as counted by this replica."""

    champion: AnswersFigures
    candidate: AnswersFigures
    shadow: Annotated[ShadowFigures | None, Field(description="Null without `serve.traffic.shadow`.")]

    @classmethod
    def of(cls, service: Service, candidate: ServedModel) -> ComparisonAnswer:
        """Return the comparison of a service's champion with its candidate."""
        comparison = None if service.shadow is None else service.shadow.comparison
        return cls(
            champion=AnswersFigures.of(service.models.current, service.metrics),
            candidate=AnswersFigures.of(candidate, service.metrics),
            shadow=None if comparison is None else ShadowFigures.of(comparison),
        )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds
