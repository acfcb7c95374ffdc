"""Changing which version answers: `manta models promote` and `rollback` as jobs, as the gate needs the models and their rows."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Literal

from manta.cluster.job import ClusterJob, cluster_job

if TYPE_CHECKING:
    from collections.abc import Mapping

Step = Literal["check", "promote", "rollback"]


def promotion_job(step: Step, model: str, version: int, *, registry: Mapping[str, str], user: str | None) -> ClusterJob:
    """The job for one step. `check` only asks what the gate would decide; a rollback needs no version.

    `registry` are the variables by which the job finds the registry. The log of decisions gets the `user` who is logged in.
    """
    verb = "rollback" if step == "rollback" else "promote"
    params = {"model": model if step == "rollback" else f"{model}@{version}", "json": True}
    if step == "check":
        params["dry_run"] = True
    environment = {**registry, "MANTA_USER": user or f"the page on {socket.gethostname()}"}
    return cluster_job(verb, params, name=model, files={}, environment=environment)
