"""Client of Ray's Jobs API over HTTP (https://docs.ray.io/en/latest/cluster/running-applications/job-submission/rest.html).

Ray's own client prefers $RAY_ADDRESS to the address it is given, waits forever for a host that does not respond, and raises
tracebacks. This client does none of the three. `manta submit`, `manta jobs` and the page use it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from manta.cluster.http import cause_of, http_client
from manta.errors import InputError, RunError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from manta.cluster.connections import Connection
    from manta.cluster.job import ClusterJob

TIMEOUT_S = 10.0
UPLOAD_TIMEOUT_S = 600.0
STARTS_WITHIN_S = 60.0
FINAL = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True)
class Job:
    """A job that Manta sent, as Ray reports it."""

    id: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    message: str
    verb: str
    """Empty for a job that Manta did not send."""
    started_ms: int | None
    """Milliseconds since 1970."""
    ended_ms: int | None
    exit_code: int | None = None
    user: str = ""
    """Name of the user who started it from a page with a login; else empty."""

    @property
    def is_over(self) -> bool:
        """True if the job has ended."""
        return self.status in FINAL


class JobsApi:
    """The requests to one cluster. Any thread may use it.

    Raises:
        InputError: nothing answers at the address, its token is missing or wrong, or it does not know the job.
        RunError: the cluster refuses the request.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._http = http_client(connection.address, timeout_s=TIMEOUT_S, headers=connection.headers)

    @property
    def address(self) -> str:
        """Address of the cluster's dashboard."""
        return self.connection.address

    def ray_version(self) -> str:
        """Return the version of Ray that the cluster runs."""
        found = self._json("GET", "/api/version")
        if not isinstance(found, dict) or "ray_version" not in found:
            raise self._other_service()
        return str(found["ray_version"])

    def send(self, job: ClusterJob) -> None:
        """Start a job, after uploading what it needs and the cluster does not have."""
        for package in job.packages:
            path = f"/api/packages/gcs/{package.name}"
            if self._send("GET", path).status_code != httpx.codes.OK:
                self._json("PUT", path, content=package.content, timeout=UPLOAD_TIMEOUT_S)
        self._json("POST", "/api/jobs/", json=job.request, timeout=STARTS_WITHIN_S)

    def jobs(self) -> list[Job]:
        """Return the jobs that Manta sent, newest first."""
        entries = self._json("GET", "/api/jobs/")
        if not isinstance(entries, list):
            raise self._other_service()
        found = [_job(entry) for entry in entries if entry.get("submission_id")]
        return sorted((job for job in found if job.verb), key=lambda job: job.started_ms or 0, reverse=True)

    def job(self, job_id: str) -> Job:
        """Return one job."""
        return _job(self._json("GET", f"/api/jobs/{job_id}", about=job_id))

    def logs(self, job_id: str) -> str:
        """Return everything that the job has printed so far."""
        return str(self._json("GET", f"/api/jobs/{job_id}/logs", about=job_id).get("logs") or "")

    def stop(self, job_id: str) -> bool:
        """Ask the job to stop. Return False if it had already ended."""
        return bool(self._json("POST", f"/api/jobs/{job_id}/stop", about=job_id).get("stopped"))

    def _json(self, method: str, path: str, *, about: str | None = None, **content: Any) -> Any:
        answer = self._send(method, path, **content)
        if answer.status_code == httpx.codes.NOT_FOUND and about is not None:
            raise InputError(f"{about}: {self.address} knows no such job; `manta jobs list` has them.")
        if not answer.is_success:
            if answer.status_code == httpx.codes.NOT_FOUND:
                raise self._other_service()
            raise RunError(f"the cluster at {self.address} refuses: {last_line(answer.text, status=answer.status_code)}")
        try:
            return answer.json() if answer.content else {}
        except ValueError:
            raise self._other_service() from None

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **content)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise InputError(
                f"no cluster answers at {self.address} ({cause_of(error)}); is it up, and is its dashboard reachable from here? "
                "`ray dashboard cluster.yaml` and `kubectl port-forward` make it so."
            ) from None
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise InputError(f"the cluster at {self.address} asks for a token; give --token-file, or set RAY_AUTH_TOKEN.")
        if answer.status_code == httpx.codes.FORBIDDEN:
            raise InputError(
                f"the cluster at {self.address} refuses the token; is it this cluster's? `ray get-auth-token` on its head has it."
            )
        return answer

    def _other_service(self) -> InputError:
        return InputError(f"something other than Ray's dashboard answers at {self.address}; its port is usually 8265.")


def last_line(text: str, *, status: int | None = None) -> str:
    """Return the last line of a message or traceback, which says the most."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing" if status is None else f"status {status}"


def _job(entry: Mapping[str, Any]) -> Job:
    return Job(
        id=str(entry["submission_id"]),
        status=str(entry["status"]),
        message=str(entry.get("message") or ""),
        verb=str((entry.get("metadata") or {}).get("manta_verb") or ""),
        started_ms=entry.get("start_time"),
        ended_ms=entry.get("end_time"),
        exit_code=entry.get("driver_exit_code"),
        user=str((entry.get("metadata") or {}).get("manta_user") or ""),
    )
