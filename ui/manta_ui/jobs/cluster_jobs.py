"""`ClusterJobs`: the jobs of the cluster that the page uses."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from manta_ui.jobs.logs import JobLog, read_log

if TYPE_CHECKING:
    from collections.abc import Callable

    from manta.cluster.job import ClusterJob
    from manta.cluster.jobs_api import Job, JobsApi

LOG = logging.getLogger("manta.page")
NOBODY = "someone on this machine"
"""Name of the user of a page without a login."""


class ClusterJobs:
    """The jobs of one cluster. Its methods raise the errors of `JobsApi`.

    `api` returns a client of the cluster. If the cluster does not run yet, `is_up` returns False, and `send` starts it.
    """

    def __init__(self, api: Callable[[], JobsApi], *, is_up: Callable[[], bool] = lambda: True) -> None:
        self.api = api
        self.is_up = is_up
        self._finished: dict[str, JobLog] = {}

    def jobs(self) -> list[Job]:
        """Return the jobs that Manta sent, newest first."""
        return self.api().jobs() if self.is_up() else []

    def job(self, job_id: str) -> Job:
        """Return one job."""
        return self.api().job(job_id)

    def log(self, job: Job) -> JobLog:
        """Return the output of a job so far. The log of a finished job is requested only once."""
        if job.id not in self._finished:
            found = read_log(self.api().logs(job.id))
            if not job.is_over:
                return found
            self._finished[job.id] = found.end()
        return self._finished[job.id]

    def send(self, job: ClusterJob, *, user: str | None) -> None:
        """Start a job. Who did it is logged."""
        self.api().send(job)
        LOG.info("%s started %s", user or NOBODY, job.id)

    def stop(self, job_id: str, *, user: str | None) -> None:
        """Ask a job to stop. Who did it is logged."""
        self.api().stop(job_id)
        LOG.info("%s stopped %s", user or NOBODY, job_id)
