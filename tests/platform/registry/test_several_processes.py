"""A registry that several processes use at once, or that another one holds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from manta.errors import RunError
from manta.inference.artifact import ModelArtifact
from manta.registry.models import CANDIDATE, ModelRegistry
from manta.registry.tracking import RunTracker
from manta.storage.audit import acting_user
from manta.storage.folders import Storage

from .registered import refused, register, register_at_once, rows_of_test

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.server  # no server, but two processes that load and make everything
def test_two_registrations_at_the_same_time_are_two_versions(
    tmp_path: Path, make_artifact: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a registry that neither of them finds made."""
    artifact = make_artifact(tmp_path / "artifact", name="desk").artifact
    assert register_at_once(tmp_path / "storage", artifact) == [1, 2]
    registry = ModelRegistry(Storage(tmp_path / "storage"))
    assert [registry.files.fetch(version).manifest for version in registry.versions("desk")] == [artifact.manifest] * 2
    assert sorted(item.version for item in registry.decisions("desk")) == [1, 1, 1, 2, 2, 2]
    audit = [json.loads(line) for line in (tmp_path / "storage" / "audit.jsonl").read_text(encoding="utf-8").splitlines()]
    told = sorted((line["event"], line["model"], line["version"]) for line in audit)
    assert told == [("promoted", "desk", version) for version in (1, 1, 1, 2, 2, 2)]
    assert {line["by"] for line in audit} == {acting_user()}


def test_an_alias_that_another_process_gives_at_the_same_moment_is_moved(
    registry: ModelRegistry, storage: Storage, artifact: ModelArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow looks for the alias, then inserts it: the slower of two processes breaks the unique key."""
    set_alias = MlflowClient.set_registered_model_alias
    calls: list[str] = []

    def slower(client: MlflowClient, name: str, alias: str, version: str) -> None:
        calls.append(alias)
        set_alias(client, name, alias, version)
        if len(calls) == 1:
            raise MlflowException("UNIQUE constraint failed: registered_model_aliases.alias")

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", slower)
    version = register(registry, storage, artifact, promote=False)
    assert (version.aliases, calls) == ((CANDIDATE,), [CANDIDATE, CANDIDATE])


LOCKING = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.readline()
"""


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Keep the database locked by another process while the body runs."""
    arguments = [sys.executable, "-c", LOCKING, str(database)]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield
    finally:
        process.communicate("\n", timeout=60)


def copied(storage: Storage, folder: Path) -> tuple[Storage, Path]:
    """A storage with a copy of the registry's database, which MLflow sees for the first time."""
    copy = Storage(folder)
    copy.registry.mkdir(parents=True)
    return copy, Path(shutil.copy(storage.registry / "mlflow.db", copy.registry / "mlflow.db"))


@pytest.mark.slow
def test_a_locked_database_is_one_sentence(registry: ModelRegistry, storage: Storage, tmp_path: Path) -> None:
    assert registry.versions("anything") == []  # the database is made
    copy, database = copied(storage, tmp_path / "copy")
    with locked(database), pytest.raises(RunError, match=r"^the registry at .* cannot be opened \(another process has locked"):
        ModelRegistry(copy)
    assert ModelRegistry(copy).versions("anything") == []


@pytest.mark.server  # no server, but MLflow waits for 20 seconds for a database that it has open
def test_a_registration_in_a_locked_database_leaves_nothing(
    registry: ModelRegistry, storage: Storage, artifact: ModelArtifact, tmp_path: Path
) -> None:
    assert registry.versions("anything") == []
    copy, database = copied(storage, tmp_path / "copy")
    opened = ModelRegistry(copy)
    with locked(database), pytest.raises(RunError, match=r"the model is finished and lies in .* \(another process has locked"):
        opened.register(artifact, run_id="0" * 32)
    assert opened.versions(artifact.manifest.name) == []
    assert register(opened, copy, artifact, promote=False).version == 1


def test_a_registration_that_breaks_off_leaves_no_version(
    registry: ModelRegistry, storage: Storage, artifact: ModelArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are stored, then the process is told to stop; the resumed run registers the same run once."""
    name, run = artifact.manifest.name, artifact.manifest.run
    tracker = RunTracker(storage)
    tracker.start(run, experiment=name, config={})

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_model_version", stopped)
        with pytest.raises(KeyboardInterrupt):
            registry.register(artifact, run_id=tracker.run_id, frozen=rows_of_test())
    assert registry.versions(name) == []
    assert "it has no versions" in refused(registry, name)
    again = RunTracker(storage)
    again.start(run, experiment=name, config={}, resume_id=tracker.run_id)
    assert registry.version_of_run(name, run) is None
    version = registry.register(artifact, run_id=again.run_id, frozen=rows_of_test())
    assert (version.version, version.run_id) == (1, tracker.run_id)
    assert registry.version_of_run(name, run) == version
    assert registry.files.fetch(version).manifest == artifact.manifest
