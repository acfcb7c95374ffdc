"""Versions, aliases and names of a registry on this machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient

from manta.errors import InputError
from manta.inference.artifact import ModelArtifact
from manta.registry.models import CANDIDATE, CHAMPION, ModelRegistry, find_model
from manta.storage.folders import Storage

from .registered import refused, register

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_the_best_version_since_the_champion_is_the_candidate(
    registry: ModelRegistry, storage: Storage, artifact: ModelArtifact
) -> None:
    def registered(accuracy: float, *, promote: bool = False) -> tuple[str, ...]:
        changed = artifact.manifest.model_copy(update={"metrics": artifact.manifest.metrics | {"accuracy": accuracy}})
        return register(registry, storage, ModelArtifact(artifact.path, changed), promote=promote).aliases

    name = artifact.manifest.name
    assert registered(0.8, promote=True) == (CHAMPION,)
    assert registered(0.7) == (CANDIDATE,)
    assert registered(0.6) == ()  # worse than the one that waits
    assert registry.get(name, alias=CANDIDATE).version == 2
    assert registered(0.7) == (CANDIDATE,)  # of equals, the newer
    assert registered(0.5, promote=True) == (CHAMPION,)
    assert registry.with_alias(name, CANDIDATE) is None  # all others are older than the champion
    assert registered(0.1) == (CANDIDATE,)


def test_a_version_knows_its_lineage(registry: ModelRegistry, storage: Storage, artifact: ModelArtifact) -> None:
    version = register(registry, storage, artifact, promote=False)
    assert (version.name, version.run) == (artifact.manifest.name, artifact.manifest.run)
    assert version.metrics == artifact.manifest.metrics
    assert version.lineage["data_hash"] == artifact.manifest.data_hash
    assert (len(version.lineage["config_hash"]), version.config["train.seed"]) == (64, "0")
    assert json.loads(version.lineage["environment"])["torch"] == artifact.manifest.versions["torch"]
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


def test_a_storage_folder_may_have_any_name(tmp_path: Path, artifact: ModelArtifact) -> None:
    storage = Storage(tmp_path / "Ablage für 100% #1")
    registry = ModelRegistry(storage)
    assert "it is empty; run `manta train` first" in refused(registry, artifact.manifest.name)
    register(registry, storage, artifact, promote=True)
    assert (tmp_path / "Ablage für 100% #1" / "registry" / "mlflow.db").is_file()
    assert registry.files.fetch(registry.get(artifact.manifest.name)).manifest == artifact.manifest


def test_a_name_is_one_of_the_registry_even_if_a_folder_has_it(
    registry: ModelRegistry, storage: Storage, artifact: ModelArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANTA_STORAGE", str(storage.root))
    version = register(registry, storage, artifact, promote=True)
    (tmp_path / version.name).mkdir()
    shutil.copytree(artifact.path, tmp_path / "apart")
    monkeypatch.chdir(tmp_path)
    assert find_model(version.name)[1] == version.version
    assert find_model("./apart")[1] is None
    with pytest.raises(InputError, match=r"apart: no champion in the registry .* For the folder, write \./apart\."):
        find_model("apart")


def test_looking_makes_no_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"there is no registry in .*typo/registry; set MANTA_STORAGE"):
        ModelRegistry(Storage(tmp_path / "typo"), must_exist=True)
    monkeypatch.setenv("MANTA_STORAGE", str(tmp_path / "typo"))
    with pytest.raises(InputError, match="there is no registry in"):
        find_model("support")
    assert list(tmp_path.iterdir()) == []


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
    assert registry.files.fetch(version).path.is_relative_to(tmp_path / "storage")
    assert list((tmp_path / "elsewhere").iterdir()) == []
