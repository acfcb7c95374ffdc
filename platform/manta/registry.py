"""`ModelRegistry`: versions of models and the aliases `champion` and `candidate`, kept by MLflow.

A SQLite file and a folder under the storage by default; the tracking server when MLFLOW_TRACKING_URI is set.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from manta.artifact import ModelArtifact
from manta.errors import InputError, RunError
from manta.storage import Storage

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
ARTIFACT_FOLDER = "model"


@dataclass(frozen=True)
class RegisteredVersion:
    """One version of a registered model."""

    name: str
    version: int
    aliases: tuple[str, ...]
    run: str
    """Name of the Manta run that made it."""
    created_ms: int
    """Milliseconds since the Unix epoch."""
    metrics: dict[str, float]
    source: str
    """URI of its artifact."""


class ModelRegistry:
    """Registers artifacts and finds them again."""

    def __init__(self, storage: Storage) -> None:
        """Open the registry; the local database is made when something is first written or looked up."""
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        from mlflow import MlflowClient

        self._storage = storage
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{storage.registry / 'mlflow.db'}"
        self._is_local = not os.environ.get("MLFLOW_TRACKING_URI")
        if self._is_local:
            storage.registry.mkdir(parents=True, exist_ok=True)
        self._client: MlflowClient = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def register(self, artifact: ModelArtifact, *, history: list[dict[str, Any]], promote: bool) -> RegisteredVersion:
        """Store an artifact as a new version with its lineage; it becomes the champion if `promote`.

        The version is an MLflow run that holds the config as parameters, the metrics of each epoch (`history`) and the
        artifact itself.
        """
        manifest = artifact.manifest
        run_id = self._record_run(artifact, history)
        self._ensure_model(manifest.name)
        run = self._client.get_run(run_id)
        version = self._client.create_model_version(
            name=manifest.name,
            source=f"{run.info.artifact_uri}/{ARTIFACT_FOLDER}",
            run_id=run_id,
            tags={"manta.run": manifest.run, "manta.data_hash": manifest.data_hash},
        )
        if promote:
            self._client.set_registered_model_alias(manifest.name, CHAMPION, version.version)
        return self.get(manifest.name, version=int(version.version))

    def get(self, name: str, *, version: int | None = None, alias: str = CHAMPION) -> RegisteredVersion:
        """One version by number, else by alias.

        Raises:
            InputError: there is no such model, version or alias.
        """
        from mlflow.exceptions import MlflowException

        try:
            if version is not None:
                found = self._client.get_model_version(name, str(version))
            else:
                found = self._client.get_model_version_by_alias(name, alias)
        except MlflowException as error:
            wanted = f"version {version}" if version is not None else alias
            raise InputError(f"{name}: no {wanted} in the registry at {self.uri} ({self._known(name)}).") from error
        return self._described(found)

    def version_of_run(self, name: str, run: str) -> RegisteredVersion | None:
        """The version that a run has registered already, if any."""
        return next((version for version in self.versions(name) if version.run == run), None)

    def versions(self, name: str | None = None) -> list[RegisteredVersion]:
        """Every version, newest first; of one model if `name` is given."""
        query = f"name = '{name}'" if name else None
        found = self._client.search_model_versions(query, max_results=1000)
        # Aliases come with single look-ups only.
        described = [self.get(item.name, version=int(item.version)) for item in found]
        return sorted(described, key=lambda item: (item.name, -item.version))

    def fetch(self, version: RegisteredVersion) -> ModelArtifact:
        """The version's artifact on this machine, checked.

        Raises:
            InputError: the artifact is gone or altered.
            RunError: the store cannot be reached.
        """
        import mlflow
        from mlflow.exceptions import MlflowException

        local = Path(url2pathname(urlparse(version.source).path))
        if local.is_dir():
            return ModelArtifact.load(local)
        if self._is_local:
            raise InputError(f"{version.name} version {version.version}: its folder {local} is gone; train it again.")
        try:
            path = mlflow.artifacts.download_artifacts(artifact_uri=version.source, tracking_uri=self.uri)
        except (MlflowException, OSError) as error:
            raise RunError(
                f"{version.name} version {version.version}: could not be fetched from {version.source} ({error})."
            ) from error
        return ModelArtifact.load(Path(path))

    def _record_run(self, artifact: ModelArtifact, history: list[dict[str, Any]]) -> str:
        manifest = artifact.manifest
        experiment_id = self._ensure_experiment(manifest.name)
        run = self._client.create_run(experiment_id, run_name=manifest.run, tags={"manta.pretrained": manifest.pretrained})
        run_id = str(run.info.run_id)
        for key, value in _flat(manifest.config).items():
            self._client.log_param(run_id, key, str(value)[:500])
        for epoch in history:
            for key, value in epoch.items():
                if isinstance(value, int | float) and key != "epoch":
                    self._client.log_metric(run_id, key, float(value), step=int(epoch["epoch"]))
        for key, value in manifest.metrics.items():
            self._client.log_metric(run_id, f"final_{key}", value)
        self._client.log_artifacts(run_id, str(artifact.path), ARTIFACT_FOLDER)
        self._client.set_terminated(run_id, status="FINISHED")
        return run_id

    def _ensure_experiment(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        location = (self._storage.registry / "artifacts").as_uri() if self._is_local else None
        return str(self._client.create_experiment(name, artifact_location=location))

    def _ensure_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise

    def _described(self, found: ModelVersion) -> RegisteredVersion:
        metrics = self._client.get_run(found.run_id).data.metrics
        return RegisteredVersion(
            name=found.name,
            version=int(found.version),
            aliases=tuple(found.aliases),
            run=found.tags.get("manta.run", ""),
            created_ms=int(found.creation_timestamp),
            metrics={key.removeprefix("final_"): value for key, value in metrics.items() if key.startswith("final_")},
            source=found.source,
        )

    def _known(self, name: str) -> str:
        models = sorted(model.name for model in self._client.search_registered_models())
        if name in models:
            numbers = sorted(int(item.version) for item in self._client.search_model_versions(f"name = '{name}'"))
            return f"it has versions {', '.join(map(str, numbers))}"
        return f"known models: {', '.join(models)}" if models else "it is empty; run `manta train` first"


def _flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, dict) and not prefix.startswith("tune."):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
