"""A real Ray cluster of several nodes on this machine: each node is a separate `ray start`, with token authentication on.

`manta cluster local` offers it to users; the tests run on it. It stops only its own processes and leaves everything else on the
machine alone, including other Ray clusters.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil

from manta.cluster.http import http_client
from manta.cluster.ports import free_ports
from manta.errors import RunError
from manta.storage.folders import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

STARTS_WITHIN_S = 180.0
STOPS_WITHIN_S = 5.0
HOST = "127.0.0.1"


class LocalCluster:
    """Nodes on this machine; as a context manager, it covers their lifetime. The first is the head, which trains as well.

    `prefixes` are commands through which the nodes are started, such as `ip netns exec NAME`; `hosts` are their addresses there.
    `head_cpus` is 0 for a head that runs no workers.

    Raises:
        RunError: a node does not start; the message has the last line of its log.
    """

    def __init__(
        self,
        num_nodes: int,
        *,
        cpus_per_node: int = 1,
        gpus_per_node: int = 0,
        head_cpus: int | None = None,
        prefixes: Sequence[Sequence[str]] = (),
        hosts: Sequence[str] = (),
    ) -> None:
        self._num_nodes = num_nodes
        self._cpus, self._gpus = cpus_per_node, gpus_per_node
        self._head_cpus = cpus_per_node if head_cpus is None else head_cpus
        self._prefixes = list(prefixes) or [[]] * num_nodes
        self.hosts = list(hosts) or [HOST] * num_nodes
        self.token = secrets.token_hex(16)
        self.nodes: list[subprocess.Popen[bytes]] = []
        self._folder = Path()
        self._undo = ExitStack()

    def __enter__(self) -> LocalCluster:
        self._folder = Path(tempfile.mkdtemp(prefix="manta-"))  # a short path, because Ray's sockets lie in it
        self._undo.callback(shutil.rmtree, self._folder, ignore_errors=True)
        write_atomically(self.token_file, self.token + "\n", mode=0o600)
        # Agents get explicit ports, because two nodes on one machine cannot have the same one.
        self.gcs_port, self._dashboard_port, self.client_port, *self.agent_ports = free_ports(3 + self._num_nodes)
        try:
            for index in range(self._num_nodes):
                self._start(index)
                self._wait()  # nodes that start at the same time would use the same socket names
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def token_file(self) -> Path:
        """Path of the file with its token, for $RAY_AUTH_TOKEN_PATH."""
        return self._folder / "token"

    @property
    def jobs_address(self) -> str:
        """Address of its dashboard and Jobs API."""
        return f"http://{self.hosts[0]}:{self._dashboard_port}"

    @property
    def address(self) -> str:
        """Address that drivers connect to."""
        return f"{self.hosts[0]}:{self.gcs_port}"

    def kill(self, index: int) -> None:
        """End a node at once, as if its machine had lost power."""
        for process in self._processes(index):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.nodes[index].wait()

    def stop(self) -> None:
        """End all nodes, workers first, and remove their files."""
        started = [process for index in range(len(self.nodes)) for process in self._processes(index)]
        for node in reversed(self.nodes):
            node.terminate()
        _, left = psutil.wait_procs(started, timeout=STOPS_WITHIN_S)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for node in self.nodes:
            node.wait()
        self._undo.close()

    def _processes(self, index: int) -> list[psutil.Process]:
        """Return a node's process and all processes that it started. Workers have process groups of their own."""
        try:
            node = psutil.Process(self.nodes[index].pid)
            return [*node.children(recursive=True), node]
        except psutil.NoSuchProcess:
            return []

    def options(self, index: int) -> list[str]:
        """Return the options of a node's `ray start`."""
        options = [
            "--block",
            "--disable-usage-stats",
            f"--node-ip-address={self.hosts[index]}",
            f"--num-cpus={self._cpus if index else self._head_cpus}",
            f"--num-gpus={self._gpus}",
            f"--dashboard-agent-listen-port={self.agent_ports[index]}",
            "--object-store-memory=100000000",
            "--min-worker-port=0",
            "--max-worker-port=0",
        ]
        if index:
            return [*options, f"--address={self.address}"]
        return [
            *options,
            "--head",
            f"--port={self.gcs_port}",
            f"--dashboard-host={self.hosts[0]}",
            f"--dashboard-port={self._dashboard_port}",
            f"--ray-client-server-port={self.client_port}",
            f"--temp-dir={self._folder}",
        ]

    def environment(self) -> dict[str, str]:
        """Return the environment variables of its nodes and of the jobs that run on them."""
        environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', '')}"  # jobs start `python`
        environment.pop("RAY_ADDRESS", None)
        return environment

    def _start(self, index: int) -> None:
        ray = (sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start")
        # In a separate session, Ctrl-C does not reach the node.
        with self._log(index).open("wb") as log:
            node = subprocess.Popen(  # noqa: S603  # our own command
                [*self._prefixes[index], *ray, *self.options(index)],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self.environment(),
                start_new_session=True,
            )
        self.nodes.append(node)

    def _wait(self) -> None:
        """Wait until the head reports as many living nodes as were started."""
        deadline = time.monotonic() + STARTS_WITHIN_S
        while self._num_alive() < len(self.nodes):
            for index, node in enumerate(self.nodes):
                if node.poll() is not None or time.monotonic() > deadline:
                    raise RunError(f"node {index} of the cluster did not come up: {self._last_line(index)}")
            time.sleep(0.2)

    def _num_alive(self) -> int:
        try:
            with http_client(self.jobs_address, timeout_s=5.0, headers={"Authorization": f"Bearer {self.token}"}) as client:
                nodes = client.get("/nodes?view=summary").json()["data"]["summary"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return 0
        return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)

    def _log(self, index: int) -> Path:
        return self._folder / f"node-{index}.log"

    def _last_line(self, index: int) -> str:
        lines = [line.strip() for line in self._log(index).read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing."
