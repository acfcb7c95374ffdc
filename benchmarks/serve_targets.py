"""Targets of `serve.py`: ratios of figures of one run, so that the machine's speed cancels out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from serve_load import Load

Case = tuple[str, str]
"""A system and what it was measured with, as in the table."""


@dataclass(frozen=True)
class Aim:
    """A figure of one case over the same figure of another."""

    what: str
    case: Case
    to: Case
    figure: Literal["requests_per_s", "p50_ms", "p99_ms"]
    bound: float
    """At least this for requests/s, at most for a latency."""

    def verdict(self, found: Mapping[Case, Load]) -> str | None:
        """A line that says whether it is met; None where one of the two was not measured."""
        if self.case not in found or self.to not in found:
            return None
        value = getattr(found[self.case], self.figure) / getattr(found[self.to], self.figure)
        more = self.figure == "requests_per_s"
        is_met = value >= self.bound if more else value <= self.bound
        side = "at least" if more else "at most"
        return f"{self.what}: {value:.2f} times {self.to[0]} (target: {side} {self.bound:g}): {'met' if is_met else 'not met'}"


MANY, ONE, SHORT = "32", "1", "mixed-short"
AIMS = (
    Aim("manta, requests/s over 32 connections", ("manta", MANY), ("litserve", MANY), "requests_per_s", 1.2),
    Aim("manta-int8, requests/s over 32 connections", ("manta-int8", MANY), ("litserve", MANY), "requests_per_s", 2.0),
    Aim("manta-int8, requests/s over 32 connections", ("manta-int8", MANY), ("ray-serve-documented", MANY), "requests_per_s", 4.0),
    Aim("manta-int8, p50 over 1 connection", ("manta-int8", ONE), ("litserve", ONE), "p50_ms", 0.6),
    Aim("manta, requests/s over 32 connections", ("manta", MANY), ("forward-alone", "sorted"), "requests_per_s", 0.75),
    Aim("manta, p99 of short texts among long ones", ("manta", SHORT), ("ray-serve-documented", SHORT), "p99_ms", 0.5),
)


def verdicts(found: Mapping[Case, Load]) -> list[str]:
    """A line for each aim whose cases were measured."""
    return [line for aim in AIMS if (line := aim.verdict(found)) is not None]
