"""`VersionFiles`: the artifacts and test rows of registered versions, where MLflow stores them."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse
from urllib.request import url2pathname

from manta.errors import InputError, RunError
from manta.inference.artifact import MANIFEST_FILE, Manifest, ModelArtifact
from manta.registry.frozen_rows import ROWS_FILE, FrozenRows
from manta.registry.tracking import store_errors
from manta.storage.folders import partial_beside, write_atomically
from manta.storage.object_store import discard

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from manta.registry.tracking import MlflowStore
    from manta.registry.versions import RegisteredVersion
    from manta.storage.folders import Storage

ARTIFACT_FOLDER = "model"
FROZEN_FOLDER = "frozen"


class VersionFiles:
    """The files of registered versions. Each lies with the MLflow run that made it."""

    def __init__(self, store: MlflowStore, storage: Storage) -> None:
        self._client = store.client
        self._uri = store.uri
        self._is_local = store.is_local
        self._storage = storage

    def store(self, run_id: str, artifact: ModelArtifact, frozen: FrozenRows | None) -> None:
        """Store an artifact, and its test rows if they are given, with the run that made it."""
        self._client.log_artifacts(run_id, str(artifact.path), ARTIFACT_FOLDER)
        if frozen is not None:
            with tempfile.TemporaryDirectory() as folder:
                frozen.write(Path(folder))
                self._client.log_artifacts(run_id, folder, FROZEN_FOLDER)

    def add(self, version: RegisteredVersion, folder: Path, names: Iterable[str]) -> None:
        """Add files of a folder to a version's artifact in their order, each as a whole; one of the same name is replaced."""
        for name in names:
            if self._is_local:
                file = _local_path(version.source) / name
                partial = partial_beside(file)
                shutil.copyfile(folder / name, partial)
                partial.replace(file)
            else:
                self._client.log_artifact(version.run_id, str(folder / name), ARTIFACT_FOLDER)

    def delete(self, version: RegisteredVersion) -> None:
        """Remove a version's artifact, and its copy on this machine."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        if self._is_local:
            shutil.rmtree(_local_path(version.source), ignore_errors=True)
        else:
            get_artifact_repository(version.source, tracking_uri=self._uri).delete_artifacts()
        discard(self._fetched(version))

    def exist(self, version: RegisteredVersion) -> bool:
        """Tell whether the version's artifact still exists. Its files are checked only when it is fetched.

        Raises:
            RunError: the store cannot be reached.
        """
        local = _local_path(version.source)
        if self._is_local or local.is_dir():
            return (local / MANIFEST_FILE).is_file()
        with answering(self._uri):
            files = {file.path for file in self._client.list_artifacts(version.run_id, ARTIFACT_FOLDER)}
        return f"{ARTIFACT_FOLDER}/{MANIFEST_FILE}" in files

    def fetch(self, version: RegisteredVersion) -> ModelArtifact:
        """Return the version's artifact on this machine, checked. An artifact from a server stays in the storage for later calls.

        Raises:
            InputError: the artifact is gone or altered.
            RunError: the store cannot be reached.
        """
        local = _local_path(version.source)
        if local.is_dir():
            return ModelArtifact.load(local)
        if self._is_local:
            raise InputError(f"{version.name} version {version.version}: its folder {local} is gone; train it again.")
        kept = self._fetched(version)
        if kept.is_dir():
            try:
                return self._with_joined(version, ModelArtifact.load(kept))
            except InputError:
                shutil.rmtree(kept)
        if not self.exist(version):
            raise InputError(f"{version.name} version {version.version}: {version.source} is gone from the store; train it again.")
        with self._downloaded(version, ARTIFACT_FOLDER) as folder:
            ModelArtifact.load(folder)
            with suppress(FileExistsError, NotADirectoryError):  # another process was quicker
                folder.rename(kept)
        return ModelArtifact.load(kept)

    def _with_joined(self, version: RegisteredVersion, kept: ModelArtifact) -> ModelArtifact:
        """Return a kept artifact with the formats that have joined its version since it was fetched."""
        with suppress(RunError), self._downloaded(version, f"{ARTIFACT_FOLDER}/{MANIFEST_FILE}") as file:
            text = file.read_text(encoding="utf-8")
            if text == (kept.path / MANIFEST_FILE).read_text(encoding="utf-8"):
                return kept
            for name in set(Manifest.model_validate_json(text).files) - set(kept.manifest.files):
                with self._downloaded(version, f"{ARTIFACT_FOLDER}/{name}") as added:
                    added.replace(kept.path / name)
            write_atomically(kept.path / MANIFEST_FILE, text)
            return ModelArtifact.load(kept.path)
        return kept

    def frozen_rows(self, version: RegisteredVersion) -> FrozenRows | None:
        """Return the test rows that were stored with a version, or None.

        Raises:
            InputError: they are damaged.
            RunError: the store cannot be reached.
        """
        local = _local_path(version.source).with_name(FROZEN_FOLDER)
        if local.is_dir():
            return FrozenRows.read(local)
        with answering(self._uri):
            files = {file.path for file in self._client.list_artifacts(version.run_id, FROZEN_FOLDER)}
        if f"{FROZEN_FOLDER}/{ROWS_FILE}" not in files:
            return None
        with self._downloaded(version, FROZEN_FOLDER) as folder:
            return FrozenRows.read(folder)

    @contextmanager
    def _downloaded(self, version: RegisteredVersion, name: str) -> Iterator[Path]:
        """Download a folder of the version's run. After the body it is removed, unless it was renamed."""
        beside = self._fetched(version).parent
        beside.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=beside, prefix="fetching-") as folder:
            with store_errors(f"{version.name} version {version.version}: {name} could not be fetched from {version.source}"):
                path = self._client.download_artifacts(version.run_id, name, folder)
            yield Path(path)

    def _fetched(self, version: RegisteredVersion) -> Path:
        """Return the folder in which a version from a server is kept. The run's id distinguishes servers."""
        return self._storage.root / "fetched" / f"{version.name}-{version.version}-{version.run_id}"


def answering(uri: str) -> AbstractContextManager[None]:
    """Turn what MLflow raises in the body into an error that says which registry does not answer."""
    return store_errors(f"the registry at {uri} does not answer")


def _local_path(source: str) -> Path:
    return Path(url2pathname(urlparse(source).path))
