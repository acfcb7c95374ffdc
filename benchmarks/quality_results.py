"""The results of `quality.py`, one JSON object a line: reading, appending, and how long what is left may take."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Result = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One system on one case with one seed."""

    case: str
    system: str
    seed: int
    label: str = ""
    """Names a set of Manta's rows, such as `before`; empty for its peers."""

    @classmethod
    def of(cls, result: Result) -> Job:
        """The job that a result is of."""
        return cls(result["case"], result["system"], int(result["seed"]), result.get("label", ""))

    @property
    def column(self) -> str:
        """The system as a table heads its column."""
        return f"{self.system} ({self.label})" if self.label else self.system


def read_results(path: Path) -> list[Result]:
    """Every result in the file; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def append_result(path: Path, result: Result) -> None:
    """Write one more line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")


def without_known(jobs: Iterable[Job], results: list[Result]) -> list[Job]:
    """The jobs of which there is no result."""
    known = {Job.of(result) for result in results}
    return [job for job in jobs if job not in known]


def expected_s(job: Job, *, num_rows: int, results: list[Result]) -> float | None:
    """Seconds that a job will take: as the same system's on the case, or else on the case of most similar size; None before any."""
    same = [result for result in results if result["system"] == job.system]
    own = [result["wall_s"] for result in same if result["case"] == job.case]
    if own:
        return float(statistics.mean(own))
    if same:
        nearest = min(same, key=lambda result: abs(result["num_rows"] - num_rows))
        return float(nearest["wall_s"] * max(1.0, num_rows / nearest["num_rows"]))
    return float(statistics.mean(result["wall_s"] for result in results)) if results else None


def duration(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
