"""HTML of the tab Jobs: the list of jobs, and one job with its progress and log."""

from __future__ import annotations

import html
import time
from typing import TYPE_CHECKING

from manta.cluster.jobs_api import last_line
from manta_ui.look.markup import moment
from manta_ui.look.tables import Cell, facts_html, table_html

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from manta.cluster.jobs_api import Job
    from manta_ui.jobs.logs import JobLog
    from manta_ui.jobs.progress import Progress

KINDS = {"SUCCEEDED": "manta-good", "FAILED": "manta-bad", "STOPPED": "manta-faint"}


def jobs_html(jobs: Sequence[Job], logs: Mapping[str, JobLog], *, chosen: str | None) -> str:
    """Return all jobs, newest first, with their results and the locations of their models."""
    has_users = any(job.user for job in jobs)
    rows = [
        [
            Cell(job.id),
            Cell(job.verb),
            Cell(job.status.lower(), kind=KINDS.get(job.status, "")),
            Cell(moment(job.started_ms), sorts_as=job.started_ms),
            *([Cell(job.user)] if has_users else []),
            Cell(took(job), sorts_as=(job.ended_ms or 0) - (job.started_ms or 0)),
            Cell(outcome(job, logs.get(job.id)), kind="manta-wide"),
        ]
        for job in jobs
    ]
    marked = next((index for index, job in enumerate(jobs) if job.id == chosen), None)
    headings = ["job", "verb", "status", "started (UTC)", *(["by"] if has_users else []), "took", "what came of it"]
    return table_html("jobs", headings, rows, caption="Jobs, newest first; the marked one is shown above", marked=marked)


def job_html(job: Job, log: JobLog, progress: Progress) -> str:
    """Return the status of a job, with a progress bar while it runs and its result afterwards."""
    words = f"{job.id} {progress.words}"
    bar = ""
    if not job.is_over:
        value = "" if progress.share is None else f' value="{progress.share:.3f}"'
        bar = f'<progress max="1"{value} aria-label="Progress of {html.escape(job.id, quote=True)}"></progress>'
    kind = "manta-note manta-error" if job.status == "FAILED" else "manta-note"
    facts = [
        ("started (UTC)", moment(job.started_ms)),
        ("by", job.user),
        ("took", took(job)),
        ("what came of it", outcome(job, log)),
    ]
    shown = facts_html([(name, value) for name, value in facts if value])
    return f'<div class="manta-progress"><p class="{kind}" role="status">{html.escape(words)}</p>{bar}</div>{shown}'


def log_html(log: JobLog) -> str:
    """Return the last lines of a job's log."""
    end = log.end()
    head = f"… {end.num_before:,} lines before\n" if end.num_before else ""
    text = head + "\n".join(end.lines) if log.lines else "No output yet."
    return f'<pre class="manta-log" tabindex="0" role="log" aria-label="Log of the job" aria-live="off">{html.escape(text)}</pre>'


def outcome(job: Job, log: JobLog | None) -> str:
    """Return the result of a finished job: the location of its model, the decision, or the reason why it failed."""
    if log is None or not job.is_over:
        return ""
    result = log.result
    if result is None:
        return log.error or ("" if job.status == "STOPPED" else last_line(job.message))
    if "artifact" in result:
        return f"{result['model']}@{result['version']}, on the cluster in {result['artifact']}"
    if "promoted" in result:
        what = "is the champion" if result["promoted"] or result.get("action") == "rolled back" else "is not promoted"
        return f"{result['model']}@{result['version']} {'was compared only' if result.get('action') is None else what}"
    return ""


def took(job: Job) -> str:
    """Return the time that a job took, or has taken so far."""
    if job.started_ms is None:
        return ""
    seconds = round(((job.ended_ms or time.time() * 1000) - job.started_ms) / 1000)
    minutes, rest = divmod(max(0, seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
