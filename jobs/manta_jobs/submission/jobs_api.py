"""Client of Ray's Jobs API over HTTP (https://docs.ray.io/en/latest/cluster/running-applications/job-submission/rest.html).

Ray's own client prefers $RAY_ADDRESS to the address it is given, waits forever for a host that does not respond, and raises
tracebacks. This client does none of the three.
"""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import requests

from manta.errors import InputError, RunError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from manta.cluster.connections import Connection
    from manta.cluster.job import ClusterJob, Package

TIMEOUT_S = 10.0
UPLOAD_TIMEOUT_S = 600.0
FINAL = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True)
class Job:
    """A submitted job, as Ray reports it."""

    id: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    message: str
    exit_code: int | None
    verb: str | None
    """None for a job that `manta submit` did not send."""
    started_ms: int | None
    """Milliseconds since 1970."""
    ended_ms: int | None

    @property
    def is_over(self) -> bool:
        """True if the job has ended."""
        return self.status in FINAL


class JobsApi:
    """The requests that `manta submit` and `manta jobs` send to a cluster.

    Raises:
        InputError: nothing responds at the address, its token is missing or wrong, or it runs another version of Ray.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._session = requests.Session()
        self._session.headers.update(connection.headers)
        check_version(
            self._get("/api/version", at=connection.address), at=connection.address, ours=importlib.metadata.version("ray")
        )

    @property
    def address(self) -> str:
        """Address of the cluster's dashboard."""
        return self._connection.address

    def upload(self, package: Package) -> bool:
        """Upload a package to the cluster. Return False if the cluster has it already."""
        path = f"/api/packages/gcs/{package.name}"
        if self._request("GET", path).status_code == 200:
            return False
        answer = self._request("PUT", path, data=package.content, timeout=UPLOAD_TIMEOUT_S)
        if answer.status_code != 200:
            raise RunError(f"{self.address} did not take {package.name} ({last_line(answer.text)}).")
        return True

    def submit(self, job: ClusterJob) -> None:
        """Start a job whose packages are uploaded."""
        answer = self._request("POST", "/api/jobs/", json=job.request, timeout=60.0)
        if answer.status_code != 200:
            raise RunError(f"{self.address} did not take the job ({last_line(answer.text)}).")

    def jobs(self) -> list[Job]:
        """Return the jobs that `manta submit` sent, newest first."""
        found = [_job(entry) for entry in self._get("/api/jobs/", at=self.address) if entry.get("submission_id")]
        return sorted((job for job in found if job.verb), key=lambda job: job.started_ms or 0, reverse=True)

    def job(self, job_id: str) -> Job:
        """Return one job.

        Raises:
            InputError: the cluster knows no such job.
        """
        return _job(self._of_job(self._request("GET", f"/api/jobs/{job_id}"), job_id))

    def logs(self, job_id: str) -> str:
        """Return everything that the job has printed so far."""
        return str(self._of_job(self._request("GET", f"/api/jobs/{job_id}/logs"), job_id)["logs"])

    def stop(self, job_id: str) -> bool:
        """Ask the job to stop. Return False if it had already ended."""
        return bool(self._of_job(self._request("POST", f"/api/jobs/{job_id}/stop"), job_id)["stopped"])

    async def tail(self, job_id: str) -> AsyncIterator[str]:
        """Yield the job's output from its start, until the job or the connection ends."""
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, connect=TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(headers=self._connection.headers, timeout=timeout) as session,
                session.ws_connect(f"{self.address}/api/jobs/{job_id}/logs/tail", heartbeat=30.0) as stream,
            ):
                async for message in stream:
                    if message.type == aiohttp.WSMsgType.TEXT:
                        yield message.data
        except (aiohttp.ClientError, TimeoutError, OSError):
            return

    def _of_job(self, answer: requests.Response, job_id: str) -> Any:
        if answer.status_code == 404:
            raise InputError(f"{job_id}: {self.address} knows no such job; `manta jobs list` has them.")
        if answer.status_code != 200:
            raise RunError(f"{self.address} could not tell of {job_id} ({last_line(answer.text)}).")
        return answer.json()

    def _get(self, path: str, *, at: str) -> Any:
        answer = self._request("GET", path)
        try:
            answer.raise_for_status()
            return answer.json()
        except requests.RequestException:
            raise InputError(f"{at}: something other than Ray's dashboard answers there; its port is usually 8265.") from None

    def _request(self, method: str, path: str, *, timeout: float = TIMEOUT_S, **content: Any) -> requests.Response:
        address = self._connection.address
        try:
            answer = self._session.request(method, address + path, timeout=timeout, **content)
        except requests.RequestException as error:
            reason = "it did not answer in time" if isinstance(error, requests.Timeout) else _reason(error)
            raise InputError(
                f"no cluster answers at {address} ({reason}); is it up, and is its dashboard reachable from here? "
                "`ray dashboard cluster.yaml` and `kubectl port-forward` make it so."
            ) from None
        if answer.status_code == 401:
            raise InputError(f"{address} asks for a token; set RAY_AUTH_TOKEN, give --token-file, or write it in clusters.yaml.")
        if answer.status_code == 403:
            raise InputError(
                f"{address} refuses the token; is it this cluster's? `ray get-auth-token` on its head prints the right one."
            )
        return answer


def check_version(found: Mapping[str, Any], *, at: str, ours: str) -> None:
    """Check that the cluster runs the Ray version that this code is for; only the last number may differ.

    Raises:
        InputError: it runs another version, or does not report one.
    """
    theirs = found.get("ray_version") if isinstance(found, dict) else None
    if theirs is None:
        raise InputError(f"{at}: something other than Ray's dashboard answers there; its port is usually 8265.")
    if str(theirs).split(".")[:2] != ours.split(".")[:2]:
        raise InputError(f"{at} runs Ray {theirs}, but this is Manta for Ray {ours}; see docs/clusters.md, upgrading Ray.")


def last_line(text: str) -> str:
    """Return the last line of a message or traceback, which says the most."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _job(entry: Mapping[str, Any]) -> Job:
    return Job(
        id=str(entry["submission_id"]),
        status=str(entry["status"]),
        message=str(entry.get("message") or ""),
        exit_code=entry.get("driver_exit_code"),
        verb=(entry.get("metadata") or {}).get("manta_verb"),
        started_ms=entry.get("start_time"),
        ended_ms=entry.get("end_time"),
    )


def _reason(error: Exception) -> str:
    """Return the innermost cause, in the words of the operating system."""
    cause: BaseException = error
    while True:
        inner = next((item for item in (*cause.args, getattr(cause, "reason", None)) if isinstance(item, BaseException)), None)
        if inner is None:
            break
        cause = inner
    return re.sub(r"^\[Errno -?\d+\] ", "", str(cause).rsplit(": ", 1)[-1])
