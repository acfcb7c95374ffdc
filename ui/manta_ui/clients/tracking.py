"""The page's client of the registry: MLflow's REST API (https://mlflow.org/docs/latest/api_reference/rest-api.html)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

from manta.cluster.http import http_client
from manta.errors import MantaError, without_passwords
from manta.registry.decisions import Decision, read_decisions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

TIMEOUT_S = 10.0
PARENT_TAG = "mlflow.parentRunId"
SEARCH_NAMES = "%-tune-________-______-____"
"""SQL pattern for the names that `manta tune` gives its runs. The names of trials are longer and do not match."""
MOST_SEARCHES = 100
NOT_THERE = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}


class TrackingError(MantaError):
    """Error: the registry did not answer, or refused the request. The message is for the person at the page."""


class TrackingStartingError(TrackingError):
    """Error: the server is starting; the same request may succeed in a moment."""


class NothingRecordedError(TrackingError):
    """Error: there is no registry yet, because nothing was trained."""


@dataclass(frozen=True)
class TrackedModel:
    """A registered model, without its versions."""

    name: str
    aliases: dict[str, int]
    """Version by alias, such as `champion`."""
    decisions: tuple[Decision, ...]
    """Decisions, oldest first."""


@dataclass(frozen=True)
class TrackedRun:
    """A run, a search or a trial, as MLflow reports it."""

    id: str
    name: str
    status: str
    """RUNNING, FINISHED, FAILED or KILLED."""
    started_ms: int
    ended_ms: int | None
    metrics: dict[str, float]
    """The last value of each metric."""
    settings: dict[str, str]
    """Settings by dotted name."""
    tags: dict[str, str]

    @property
    def is_over(self) -> bool:
        """True if nothing more is recorded for it."""
        return self.status != "RUNNING"


@dataclass(frozen=True)
class Version:
    """One version of a registered model, with the data of the run that made it."""

    model: str
    number: int
    aliases: tuple[str, ...]
    created_ms: int
    lineage: dict[str, str]
    """Its origin, such as `data_hash`."""
    run_id: str
    run: TrackedRun | None
    """The run that made it; None if that was deleted."""

    @property
    def title(self) -> str:
        """Name and number, such as `support@3`."""
        return f"{self.model}@{self.number}"

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics on the test rows, and on the validation rows as `validation_…`."""
        found = self.run.metrics if self.run else {}
        return {name.removeprefix("final_"): value for name, value in found.items() if name.startswith("final_")}


