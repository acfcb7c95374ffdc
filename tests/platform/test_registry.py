from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from mlflow import MlflowClient

from manta.artifact import WEIGHTS_FILE
from manta.errors import InputError
from manta.frozen_rows import FrozenRows
from manta.registry import CANDIDATE, CHAMPION, ModelRegistry
from manta.storage import Storage
from manta.tracking import RunTracker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from manta.artifact import ModelArtifact
    from manta.registry import RegisteredVersion

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return Storage(tmp_path_factory.mktemp("storage"))


@pytest.fixture(scope="module")
def registry(storage: Storage) -> ModelRegistry:
    """One registry for the module; each test registers under its own name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return ModelRegistry(storage)


@pytest.fixture
def artifact(make_artifact: Callable[..., Any], tmp_path: Path, request: pytest.FixtureRequest) -> ModelArtifact:
    return make_artifact(tmp_path / "artifact", name=request.node.originalname).artifact


def register(
    registry: ModelRegistry, storage: Storage, artifact: ModelArtifact, *, promote: bool, frozen: FrozenRows | None = None
) -> RegisteredVersion:
    """As at the end of training: the run is tracked first, and the version belongs to it."""
    tracker = RunTracker(storage)
    manifest = artifact.manifest
    tracker.start(manifest.run, experiment=manifest.name, config=manifest.config)
    version = registry.register(artifact, run_id=tracker.run_id, frozen=frozen)
    if promote:
        registry.set_champion(version)
    tracker.finish("FINISHED")
    return registry.get(version.name, version=version.version)


def refused(registry: ModelRegistry, name: str, **wanted: Any) -> str:
    with pytest.raises(InputError) as caught:
        registry.get(name, **wanted)
    return str(caught.value)


def test_versions_count_up_and_the_champion_moves_only_when_told(
    registry: ModelRegistry, storage: Storage, artifact: ModelArtifact
) -> None:
    name = artifact.manifest.name
    first = register(registry, storage, artifact, promote=True)
    second = register(registry, storage, artifact, promote=False)
    assert (first.version, first.aliases, second.version, second.aliases) == (1, (CHAMPION,), 2, (CANDIDATE,))
    assert registry.get(name).version == 1
    third = register(registry, storage, artifact, promote=True)
    assert (third.version, registry.get(name).version) == (3, 3)
    assert registry.get(name, version=1).aliases == ()
    assert [item.version for item in registry.versions(name)] == [3, 2, 1]


def test_a_version_knows_its_lineage(registry: ModelRegistry, storage: Storage, artifact: ModelArtifact) -> None:
    version = register(registry, storage, artifact, promote=False)
    assert (version.name, version.run) == (artifact.manifest.name, artifact.manifest.run)
    assert version.metrics == artifact.manifest.metrics
    client = MlflowClient(tracking_uri=registry.uri, registry_uri=registry.uri)
    found = client.get_model_version(version.name, "1")
    run = client.get_run(found.run_id)
    assert found.tags["manta.data_hash"] == artifact.manifest.data_hash
    assert run.data.params["train.seed"] == "0"
    assert run.data.tags["manta.pretrained"] == "tiny"
    assert run.info.status == "FINISHED"


def test_versions_of_all_models_are_listed_by_name(registry: ModelRegistry, storage: Storage, artifact: ModelArtifact) -> None:
    register(registry, storage, artifact, promote=False)
    other = f"{artifact.manifest.name}_2"
    renamed = type(artifact)(artifact.path, artifact.manifest.model_copy(update={"name": other}))
    register(registry, storage, renamed, promote=False)
    names = [item.name for item in registry.versions()]
    assert names == sorted(names)
    assert {artifact.manifest.name, other} <= set(names)
    assert [item.name for item in registry.versions(other)] == [other]


def test_what_is_not_there_is_refused_with_what_is(registry: ModelRegistry, storage: Storage, artifact: ModelArtifact) -> None:
    name = artifact.manifest.name
    register(registry, storage, artifact, promote=False)
    register(registry, storage, artifact, promote=False)
    champion = refused(registry, name)
    assert f"{name}: no champion" in champion
    assert "it has versions 1, 2" in champion
    assert "no version 9" in refused(registry, name, version=9)
    assert "no challenger" in refused(registry, name, alias="challenger")
    unknown = refused(registry, "nothing")
    assert "nothing: no champion" in unknown
    assert "known models: " in unknown
    assert name in unknown


def test_a_fetched_artifact_is_the_registered_one(registry: ModelRegistry, storage: Storage, artifact: ModelArtifact) -> None:
    version = register(registry, storage, artifact, promote=True)
    shutil.rmtree(artifact.path)  # the registry has its own copy
    fetched = registry.fetch(registry.get(version.name))
    assert fetched.manifest == artifact.manifest
    assert fetched.path != artifact.path


def test_an_altered_artifact_is_not_fetched(registry: ModelRegistry, storage: Storage, artifact: ModelArtifact) -> None:
    version = register(registry, storage, artifact, promote=True)
    weights = registry.fetch(version).path / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(InputError, match=rf"{WEIGHTS_FILE}: altered or cut short"):
        registry.fetch(version)


def test_an_artifact_whose_folder_is_gone_is_refused(registry: ModelRegistry, storage: Storage, artifact: ModelArtifact) -> None:
    version = register(registry, storage, artifact, promote=True)
    folder = registry.fetch(version).path
    shutil.rmtree(folder)
    with pytest.raises(InputError, match=rf"version 1: its folder {folder} is gone"):
        registry.fetch(version)


def test_a_storage_folder_may_have_any_name(tmp_path: Path, artifact: ModelArtifact) -> None:
    storage = Storage(tmp_path / "Ablage für 100% #1")
    registry = ModelRegistry(storage)
    assert "it is empty; run `manta train` first" in refused(registry, artifact.manifest.name)
    register(registry, storage, artifact, promote=True)
    assert (tmp_path / "Ablage für 100% #1" / "registry" / "mlflow.db").is_file()
    assert registry.fetch(registry.get(artifact.manifest.name)).manifest == artifact.manifest


def test_a_second_opening_finds_what_the_first_registered(
    registry: ModelRegistry, storage: Storage, artifact: ModelArtifact
) -> None:
    register(registry, storage, artifact, promote=True)
    assert ModelRegistry(storage).get(artifact.manifest.name).version == 1


def test_a_tracking_server_overrules_the_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert ModelRegistry(Storage(tmp_path / "storage")).uri == "http://127.0.0.1:9"
    assert not (tmp_path / "storage").exists()


def test_an_empty_tracking_uri_means_the_local_folder(
    tmp_path: Path, artifact: ModelArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    storage = Storage(tmp_path / "storage")
    registry = ModelRegistry(storage)
    version = register(registry, storage, artifact, promote=True)
    assert registry.fetch(version).path.is_relative_to(tmp_path / "storage")
    assert list((tmp_path / "elsewhere").iterdir()) == []
