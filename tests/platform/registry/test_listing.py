"""The list of versions read from the file is the one that MLflow gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from manta.errors import InputError, RunError
from manta.registry.listing import ListedVersion, list_versions
from manta.registry.models import ModelRegistry
from manta.storage.folders import Storage

from .registered import register

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_list_is_that_of_mlflow(make_artifact: Callable[..., Any], tmp_path: Path) -> None:
    storage = Storage(tmp_path / "storage")
    registry = ModelRegistry(storage)
    for name, promoted in (("desk", True), ("desk", False), ("desk", False), ("help", False)):
        folder = tmp_path / f"{name}-{len(registry.versions())}"
        register(registry, storage, make_artifact(folder, name=name).artifact, promote=promoted)
    registry.delete(registry.get("desk", version=2))
    expected = [
        ListedVersion(item.name, item.version, item.aliases, item.run, item.created_ms, item.metrics)
        for item in registry.versions()
    ]
    assert [(item.name, item.version, item.aliases) for item in expected] == [
        ("desk", 3, ("candidate",)),
        ("desk", 1, ("champion",)),
        ("help", 1, ("candidate",)),
    ]
    assert expected[0].metrics
    assert list_versions(storage) == expected
    assert list_versions(storage, "help") == expected[2:]
    assert list_versions(storage, "it's") == []


def test_an_empty_storage_is_told_and_left_empty(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no registry in"):
        list_versions(Storage(tmp_path / "storage"))
    assert not (tmp_path / "storage").exists()


def test_a_file_that_is_no_registry_is_named(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.registry.mkdir()
    (storage.registry / "mlflow.db").write_text("no database, but long enough to be taken for one by its size")
    with pytest.raises(RunError, match=r"mlflow\.db cannot be read"):
        list_versions(storage)
