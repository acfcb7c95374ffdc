"""An MLflow server that the page starts, for a registry in a SQLite file on this machine.

MLflow costs seconds and megabytes, so it is started when a tab first needs it, not with the page.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import httpx

from manta.cluster.http import http_client
from manta.cluster.ports import free_ports
from manta.cluster.tied import start_tied, stop_tied
from manta.storage.folders import owner_only
from manta_ui.clients.tracking import NothingRecordedError, TrackingClient, TrackingError, TrackingStartingError

if TYPE_CHECKING:
    from types import TracebackType

    from manta.storage.folders import Storage

STOPS_WITHIN_S = 5.0


class TrackingServer:
    """An MLflow server for the registry of a storage, on this machine only.

    As a context manager, it stops at the end; it also ends if the page is killed. `server.client()` returns a client of it.
    """

    def __init__(self, storage: Storage) -> None:
        self._registry = storage.registry
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._url = ""
        self._is_ready = False

    def __enter__(self) -> TrackingServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def address(self) -> str:
        """Return the URL of the server. The first call starts it.

        Raises:
            TrackingStartingError: the server does not answer yet.
            NothingRecordedError: there is no registry yet.
            TrackingError: the server cannot be started here, or has ended.
        """
        with self._lock:
            if self._process is None:
                self._start()
            elif self._process.poll() is not None:
                raise TrackingError(f"The page's MLflow server has ended. Start manta ui again; {self._log} has the cause.")
            if not self._is_ready:
                self._is_ready = _answers(f"{self._url}/health")
            if not self._is_ready:
                raise TrackingStartingError("Loading models and searches. The first time takes about ten seconds …")
            return self._url

    def client(self) -> TrackingClient:
        """Return a client that starts the server at its first request."""
        return TrackingClient(self.address, environment={"MANTA_STORAGE": str(self._registry.parent)})

    def stop(self) -> None:
        """Stop the server and its workers, if it was started."""
        if self._process is not None:
            stop_tied(self._process, stops_within_s=STOPS_WITHIN_S)

    @property
    def _log(self) -> str:
        return str(self._registry / "page-mlflow.log")

    def _start(self) -> None:
        if importlib.util.find_spec("mlflow") is None:
            raise TrackingError("No MLflow server is named. Start the page with: manta ui --tracking http://HOST:5000")
        database = self._registry / "mlflow.db"
        if not database.is_file():
            raise NothingRecordedError(f"Nothing was trained yet. The registry would be in {self._registry}.")
        port = free_ports(1)[0]
        self._url = f"http://127.0.0.1:{port}"
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{database}"),
            *("--artifacts-destination", str(self._registry / "artifacts")),
        ]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # no job queues, which start slowly
        with open(self._log, "wb", opener=owner_only) as log:
            self._process = start_tied(
                command, stops_within_s=STOPS_WITHIN_S, stdout=log, stderr=subprocess.STDOUT, env=environment
            )


def _answers(url: str) -> bool:
    try:
        with http_client(url, timeout_s=1.0) as client:
            return client.get(url).is_success
    except httpx.HTTPError:
        return False
