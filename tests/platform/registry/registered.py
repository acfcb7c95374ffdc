"""Registration of a model as at the end of its training."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from manta.errors import InputError
from manta.inference.artifact import ModelArtifact
from manta.inference.conversion import make_formats
from manta.inference.predictor import Predictor
from manta.registry.frozen_rows import FrozenRows, text_hashes
from manta.registry.models import ModelRegistry
from manta.registry.tracking import RunTracker
from manta.storage.folders import Storage

if TYPE_CHECKING:
    from pathlib import Path

    from manta.registry.versions import RegisteredVersion

REGISTERING = """
import sys
from pathlib import Path
from manta.inference.artifact import ModelArtifact
from manta.registry.decisions import Decision
from manta.registry.models import ModelRegistry
from manta.storage.folders import Storage
from manta.registry.tracking import RunTracker

storage, artifact = Storage(Path(sys.argv[1])), ModelArtifact.load(Path(sys.argv[2]))
sys.stdin.readline()
tracker = RunTracker(storage)
tracker.start(sys.argv[3], experiment="desk", config={})
registry = ModelRegistry(storage)
version = registry.register(artifact, run_id=tracker.run_id)
for _ in range(3):
    registry.record("desk", Decision(action="promoted", version=version.version))
print(version.version)
"""


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


def rows_of_test() -> FrozenRows:
    return FrozenRows(["my card", "my parcel"], ["billing", "delivery"], text_hashes(["hello"]))


def register_at_once(storage: Path, artifact: ModelArtifact) -> list[int]:
    """Two processes that register the same artifact and write three decisions each, let go together."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", REGISTERING, str(storage), str(artifact.path), f"run-{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for number in range(2)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return sorted(int(process.communicate(timeout=300)[0]) for process in processes)


def formats_made(artifact: ModelArtifact) -> ModelArtifact:
    """The artifact with its faster formats, which answer as the safetensors do."""
    texts = ["my parcel", "the card was charged", "please now"] * 4
    logits = Predictor(artifact, device="cpu", format="safetensors").logits(texts)
    return make_formats(artifact, texts=texts, targets=logits.argmax(axis=1), logits=logits, training_texts=texts, num_threads=1)
