"""`ModelRegistry`: versions of models and the aliases `champion` and `candidate`, stored by MLflow.

By default, MLflow uses a SQLite file and a folder under the storage; if MLFLOW_TRACKING_URI is set, it uses that tracking server. A
version is created last, after everything that belongs to it is stored. So every visible version can be loaded.
Inference formats may join it later; its other files never change.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manta.errors import InputError
from manta.inference.artifact import MANIFEST_FILE, ModelArtifact
from manta.inference.formats import FORMAT_FILES
from manta.registry.decisions import Decision, read_decisions
from manta.registry.frozen_rows import FrozenRows
from manta.registry.lineage import lineage_tags
from manta.registry.tracking import PARENT_TAG, existing_database, open_mlflow, store_errors, tracking_server
from manta.registry.version_files import ARTIFACT_FOLDER, VersionFiles, answering
from manta.registry.versions import RegisteredVersion, Standing, is_worse
from manta.storage import audit
from manta.storage.folders import Storage, names_a_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
CANDIDATE = "candidate"
ALIASES = (CHAMPION, CANDIDATE)
RELOAD_TAG = "manta.reload"
# MLflow reports a missing alias, and a name that no model can have, as an invalid parameter.
NOT_THERE = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}


class ModelRegistry:
    """Storage of registered artifacts and their versions."""

    def __init__(self, storage: Storage, *, must_exist: bool = False) -> None:
        """Open the registry. The local database is created if it does not exist, unless it `must_exist`.

        Raises:
            InputError: the local database must exist and does not.
            RunError: the local database cannot be opened.
        """
        if must_exist and not tracking_server():
            existing_database(storage)
        store = open_mlflow(storage)
        self.uri = store.uri
        self._storage = storage
        self._client = store.client
        self.files = VersionFiles(store, storage)

    def register(self, artifact: ModelArtifact, *, run_id: str, frozen: FrozenRows | None = None) -> RegisteredVersion:
        """Store an artifact and its test rows with the MLflow run that made it, as a new version.

        It is the candidate, unless the present candidate is better by the metric that the new version's run chose by.

        `manta.registry.tracking.RunTracker` opened the run, which holds the config and the figures of each step. This method adds
        the artifact and its metrics as `final_…`.

        Raises:
            RunError: the store cannot be reached or refuses; the message says where the model is.
        """
        manifest = artifact.manifest
        with store_errors(f"the model is finished and lies in {artifact.path}, but could not be registered at {self.uri}"):
            version = self._new_version(artifact, run_id, frozen)
            new = self._described(version, ())
            candidate = self._find(manifest.name, version=None, alias=CANDIDATE)
            if candidate is None or not is_worse(new, self._described(candidate, ())):
                self._set_alias(manifest.name, CANDIDATE, version.version)
        return self.get(manifest.name, version=int(version.version))

    def add_formats(self, version: RegisteredVersion, artifact: ModelArtifact) -> None:
        """Add an artifact's inference formats to the version that was registered from it, and ask services to load them.

        The manifest counts them, so it comes last: whatever interrupts this leaves the version as it was.

        Raises:
            RunError: the store cannot be reached or refuses.
        """
        added = {file for item in artifact.manifest.formats if item.accepted for file in FORMAT_FILES[item.name]}
        with store_errors(f"the faster formats in {artifact.path} could not be added to {version} at {self.uri}"):
            self.files.add(version, artifact.path, (*sorted(added), MANIFEST_FILE))
        self.request_reload(version.name)

    def get(self, name: str, *, version: int | None = None, alias: str = CHAMPION) -> RegisteredVersion:
        """Return one version by number, else by alias.

        Raises:
            InputError: there is no such model, version or alias.
            RunError: the registry cannot be reached.
        """
        with answering(self.uri):
            found = self._find(name, version=version, alias=alias)
            if found is not None:
                return self._described(found, tuple(found.aliases))
            wanted = f"version {version}" if version is not None else alias
            raise InputError(f"{name}: no {wanted} in the registry at {self.uri} ({self._known(name)}).")

    def find(self, model: str) -> RegisteredVersion:
        """Return the version that `NAME` (its champion), `NAME@3` or `NAME@candidate` selects.

        Raises:
            InputError: there is no such version.
            RunError: the registry cannot be reached.
        """
        name, at, version = model.partition("@")
        if not at:
            return self.get(name)
        if version in ALIASES:
            return self.get(name, alias=version)
        if not version.isdecimal():
            raise InputError(f"{model}: what follows @ is a version, such as {name}@3, or {' or '.join(ALIASES)}.")
        return self.get(name, version=int(version))

    def with_alias(self, name: str, alias: str) -> RegisteredVersion | None:
        """Return the version an alias points to, or None.

        Raises:
            RunError: the registry cannot be reached.
        """
        with answering(self.uri):
            found = self._find(name, version=None, alias=alias)
            return None if found is None else self._described(found, tuple(found.aliases))

    def version_of_run(self, name: str, run: str) -> RegisteredVersion | None:
        """Return the version that a run has already registered, or None."""
        return next((version for version in self.versions(name) if version.run == run), None)

    def versions(self, name: str | None = None) -> list[RegisteredVersion]:
        """Return every version, newest first; only those of one model if `name` is given.

        Raises:
            RunError: the registry cannot be reached.
        """
        if name is not None and not re.fullmatch(r"[A-Za-z0-9._-]+", name):
            return []  # not a valid name, and a quote in it would break the query
        with answering(self.uri):
            models = self._models(name)
            # A search returns versions without their aliases.
            aliases = {model.name: {alias: int(number) for alias, number in model.aliases.items()} for model in models}
            query = f"name = '{name}'" if name else None
            found = _all_pages(lambda token: self._client.search_model_versions(query, max_results=1000, page_token=token))
            described = [
                self._described(
                    item, tuple(sorted(alias for alias, number in aliases[item.name].items() if number == int(item.version)))
                )
                for item in found
                if item.name in aliases
            ]
        return sorted(described, key=lambda item: (item.name, -item.version))

    def set_champion(self, version: RegisteredVersion) -> None:
        """Point `champion` to a version in one step. The candidate is then one that is newer, or none.

        Raises:
            RunError: the registry cannot be reached.
        """
        with store_errors(f"{version} could not be made the champion at {self.uri}"):
            self._set_alias(version.name, CHAMPION, str(version.version))
            candidate = self._find(version.name, version=None, alias=CANDIDATE)
            if candidate is not None and int(candidate.version) <= version.version:
                self._client.delete_registered_model_alias(version.name, CANDIDATE)

    def record(self, name: str, decision: Decision) -> None:
        """Add a decision about a model to its log.

        Raises:
            RunError: the registry cannot be reached.
        """
        with store_errors(f"the decision about {name}@{decision.version} could not be recorded at {self.uri}"):
            self._client.set_registered_model_tag(name, decision.key(), decision.model_dump_json())
        audit.record(self._storage, decision.action, by=decision.by, model=name, version=decision.version)

    def decisions(self, name: str) -> list[Decision]:
        """Return the log of a model, oldest first.

        Raises:
            RunError: the registry cannot be reached.
        """
        with answering(self.uri):
            return [decision for model in self._models(name) for decision in read_decisions(model.tags)]

    def standing(self, name: str) -> Standing:
        """Return champion, candidate, decisions and the last reload request of a model.

        Raises:
            InputError: there is no such model.
            RunError: the registry cannot be reached.
        """
        from mlflow.exceptions import MlflowException

        with answering(self.uri):
            try:
                model = self._client.get_registered_model(name)
            except MlflowException as error:
                if error.error_code not in NOT_THERE:
                    raise
                raise InputError(f"{name}: not in the registry at {self.uri} ({self._known(name)}).") from None
        numbers = {alias: int(number) for alias, number in model.aliases.items()}
        decisions = tuple(read_decisions(model.tags))
        return Standing(numbers.get(CHAMPION), numbers.get(CANDIDATE), decisions, model.tags.get(RELOAD_TAG))

    def request_reload(self, name: str) -> None:
        """Make every service of a model check the registry again, also for versions that it has refused.

        The request is a tag in the registry, which every replica polls anyway. So it needs no separate port or key.

        Raises:
            InputError: there is no such model.
            RunError: the registry cannot be reached.
        """
        self.standing(name)
        with store_errors(f"a reload of {name} could not be requested at {self.uri}"):
            self._client.set_registered_model_tag(name, RELOAD_TAG, datetime.now(UTC).isoformat())

    def delete(self, version: RegisteredVersion) -> None:
        """Remove a version and its artifact. Its run stays, with its settings and figures.

        Raises:
            InputError: an alias points to it.
            RunError: the registry cannot be reached.
        """
        self.check_deletable(version)
        with store_errors(f"{version} could not be deleted at {self.uri}"):
            self._client.delete_model_version(version.name, str(version.version))
            self.files.delete(version)

    def check_deletable(self, version: RegisteredVersion) -> None:
        """Check that no alias points to a version.

        Raises:
            InputError: an alias points to it.
            RunError: the registry cannot be reached.
        """
        aliases = self.get(version.name, version=version.version).aliases
        if aliases:
            raise InputError(f"{version} is the {' and the '.join(aliases)}; promote or register another one first.")

    def _new_version(self, artifact: ModelArtifact, run_id: str, frozen: FrozenRows | None) -> ModelVersion:
        manifest = artifact.manifest
        tags = lineage_tags(manifest)
        for key, value in manifest.metrics.items():
            self._client.log_metric(run_id, f"final_{key}", value)
        for key, tag in tags.items():
            self._client.set_tag(run_id, key, tag)
        self.files.store(run_id, artifact, frozen)
        self._ensure_model(manifest.name)
        return self._client.create_model_version(
            name=manifest.name,
            source=f"{self._client.get_run(run_id).info.artifact_uri}/{ARTIFACT_FOLDER}",
            run_id=run_id,
            tags=tags,
        )

    def _ensure_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias to a version, even if another process sets the model's first such alias at the same moment.

        MLflow looks for the alias and then inserts it. The second of two inserts violates a unique key. By then the alias exists,
        so a second attempt works.
        """
        from mlflow.exceptions import MlflowException

        try:
            self._client.set_registered_model_alias(name, alias, version)
        except MlflowException:
            if self._find(name, version=None, alias=alias) is None:
                raise
            self._client.set_registered_model_alias(name, alias, version)

    def _find(self, name: str, *, version: int | None, alias: str) -> ModelVersion | None:
        from mlflow.exceptions import MlflowException

        try:
            if version is not None:
                return self._client.get_model_version(name, str(version))
            return self._client.get_model_version_by_alias(name, alias)
        except MlflowException as error:
            if error.error_code in NOT_THERE:
                return None
            raise

    def _described(self, found: ModelVersion, aliases: tuple[str, ...]) -> RegisteredVersion:
        run = self._client.get_run(found.run_id).data
        return RegisteredVersion(
            name=found.name,
            version=int(found.version),
            aliases=aliases,
            run=found.tags.get("manta.run", ""),
            run_id=found.run_id,
            parent_id=run.tags.get(PARENT_TAG),
            created_ms=int(found.creation_timestamp),
            metrics={key.removeprefix("final_"): value for key, value in run.metrics.items() if key.startswith("final_")},
            config=dict(run.params),
            lineage={key.removeprefix("manta."): value for key, value in found.tags.items() if key.startswith("manta.")},
            source=found.source,
        )

    def _models(self, name: str | None = None) -> list[Any]:
        query = f"name = '{name}'" if name else None
        return _all_pages(lambda token: self._client.search_registered_models(query, max_results=100, page_token=token))

    def _known(self, name: str) -> str:
        models = sorted(model.name for model in self._models())
        numbers = [str(version.version) for version in reversed(self.versions(name))]
        if name in models:
            return f"it has versions {', '.join(numbers)}" if numbers else "it has no versions"
        return f"known models: {', '.join(models)}" if models else "it is empty; run `manta train` first"


def find_model(model: str) -> tuple[ModelArtifact, int | None]:
    """Return an artifact and its version, for a model folder (version None), `NAME@VERSION`, or the champion of `NAME`.

    A folder has a slash in its path, such as ./support.

    Raises:
        InputError: there is no such model, or its artifact is gone or altered.
        RunError: the registry cannot be reached.
    """
    if names_a_folder(model):
        return ModelArtifact.load(Path(model).expanduser()), None
    try:
        registry = ModelRegistry(Storage.resolve(None), must_exist=True)
        version = registry.find(model)
    except InputError as error:
        hint = f" For the folder, write ./{model}." if Path(model).is_dir() else ""
        raise InputError(f"{error}{hint}") from None
    return registry.files.fetch(version), version.version


def _all_pages(search: Callable[[str | None], Any]) -> list[Any]:
    """Return everything that an MLflow search finds, from all of its pages."""
    found: list[Any] = []
    token: str | None = None
    while True:
        page = search(token)
        found += page
        token = page.token
        if not token:
            return found
