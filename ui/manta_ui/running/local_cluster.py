"""A cluster of one node on this machine, which the page starts for its first job: `manta cluster local` in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from manta.cluster.connections import connection
from manta.cluster.jobs_api import JobsApi, last_line
from manta.cluster.tied import start_tied, stop_tied
from manta.errors import RunError

if TYPE_CHECKING:
    from types import TracebackType

    from manta.storage.folders import Storage

STOPS_WITHIN_S = 30.0


class PageCluster:
    """The cluster. As a context manager, it stops at the end; it also ends if the page is killed.

    Its jobs use the same storage as the page.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._api: JobsApi | None = None

    def __enter__(self) -> PageCluster:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @staticmethod
    def can_start() -> bool:
        """Tell whether what a cluster needs is installed here."""
        return all(importlib.util.find_spec(name) is not None for name in ("manta_jobs", "ray"))

    def is_up(self) -> bool:
        """Tell whether it was started and still runs."""
        return self._api is not None and self._process is not None and self._process.poll() is None

    def api(self) -> JobsApi:
        """Return a client of the cluster. The first call starts it, which takes ten seconds or more.

        Raises:
            RunError: it does not start.
        """
        with self._lock:
            if self._api is None or not self.is_up():
                self._api = self._started()
            return self._api

    def stop(self) -> None:
        """Stop the cluster and its jobs, if it was started."""
        if self._process is not None:
            stop_tied(self._process, stops_within_s=STOPS_WITHIN_S)

    def _started(self) -> JobsApi:
        cpus = len(os.sched_getaffinity(0))
        command = [*(sys.executable, "-m", "manta.cli", "cluster", "local", "--nodes", "1", "--cpus-per-node", str(cpus), "--json")]
        self._storage.root.mkdir(parents=True, exist_ok=True)
        log = self._storage.root / "page-cluster.log"
        with log.open("w") as output:
            environment = os.environ | {"MANTA_STORAGE": self._storage.url or str(self._storage.root)}
            self._process = start_tied(
                command, stops_within_s=STOPS_WITHIN_S, stdout=subprocess.PIPE, stderr=output, env=environment
            )
        line = self._process.stdout.readline() if self._process.stdout else b""
        if not line:
            raise RunError(f"no cluster could be started on this machine: {last_line(log.read_text(errors='replace'))} (see {log})")
        started = json.loads(line)
        return JobsApi(connection(address=started["jobs_address"], token_file=Path(started["token_file"])))
