"""Tracking of each run in MLflow: its settings, figures and files, from its first step to its end.

The record is kept where `ModelRegistry` keeps its versions: in a SQLite file under the storage, or on the tracking server if
MLFLOW_TRACKING_URI is set. `RunTracker` writes one run. A version that is registered later belongs to that run.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from manta.errors import InputError, RunError
from manta.storage.urls import check_scheme

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mlflow import MlflowClient
    from mlflow.entities import Metric

    from manta.storage.folders import Storage

SERVER = "MLFLOW_TRACKING_URI"
DATABASE_FILE = "mlflow.db"
USER = "MLFLOW_TRACKING"
"""Start of the names of the variables with a user, a password or a token."""
ANSWER_WITHIN_S = 10.0
# MLflow's own defaults wait four minutes for a server that is down, and two minutes for each answer. The next flush
# sends lost figures again, so shorter limits are enough. An operator's own setting of these variables wins.
REQUEST_LIMITS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}
METRICS_PER_REQUEST = 1000  # MLflow's limit for one request; for parameters it is 100
PARAMS_PER_REQUEST = 100
NUM_CHARACTERS = 500  # limit of a parameter's value and of a tag; older servers refuse more
PARENT_TAG = "mlflow.parentRunId"

EndStatus = Literal["FINISHED", "FAILED", "KILLED"]
NO_RESULTS = {"epoch", "learning_rate", "dropout", "examples_per_s", "skipped_steps"}
"""Keys of an epoch's figures that are not results."""


@dataclass(frozen=True)
class MlflowStore:
    """An opened store: a SQLite file on this machine, or a server."""

    client: MlflowClient
    uri: str
    is_local: bool


def open_mlflow(storage: Storage) -> MlflowStore:
    """Open the server of MLFLOW_TRACKING_URI, else the SQLite file of the storage, which MLflow creates on its first use."""
    for name, value in REQUEST_LIMITS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):  # after the import, which sets them
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs a traceback of an error that is also raised
    if server := tracking_server():
        with store_errors(f"{SERVER} {server} cannot be used"):
            return MlflowStore(MlflowClient(tracking_uri=server, registry_uri=server), server, is_local=False)
    uri = f"sqlite:///{storage.registry / DATABASE_FILE}"
    with store_errors(f"the registry at {uri} cannot be opened"):
        _make_database(storage.registry, uri)
        return MlflowStore(MlflowClient(tracking_uri=uri, registry_uri=uri), uri, is_local=True)


def existing_database(storage: Storage) -> Path:
    """Return the local registry's file.

    Raises:
        InputError: there is none.
    """
    path = storage.registry / DATABASE_FILE
    if not path.is_file():
        raise InputError(
            f"there is no registry in {storage.registry}; set MANTA_STORAGE to that of your runs, or run `manta train` first."
        )
    return path


def _make_database(folder: Path, uri: str) -> None:
    """Create the database unless it exists. A lock admits one process at a time, as MLflow's migrations cannot run in parallel."""
    from mlflow import MlflowClient

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".making").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / DATABASE_FILE).exists():
            MlflowClient(tracking_uri=uri, registry_uri=uri).search_registered_models(max_results=1)


def tracking_server() -> str:
    """Return MLFLOW_TRACKING_URI; empty if it is not set.

    Raises:
        InputError: it is a host and a port, without http://.
    """
    server = os.environ.get(SERVER, "").strip()
    check_scheme(server, setting=SERVER)
    return server


