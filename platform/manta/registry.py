"""`ModelRegistry`: versions of models and the aliases `champion` and `candidate`, kept by MLflow.

A SQLite file and a folder under the storage by default; the tracking server when MLFLOW_TRACKING_URI is set.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse
from urllib.request import url2pathname

from manta.artifact import ModelArtifact
from manta.errors import InputError
from manta.storage import Storage
from manta.tracking import open_mlflow, store_errors

if TYPE_CHECKING:
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
        store = open_mlflow(storage)
        self.uri = store.uri
        self._is_local = store.is_local
        self._client = store.client

    def register(self, artifact: ModelArtifact, *, run_id: str, promote: bool) -> RegisteredVersion:
        """Store an artifact with the MLflow run that made it, as a new version; it becomes the champion if `promote`.

        The run, which `manta.tracking.RunTracker` opened, holds the config, the figures of each step and, from here on, the
        artifact and its metrics as `final_…`.

        Raises:
            RunError: the store cannot be reached or refuses; the message says where the model is.
        """
        manifest = artifact.manifest
        with store_errors(f"the model is finished and lies in {artifact.path}, but could not be registered at {self.uri}"):
            version = self._new_version(artifact, run_id)
            if promote:
                self._client.set_registered_model_alias(manifest.name, CHAMPION, version.version)
        return self.get(manifest.name, version=int(version.version))

    def get(self, name: str, *, version: int | None = None, alias: str = CHAMPION) -> RegisteredVersion:
        """One version by number, else by alias.

        Raises:
            InputError: there is no such model, version or alias.
            RunError: the registry cannot be reached.
        """
        from mlflow.exceptions import MlflowException

        with store_errors(f"the registry at {self.uri} does not answer"):
            try:
                if version is not None:
                    return self._described(self._client.get_model_version(name, str(version)))
                return self._described(self._client.get_model_version_by_alias(name, alias))
            except MlflowException as error:
                wanted = f"version {version}" if version is not None else alias
                raise InputError(f"{name}: no {wanted} in the registry at {self.uri} ({self._known(name)}).") from error

    def version_of_run(self, name: str, run: str) -> RegisteredVersion | None:
        """The version that a run has registered already, if any."""
        return next((version for version in self.versions(name) if version.run == run), None)

    def versions(self, name: str | None = None) -> list[RegisteredVersion]:
        """Every version, newest first; of one model if `name` is given.

        Raises:
            RunError: the registry cannot be reached.
        """
        query = f"name = '{name}'" if name else None
        with store_errors(f"the registry at {self.uri} does not answer"):
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

        local = Path(url2pathname(urlparse(version.source).path))
        if local.is_dir():
            return ModelArtifact.load(local)
        if self._is_local:
            raise InputError(f"{version.name} version {version.version}: its folder {local} is gone; train it again.")
        with store_errors(f"{version.name} version {version.version}: could not be fetched from {version.source}"):
            path = mlflow.artifacts.download_artifacts(artifact_uri=version.source, tracking_uri=self.uri)
        return ModelArtifact.load(Path(path))

    def _new_version(self, artifact: ModelArtifact, run_id: str) -> ModelVersion:
        manifest = artifact.manifest
        for key, value in manifest.metrics.items():
            self._client.log_metric(run_id, f"final_{key}", value)
        self._client.set_tag(run_id, "manta.pretrained", manifest.pretrained)
        self._client.log_artifacts(run_id, str(artifact.path), ARTIFACT_FOLDER)
        self._ensure_model(manifest.name)
        return self._client.create_model_version(
            name=manifest.name,
            source=f"{self._client.get_run(run_id).info.artifact_uri}/{ARTIFACT_FOLDER}",
            run_id=run_id,
            tags={"manta.run": manifest.run, "manta.data_hash": manifest.data_hash},
        )

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
