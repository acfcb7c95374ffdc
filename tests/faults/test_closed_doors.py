"""A cluster with token authentication tells and does nothing for who has no token, or a wrong one, by any of its ports."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import requests

from manta_jobs.cluster.local import LocalCluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WRONG = "0" * 32
PATHS = [
    "/api/version",
    "/api/jobs/",
    "/nodes?view=summary",
    "/api/cluster_status",
    "/api/v0/nodes",
    "/api/v0/actors",
    "/api/v0/logs",
    "/logical/actors",
    "/api/serve/applications/",
    "/api/component_activities",
    "/worker/traceback",
    "/memory_profile",
    "/events",
    "/no/such/path",
]
PROFILERS = {"/worker/traceback", "/memory_profile"}
"""Off in Ray for everybody, unless the cluster's owner turns them on."""
CONNECT = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False); print(len(ray.nodes()), 'nodes')"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(1) as cluster:
        yield cluster


def answers(base: str, *, token: str | None) -> dict[str, int]:
    """The status of each path."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return {path: requests.get(base + path, headers=headers, timeout=30).status_code for path in PATHS}


@pytest.mark.parametrize(("token", "status"), [(None, 401), (WRONG, 403)])
def test_the_dashboard_and_the_jobs_api_refuse(token: str | None, status: int, cluster: LocalCluster) -> None:
    assert answers(cluster.jobs_address, token=token) == dict.fromkeys(PATHS, status)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    job = {"entrypoint": "true"}
    assert requests.post(f"{cluster.jobs_address}/api/jobs/", json=job, headers=headers, timeout=30).status_code == status


def test_with_the_token_the_same_paths_answer(cluster: LocalCluster) -> None:
    statuses = answers(cluster.jobs_address, token=cluster.token)
    assert {statuses[path] for path in ("/api/version", "/api/jobs/", "/nodes?view=summary")} == {200}
    assert {path for path, status in statuses.items() if status in (401, 403)} == PROFILERS


@pytest.mark.parametrize(("token", "status"), [(None, 401), (WRONG, 403)])
def test_a_nodes_agent_refuses(token: str | None, status: int, cluster: LocalCluster) -> None:
    (port,) = cluster.agent_ports
    assert answers(f"http://{cluster.hosts[0]}:{port}", token=token) == dict.fromkeys(PATHS, status)


def connected(address: str, folder: Path, *, mode: str, token: str | None) -> subprocess.CompletedProcess[str]:
    """A driver that connects as somebody who has not more than this token, and a home of their own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment |= {"HOME": str(folder), "RAY_AUTH_MODE": mode} | ({} if token is None else {"RAY_AUTH_TOKEN": token})
    command = [sys.executable, "-c", CONNECT, address]
    return subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=180)


@pytest.mark.parametrize(
    ("door", "mode", "token", "words"),
    [
        ("control store", "disabled", None, "Unauthenticated"),
        ("control store", "token", None, "no authentication token"),
        ("control store", "token", WRONG, "Unauthenticated"),
        ("client", "disabled", None, "connection timeout"),  # the client asks again until it gives up
        ("client", "token", None, "Token authentication is enabled"),
        ("client", "token", WRONG, "connection timeout"),
    ],
)
def test_no_driver_gets_in(door: str, mode: str, token: str | None, words: str, cluster: LocalCluster, tmp_path: Path) -> None:
    address = cluster.address if door == "control store" else f"ray://{cluster.hosts[0]}:{cluster.client_port}"
    refused = connected(address, tmp_path, mode=mode, token=token)
    assert refused.returncode != 0
    assert "nodes" not in refused.stdout
    assert words.lower() in refused.stderr.lower()


@pytest.mark.parametrize("door", ["control store", "client"])
def test_a_driver_with_the_token_gets_in(door: str, cluster: LocalCluster, tmp_path: Path) -> None:
    address = cluster.address if door == "control store" else f"ray://{cluster.hosts[0]}:{cluster.client_port}"
    assert connected(address, tmp_path, mode="token", token=cluster.token).stdout == "1 nodes\n"
