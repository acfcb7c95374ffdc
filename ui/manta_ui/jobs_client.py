"""The page's client of a cluster: Ray's Jobs API.

https://docs.ray.io/en/latest/cluster/running-applications/job-submission/rest.html
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import httpx

from manta.cluster.job import MARK, ClusterJob

if TYPE_CHECKING:
    from collections.abc import Mapping

TIMEOUT_S = 10.0
UPLOAD_TIMEOUT_S = 600.0
STARTS_WITHIN_S = 60.0
MOST_LINES = 500
"""Lines of a job's log that are shown, and that are kept for a finished job."""
FINAL = ("SUCCEEDED", "FAILED", "STOPPED")
COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class JobsError(Exception):
    """Error: the cluster did not answer, or refused the request. The message is for the person at the page."""


@dataclass(frozen=True)
class Job:
    """A job that Manta sent, as Ray reports it."""

    id: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    message: str
    verb: str
    started_ms: int | None
    """Milliseconds since 1970."""
    ended_ms: int | None

    @property
    def is_over(self) -> bool:
        """True if the job has ended."""
        return self.status in FINAL


@dataclass(frozen=True)
class JobLog:
    """The output of a job so far."""

    lines: tuple[str, ...]
    """Lines for people."""
    result: Mapping[str, Any] | None
    """Its result, once it is done."""
    error: str | None
    """The reason why there is no result, as a sentence."""
    num_before: int = 0
    """Number of dropped lines before `lines`."""

    def end(self) -> JobLog:
        """Return the log with its last lines only."""
        left_out = max(0, len(self.lines) - MOST_LINES)
        return replace(self, lines=self.lines[left_out:], num_before=self.num_before + left_out)


class JobsClient:
    """A client of the Jobs API of one cluster."""

    def __init__(self, url: str, *, token: str | None = None) -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=httpx.Timeout(TIMEOUT_S, connect=2.0))
        self._finished: dict[str, JobLog] = {}

    def jobs(self) -> list[Job]:
        """Return the jobs that Manta sent, newest first.

        Raises:
            JobsError: the cluster does not answer.
        """
        entries = self._json("GET", "/api/jobs/")
        if not isinstance(entries, list):
            raise JobsError(f"{self.url} answers, but not as Ray's dashboard does; its port is usually 8265.")
        found = [_job(entry) for entry in entries if entry.get("submission_id") and (entry.get("metadata") or {}).get("manta_verb")]
        return sorted(found, key=lambda job: job.started_ms or 0, reverse=True)

    def job(self, job_id: str) -> Job:
        """Return one job.

        Raises:
            JobsError: the cluster does not know it, or does not answer.
        """
        return _job(self._json("GET", f"/api/jobs/{job_id}"))

    def log(self, job: Job) -> JobLog:
        """Return the output of a job so far. The log of a finished job is requested only once.

        Raises:
            JobsError: the cluster does not know it, or does not answer.
        """
        if job.id not in self._finished:
            found = read_log(str(self._json("GET", f"/api/jobs/{job.id}/logs").get("logs") or ""))
            if not job.is_over:
                return found
            self._finished[job.id] = found.end()
        return self._finished[job.id]

    def stop(self, job_id: str) -> bool:
        """Ask a job to stop. Return False if it had already ended.

        Raises:
            JobsError: the cluster does not know it, or does not answer.
        """
        return bool(self._json("POST", f"/api/jobs/{job_id}/stop").get("stopped"))

    def send(self, job: ClusterJob) -> str:
        """Start a job, after uploading what it needs. Return its id.

        Raises:
            JobsError: the cluster refuses it, or does not answer.
        """
        for package in job.packages:
            path = f"/api/packages/gcs/{package.name}"
            if self._send("GET", path).status_code != httpx.codes.OK:
                self._json("PUT", path, content=package.content, timeout=UPLOAD_TIMEOUT_S)
        self._json("POST", "/api/jobs/", json=job.request, timeout=STARTS_WITHIN_S)
        return job.id

    def _json(self, method: str, path: str, **content: Any) -> Any:
        answer = self._send(method, path, **content)
        if answer.is_success:
            try:
                return answer.json() if answer.content else {}
            except ValueError:
                raise JobsError(f"{self.url} answers, but not as Ray's dashboard does; its port is usually 8265.") from None
        lines = [line.strip() for line in answer.text.splitlines() if line.strip()]
        raise JobsError(f"The cluster at {self.url} refuses: {lines[-1] if lines else f'status {answer.status_code}'}")

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **content)
        except httpx.TimeoutException:
            raise JobsError(f"The cluster at {self.url} takes too long to answer. Try again in a moment.") from None
        except (httpx.HTTPError, httpx.InvalidURL):
            raise JobsError(f"No cluster answers at {self.url}. Is it up, and is its dashboard reachable from this page?") from None
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise JobsError(f"The cluster at {self.url} asks for a token; start the page with RAY_AUTH_TOKEN or --token-file.")
        if answer.status_code == httpx.codes.FORBIDDEN:
            raise JobsError(f"The cluster at {self.url} refuses the page's token; is it this cluster's?")
        return answer


def read_log(text: str) -> JobLog:
    """Split a job's output into lines for people and the marked lines, which hold its result or error."""
    lines: list[str] = []
    said: dict[str, Any] = {}
    for line in COLOURS.sub("", text).splitlines():
        if line.startswith(MARK):
            said = _said(line.removeprefix(MARK)) or said
        elif line.strip():
            lines.append(line)
    return JobLog(tuple(lines), said.get("result"), said.get("error"))


def _said(text: str) -> dict[str, Any]:
    """Parse a marked line; return an empty dictionary while the line is incomplete."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _job(entry: Mapping[str, Any]) -> Job:
    return Job(
        id=str(entry["submission_id"]),
        status=str(entry["status"]),
        message=str(entry.get("message") or ""),
        verb=str((entry.get("metadata") or {}).get("manta_verb", "")),
        started_ms=entry.get("start_time"),
        ended_ms=entry.get("end_time"),
    )
