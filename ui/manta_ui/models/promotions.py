"""Changes of the champion: `manta models promote` and `rollback` as jobs, because the gate needs the models and their rows."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Literal

from manta.cluster.job import ClusterJob, cluster_job

if TYPE_CHECKING:
    from collections.abc import Mapping

Step = Literal["check", "promote", "rollback"]


def promotion_job(step: Step, model: str, version: int, *, registry: Mapping[str, str], user: str | None) -> ClusterJob:
    """Return the job for one step. `check` only asks for the gate's decision; a rollback needs no version.

    `registry` are the variables by which the job finds the registry. `user`, who is logged in, is written to the log of decisions.
    """
    verb = "rollback" if step == "rollback" else "promote"
    params = {"model": model if step == "rollback" else f"{model}@{version}", "json": True}
    if step == "check":
        params["dry_run"] = True
    environment = {**registry, "MANTA_USER": user or f"the page on {socket.gethostname()}"}
    return cluster_job(verb, params, name=model, files={}, environment=environment, user=user)
