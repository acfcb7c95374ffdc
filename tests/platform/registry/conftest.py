"""A registry for the tests of a module, and a model to register."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from manta.inference.artifact import ModelArtifact
from manta.registry.models import ModelRegistry
from manta.storage.folders import Storage

if TYPE_CHECKING:
    from collections.abc import Callable


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
