"""Figures in the text format that Prometheus reads (https://prometheus.io/docs/instrumenting/exposition_formats/).

A replica's figures are plain data, so that one replica can tell those of all
(docs/decisions/0010-one-scrape-for-all-replicas.md).
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

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
            self.samples.append(Sample({**labels, "le": _number(bound)}, total, "_bucket"))
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
    """The families of each replica as one text: every name once, and at every number the replica it is of."""
    lines: list[str] = []
    for name, parts in _by_name(replicas).items():
        first = parts[0][1]
        lines += [f"# HELP {name} {_escaped(first.meaning)}", f"# TYPE {name} {first.kind}"]
        lines += [line for replica, family in parts for line in _lines(family, replica=replica)]
    return "\n".join(lines) + "\n"


def _by_name(replicas: Mapping[str, Sequence[Family]]) -> dict[str, list[tuple[str, Family]]]:
    found: dict[str, list[tuple[str, Family]]] = {}
    for replica, families in replicas.items():
        for family in families:
            found.setdefault(family.name, []).append((replica, family))
    return found


def _lines(family: Family, *, replica: str) -> Iterator[str]:
    for sample in family.samples:
        labels = ",".join(
            f'{name}="{_escaped(value, quote=True)}"' for name, value in {**sample.labels, "replica": replica}.items()
        )
        yield f"{family.name}{sample.suffix}{{{labels}}} {_number(sample.value)}"


def _number(value: float) -> str:
    return "+Inf" if value == float("inf") else f"{value:.10g}"


def _escaped(text: str, *, quote: bool = False) -> str:
    escaped = text.replace("\\", r"\\").replace("\n", r"\n")
    return escaped.replace('"', r"\"") if quote else escaped