def check_tracking_server() -> None:
    """Check that the tracking server answers requests as it will during a run, if one is set. Nothing is written.

    Raises:
        InputError: nothing answers at its address, or the server refuses.
    """
    import httpx

    server = tracking_server()
    if not server.startswith(("http://", "https://")):
        return
    user, token = os.environ.get(f"{USER}_USERNAME"), os.environ.get(f"{USER}_TOKEN")
    try:
        answer = httpx.get(
            f"{server.rstrip('/')}/api/2.0/mlflow/experiments/search?max_results=1",  # /health answers everyone
            headers={"Authorization": f"Bearer {token}"} if token else None,
            auth=(user, os.environ.get(f"{USER}_PASSWORD", "")) if user and not token else None,
            timeout=ANSWER_WITHIN_S,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InputError(f"no MLflow server answers at {SERVER} {server} ({error}); start it or unset {SERVER}.") from None
    if answer.is_success:
        return
    said = f"the MLflow server at {SERVER} {server} refuses requests (status {answer.status_code})"
    if "Host header" in answer.text:
        raise InputError(
            f"{said}: its allowed hosts lack this name; start mlflow server with --allowed-hosts {answer.url.netloc.decode()}."
        )
    if answer.status_code in {401, 403}:
        raise InputError(f"{said}; set {USER}_USERNAME and {USER}_PASSWORD.")
    raise InputError(f"{said}; check the address, and the server's log.")


NETWORK_ERROR = re.compile(r"\[Errno -?[0-9]+\] ([^'\")\]]+)")


@contextmanager
def store_errors(sentence: str) -> Iterator[None]:
    """Turn errors of MLflow, its database and the network in the body into a RunError of `sentence` and the error's first line."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        if "Max retries exceeded" in str(error):  # the words of the HTTP client, around those of the network
            found = NETWORK_ERROR.search(str(error))
            reason = found[1] if found else "no connection"
        if "database is locked" in str(error):
            reason = "another process has locked its database; try again when that one is done"
        raise RunError(f"{sentence} ({reason}).") from error


@dataclass(frozen=True)
class Point:
    """One figure of a run at one optimizer step."""

    name: str
    value: float
    step: int


def step_points(steps: list[dict[str, Any]]) -> list[Point]:
    """Return the figures of logged optimizer steps, such as `train/loss`. Figures that were not measured are left out."""
    return [
        Point(f"train/{key}", float(value), int(step["step"]))
        for step in steps
        for key, value in step.items()
        if key not in {"step", "epoch"} and _is_number(value)
    ]


def epoch_points(history: list[dict[str, Any]], *, steps_per_epoch: float) -> list[Point]:
    """Return the results of finished epochs at the step where each ended, such as `validation/accuracy`."""
    points: list[Point] = []
    for epoch in history:
        step = round(int(epoch["epoch"]) * steps_per_epoch)
        for key, value in epoch.items():
            if key not in NO_RESULTS and _is_number(value):
                name = f"train/epoch_{key[6:]}" if key.startswith("train_") else f"validation/{key}"
                points.append(Point(name, float(value), step))
    return points


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class RunTracker:
    """Writer of one run to MLflow, during the run.

    `add` collects figures and `flush` sends them. Figures that a flush cannot send are kept for the next one.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._store = open_mlflow(storage)
        self._unsent: list[Metric] = []
        self.run_id = ""

    @property
    def uri(self) -> str:
        """URI of the store."""
        return self._store.uri

    @property
    def num_unsent(self) -> int:
        """Number of figures that the store has not accepted yet."""
        return len(self._unsent)

    def start(
        self, run_name: str, *, experiment: str, config: dict[str, Any], resume_id: str | None = None, parent_id: str | None = None
    ) -> str:
        """Open a run, or reopen one that ended early, and record its settings. Return the run's id.

        If the store no longer has the run to resume, a new one is opened. Settings that are already recorded keep their first
        value. A run with a parent, such as a trial of a search, is shown below it.

        Raises:
            RunError: the store cannot be reached or refuses.
        """
        with store_errors(f"the run cannot be recorded in MLflow at {self.uri}"):
            known = self._resumed(resume_id) if resume_id else None
            if known is None:
                tags = {PARENT_TAG: parent_id} if parent_id else {}
                run = self._store.client.create_run(self._experiment_id(experiment), run_name=run_name, tags=tags)
                self.run_id, known = str(run.info.run_id), {}
            self._send_params({key: value for key, value in flat(config).items() if key not in known})
        return self.run_id

    def log_params(self, values: dict[str, Any]) -> None:
        """Record settings by dotted name. A value can be set only once.

        Raises:
            RunError: the store cannot be reached, or has another value for one of them.
        """
        with store_errors(f"MLflow at {self.uri} takes no settings"):
            self._send_params(values)

    def add(self, points: Sequence[Point]) -> None:
        """Collect figures, which the next `flush` sends."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._unsent += [Metric(point.name, point.value, now_ms, point.step) for point in points]

    def flush(self) -> None:
        """Send the collected figures.

        Raises:
            RunError: the store cannot be reached; figures that it has not accepted are kept.
        """
        with store_errors(f"MLflow at {self.uri} takes no figures"):
            while self._unsent:
                batch = self._unsent[:METRICS_PER_REQUEST]
                # If a batch arrived but its answer was lost, it is sent twice; MLflow recognizes the figures that it has.
                self._store.client.log_batch(self.run_id, metrics=batch)
                del self._unsent[: len(batch)]

    def log_files(self, path: Path, folder: str | None = None) -> None:
        """Store a file, or a folder's content, with the run.

        Raises:
            RunError: the store cannot be reached.
        """
        store = self._store.client.log_artifacts if path.is_dir() else self._store.client.log_artifact
        with store_errors(f"{path} could not be stored in MLflow at {self.uri}"):
            store(self.run_id, str(path), folder)

    def finish(self, status: EndStatus, *, error: str | None = None) -> None:
        """Record how the run ended and, if it did not finish, why.

        Raises:
            RunError: the store cannot be reached.
        """
        with store_errors(f"MLflow at {self.uri} does not take the run's end"):
            if error is not None:
                self._store.client.set_tag(self.run_id, "manta.error", error[:NUM_CHARACTERS])
            self._store.client.set_terminated(self.run_id, status=status)

    def _send_params(self, values: dict[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(key, str(value)[:NUM_CHARACTERS]) for key, value in values.items()]
        for start in range(0, len(params), PARAMS_PER_REQUEST):
            self._store.client.log_batch(self.run_id, params=params[start : start + PARAMS_PER_REQUEST])

    def _resumed(self, run_id: str) -> dict[str, str] | None:
        """Set a known run to running again and return its settings; None if the store no longer has it."""
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

        client = self._store.client
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                return None
            raise
        client.update_run(run_id, status="RUNNING")
        if "manta.error" in run.data.tags:
            client.delete_tag(run_id, "manta.error")
        self.run_id = run_id
        return dict(run.data.params)

    def _experiment_id(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        client = self._store.client
        found = client.get_experiment_by_name(name)
        if found is None:
            location = (self._storage.registry / "artifacts").as_uri() if self._store.is_local else None
            try:
                return str(client.create_experiment(name, artifact_location=location))
            except MlflowException:
                found = client.get_experiment_by_name(name)  # another process has just created it
                if found is None:
                    raise
        return str(found.experiment_id)


def flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a config document's settings by dotted name. A mapping within `tune` stays one value."""
    settings: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, dict) and not prefix.startswith("tune."):
            settings |= flat(value, f"{prefix}{key}.")
        else:
            settings[prefix + key] = value
    return settings
