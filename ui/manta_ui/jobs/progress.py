"""Progress of a job, read from the lines that it prints."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.cluster.jobs_api import Job

STEPS = re.compile(r"^(.*epoch \d+) of \d+: (\d+)/(\d+) steps, (.+)$")
EPOCH = re.compile(r"^epoch (\d+)/(\d+): ")
PLANNED = re.compile(r"^Search: (\d+) trials?(?:.*then up to (\d+) confirming runs)?")
TRIAL_ENDED = re.compile(r"^\S+: (?:done|stopped early|out of time|failed|not run)\b.*; (ETA .+|all steps are done)$")
WAITING = {"PENDING": "waits for the cluster", "RUNNING": "is starting"}
OVER = {"SUCCEEDED": "is done", "FAILED": "failed", "STOPPED": "was stopped"}


@dataclass(frozen=True)
class Progress:
    """Progress of a job."""

    words: str
    share: float | None
    """0 to 1; None while it is unknown."""


def progress_of(job: Job, lines: Sequence[str]) -> Progress:
    """Return the progress that a running job's last lines report; for a finished job, its outcome."""
    if job.is_over:
        return Progress(OVER[job.status], 1.0 if job.status == "SUCCEEDED" else None)
    planned, ended = 0, 0
    found = Progress(WAITING.get(job.status, job.status.lower()), None)
    for line in lines:
        if match := PLANNED.match(line):
            planned, ended = int(match[1]) + int(match[2] or 0), 0
            found = Progress(f"searches: 0 of {planned} trials", 0.0)
        elif planned and (match := TRIAL_ENDED.match(line)):
            ended += 1
            found = Progress(f"searches: {ended} of {planned} trials, {match[1]}", min(1.0, ended / planned))
        elif match := STEPS.match(line):
            found = Progress(f"trains: {match[1]}, {match[2]} of {match[3]} steps, {match[4]}", int(match[2]) / int(match[3]))
        elif match := EPOCH.match(line):
            found = Progress(f"trains: {match[1]} of {match[2]} epochs", int(match[1]) / int(match[2]))
    return found
