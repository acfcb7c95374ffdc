"""Figures of a service, and their text for Prometheus.

A replica's figures are plain data, so that one replica can tell those of all
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
    """One number."""

    labels: Mapping[str, str]
    value: float
    suffix: str = ""
    """What its name has beyond the family's: `_bucket`, `_sum` and `_count` of a histogram."""


@dataclass(frozen=True)
class Family:
    """The numbers of one name."""

    name: str
    kind: Kind
    meaning: str
    """A line for people."""
    samples: list[Sample] = field(default_factory=list)

    def add(self, value: float, **labels: str) -> None:
        """One more number."""
        self.samples.append(Sample(labels, value))

    def add_histogram(self, histogram: Histogram, **labels: str) -> None:
        """A histogram's numbers."""
        total = 0
        for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
            total += count
            le = floatToGoString(bound)  # type: ignore[no-untyped-call]
            self.samples.append(Sample({**labels, "le": le}, total, "_bucket"))
        self.samples.extend((Sample(labels, histogram.total, "_sum"), Sample(labels, total, "_count")))


class Histogram:
    """How many values lie up to each bound. To be changed by one thread at a time; any may read it."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        """Values up to each bound and beyond the one before; those beyond all of them at the end."""
        self.total = 0.0
        """Of all values."""

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def quantile(self, share: float) -> float | None:
        """About the value that a share of the values is below, spread evenly within a bin; None where there are none.

        Beyond the last bound nothing is known but that it is more: the bound stands for it.
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
    """The families of each replica as one text: every name once, and with each number the replica that it is from."""
    metrics: dict[str, Metric] = {}
    for replica, families in replicas.items():
        for family in families:
            name = family.name.removesuffix("_total")  # which the client adds to a counter's name
            metric = metrics.setdefault(name, Metric(name, family.meaning, family.kind))
            for sample in family.samples:
                metric.add_sample(family.name + sample.suffix, {**sample.labels, "replica": replica}, sample.value)
    return generate_latest(_Collected(list(metrics.values()))).decode()


@dataclass(frozen=True)
class _Collected:
    """Metrics as the client's writer takes them."""

    metrics: list[Metric]

    def collect(self) -> list[Metric]:
        """All of them."""
        return self.metrics