class TrackingClient:
    """A client of one MLflow server.

    `url` may be a function, for a server that is started at the first request; its errors reach the caller.
    `environment` are the variables by which a job finds the same registry; by default, MLFLOW_TRACKING_URI.
    """

    def __init__(self, url: str | Callable[[], str], *, environment: Mapping[str, str] | None = None) -> None:
        self._url = url
        self.environment = dict(environment or {})
        if isinstance(url, str) and environment is None:
            # The variables of a job can be read by all who see the cluster's dashboard.
            self.environment = {"MLFLOW_TRACKING_URI": without_passwords(url.rstrip("/"))}
        self._http: httpx.Client | None = None
        self._histories: dict[tuple[str, str], list[float]] = {}

    def models(self) -> list[TrackedModel]:
        """Return all registered models, sorted by name.

        Raises:
            TrackingError: the server does not answer.
        """
        entries = self._all("GET", "registered-models/search", "registered_models", max_results=100)
        return sorted(map(_model, entries), key=lambda model: model.name)

    def versions(self, model: TrackedModel) -> list[Version]:
        """Return a model's versions, newest first.

        Raises:
            TrackingError: the server does not answer.
        """
        query = f"name = '{_quoted(model.name)}'"
        entries = list(self._all("GET", "model-versions/search", "model_versions", filter=query, max_results=1000))
        runs = self._runs_of(model.name, {str(entry.get("run_id", "")) for entry in entries})
        found = [
            Version(
                model=model.name,
                number=int(entry["version"]),
                aliases=tuple(sorted(alias for alias, number in model.aliases.items() if number == int(entry["version"]))),
                created_ms=int(entry["creation_timestamp"]),
                lineage={key.removeprefix("manta."): value for key, value in _pairs(entry.get("tags")) if key.startswith("manta.")},
                run_id=str(entry.get("run_id", "")),
                run=runs.get(str(entry.get("run_id", ""))),
            )
            for entry in entries
        ]
        return sorted(found, key=lambda version: -version.number)

    def searches(self) -> list[TrackedRun]:
        """Return the newest runs of `manta tune`, newest first.

        Raises:
            TrackingError: the server does not answer.
        """
        experiments = [entry["experiment_id"] for entry in self._all("POST", "experiments/search", "experiments", max_results=1000)]
        if not experiments:
            return []
        query = f"attributes.run_name LIKE '{SEARCH_NAMES}'"
        return self._search_runs(experiments, query, most=MOST_SEARCHES)

    def run(self, run_id: str) -> TrackedRun:
        """Return one run.

        Raises:
            TrackingError: there is no such run, or the server does not answer.
        """
        return _run(self._json("GET", "runs/get", run_id=run_id)["run"])

    def trials(self, search: TrackedRun) -> list[TrackedRun]:
        """Return the trials that a search has run so far, in the order in which they began.

        Raises:
            TrackingError: the server does not answer.
        """
        experiment = self._json("GET", "runs/get", run_id=search.id)["run"]["info"]["experiment_id"]
        found = self._search_runs([experiment], f"tags.`{PARENT_TAG}` = '{_quoted(search.id)}'")
        return sorted(found, key=lambda run: (run.started_ms, run.name))

    def history(self, run: TrackedRun, metric: str) -> list[float]:
        """Return every value of a run's metric in the order of its steps; empty if the metric was not recorded.

        Raises:
            TrackingError: the server does not answer.
        """
        if (run.id, metric) in self._histories:
            return self._histories[run.id, metric]
        entries = self._all("GET", "metrics/get-history", "metrics", run_id=run.id, metric_key=metric, max_results=1000)
        by_step = {int(entry.get("step", 0)): float(entry["value"]) for entry in entries}
        values = [by_step[step] for step in sorted(by_step)]
        if run.is_over:
            self._histories[run.id, metric] = values
        return values

    def file(self, run_id: str, path: str) -> bytes | None:
        """Return a file that is stored with a run; None if there is no such file.

        Raises:
            TrackingError: the server does not answer, or cannot read its store.
        """
        folder, _, _ = path.rpartition("/")
        listed = self._json("GET", "artifacts/list", run_id=run_id, **({"path": folder} if folder else {}))
        if path not in {entry["path"] for entry in listed.get("files", [])}:
            return None
        answer = self._send("GET", f"get-artifact?run_uuid={quote(run_id)}&path={quote(path)}")
        if answer.status_code != httpx.codes.OK:
            raise TrackingError(f"MLflow cannot read {path} of run {run_id} (status {answer.status_code}).")
        return answer.content

    def document(self, run_id: str, path: str) -> dict[str, Any]:
        """Return a JSON file that is stored with a run; empty if it is missing or damaged.

        Raises:
            TrackingError: the server does not answer.
        """
        content = self.file(run_id, path)
        try:
            found = json.loads(content) if content else {}
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _runs_of(self, experiment: str, run_ids: set[str]) -> dict[str, TrackedRun]:
        """Return the runs of a model's versions. They are recorded in the experiment that has the model's name."""
        wanted = sorted(run_ids - {""})
        try:
            found = self._json("GET", "experiments/get-by-name", experiment_name=experiment)["experiment"]["experiment_id"]
        except _RefusedError:
            return {}
        query = f"attributes.run_id IN ({', '.join(repr(run_id) for run_id in wanted)})"
        return {run.id: run for run in self._search_runs([found], query)} if wanted else {}

    def _search_runs(self, experiments: list[str], query: str, *, most: int | None = None) -> list[TrackedRun]:
        entries = self._all(
            *("POST", "runs/search", "runs"),
            experiment_ids=experiments,
            filter=query,
            max_results=most or 1000,
            order_by=["attributes.start_time DESC"],
        )
        found = []
        for entry in entries:
            found.append(_run(entry))
            if len(found) == most:
                break
        return found

    def _all(self, method: str, path: str, key: str, /, **arguments: Any) -> Iterator[dict[str, Any]]:
        """Yield the entries of all pages of an answer."""
        token: str | None = None
        while True:
            page = self._json(method, path, **arguments, **({"page_token": token} if token else {}))
            yield from page.get(key, [])
            token = page.get("next_page_token")
            if not token:
                return

    def _json(self, method: str, path: str, /, **arguments: Any) -> dict[str, Any]:
        kind = "params" if method == "GET" else "json"
        answer = self._send(method, f"api/2.0/mlflow/{path}", **{kind: arguments})
        try:
            body = answer.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise TrackingError(f"{self._address()} answers, but not as MLflow does (status {answer.status_code}).")
        if answer.is_success:
            return body
        message = str(body.get("message") or f"status {answer.status_code}").splitlines()[0]
        kind_of_error = _RefusedError if body.get("error_code") in NOT_THERE else TrackingError
        raise kind_of_error(f"MLflow at {self._address()} refuses: {message}")

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        address = self._address()
        try:
            if self._http is None:
                self._http = http_client(address, timeout_s=TIMEOUT_S)
            return self._http.request(method, f"{address}/{path}", **content)
        except httpx.TimeoutException:
            raise TrackingError(f"MLflow at {address} takes too long to answer. Try again in a moment.") from None
        except (httpx.HTTPError, httpx.InvalidURL):
            raise TrackingError(f"No MLflow server answers at {address}. Models and searches are shown once it runs.") from None

    def _address(self) -> str:
        return (self._url if isinstance(self._url, str) else self._url()).rstrip("/")


class _RefusedError(TrackingError):
    """Error: the requested item does not exist."""


def _model(entry: dict[str, Any]) -> TrackedModel:
    aliases = {item["alias"]: int(item["version"]) for item in entry.get("aliases") or []}
    return TrackedModel(entry["name"], aliases, tuple(read_decisions(dict(_pairs(entry.get("tags"))))))


def _run(entry: dict[str, Any]) -> TrackedRun:
    info, data = entry["info"], entry.get("data", {})
    tags = dict(_pairs(data.get("tags")))
    return TrackedRun(
        id=info["run_id"],
        name=info.get("run_name") or tags.get("mlflow.runName", ""),
        status=info["status"],
        started_ms=int(info.get("start_time") or 0),
        ended_ms=int(info["end_time"]) if info.get("end_time") else None,
        metrics={metric["key"]: float(metric["value"]) for metric in data.get("metrics", [])},
        settings=dict(_pairs(data.get("params"))),
        tags=tags,
    )


def _pairs(entries: list[dict[str, str]] | None) -> Iterator[tuple[str, str]]:
    for entry in entries or []:
        yield entry["key"], entry.get("value", "")


def _quoted(text: str) -> str:
    """Return a name for use in a filter, without quotes. Manta's names have none; a name that has some finds nothing."""
    return re.sub(r"['\"\\]", "", text)
