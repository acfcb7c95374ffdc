"""`manta submit`: send a verb's work to a cluster as a job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from manta.cluster.job import cluster_job
from manta.console import bytes_phrase, working
from manta_jobs.runs.submission.cargo import packed_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from manta.cluster.jobs_api import JobsApi


def submit(verb: str, params: Mapping[str, Any], *, api: JobsApi, console: Console, image_code: bool = False) -> str:
    """Send the verb, its arguments and the local files they need to the cluster, and return the job's id.

    With `image_code` no code is sent: the job checks that the code in the cluster's image is the same.

    Raises:
        InputError: something it needs is wrong or too large; nothing was sent.
        RunError: the cluster refused it.
    """
    name = Path(params["experiment"]).stem if params.get("experiment") is not None else "manta"
    with working(console, "Packing the experiment, its files and the code"):
        cargo, sent, storage = packed_inputs(verb, params)
        job = cluster_job(verb, sent, name=name, files=cargo.contents, storage=storage, image_code=image_code)
    with working(console, f"Sending {bytes_phrase(sum(len(package.content) for package in job.packages))} to {api.address}"):
        api.send(job)
    return job.id
