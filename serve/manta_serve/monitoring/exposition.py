"""Metrics of a service, and their Prometheus text.

A replica's metrics are plain data, so that one replica can report those of all
(docs/decisions/0010-one-scrape-for-all-replicas.md). `prometheus_client` writes the text.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True)
class Sample:
    """One value of a metric."""

    labels: Mapping[str, str]
    value: float
    suffix: str = ""
    """Suffix of the metric's name: `_bucket`, `_sum` or `_count` for a histogram."""


@dataclass(frozen=True)
class Family:
    """A metric with all its samples."""

    name: str
    kind: Kind
    meaning: str
    """Help text of one line."""
    samples: list[Sample] = field(default_factory=list)

    def add(self, value: float, **labels: str) -> None:
        """Add one sample."""
        self.samples.append(Sample(labels, value))

    def add_histogram(self, histogram: Histogram, **labels: str) -> None:
        """Add the samples of a histogram."""
        total = 0
        for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
            total += count
            le = floatToGoString(bound)  # type: ignore[no-untyped-call]
            self.samples.append(Sample({**labels, "le": le}, total, "_bucket"))
        self.samples.extend((Sample(labels, histogram.total, "_sum"), Sample(labels, total, "_count")))


class Histogram:
    """Counts of values between bounds. One thread at a time may change it; any thread may read it."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        """Values up to each bound and above the one before; the last entry counts those above all bounds."""
        self.total = 0.0
        """Sum of all values."""

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def quantile(self, share: float) -> float | None:
        """Estimate the value below which a `share` of the values lie, spread evenly within a bin; None if there are no values.

        If that value lies above the last bound, the last bound is returned.
        """
        wanted, low = share * sum(self.counts), 0.0
        if not any(self.counts):
            return None
        for bound, count in zip(self.bounds, self.counts[:-1], strict=True):
            if count and wanted <= count:
                return low + (bound - low) * wanted / count
            wanted -= count
            low = bound
        return self.bounds[-1]


def exposition(replicas: Mapping[str, Sequence[Family]]) -> str:
    """Return the metrics of all replicas as one text. Each metric name appears once, and each sample has the label `replica`."""
    metrics: dict[str, Metric] = {}
    for replica, families in replicas.items():
        for family in families:
            name = family.name.removesuffix("_total")  # the client adds it to a counter's name
            metric = metrics.setdefault(name, Metric(name, family.meaning, family.kind))
            for sample in family.samples:
                metric.add_sample(family.name + sample.suffix, {**sample.labels, "replica": replica}, sample.value)
    return generate_latest(_Collected(list(metrics.values()))).decode()


@dataclass(frozen=True)
class _Collected:
    """A collector of metrics, as the writer of `prometheus_client` expects it."""

    metrics: list[Metric]

    def collect(self) -> list[Metric]:
        """Return all metrics."""
        return self.metrics
