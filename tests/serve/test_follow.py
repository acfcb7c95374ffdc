"""A running service follows the registry's champion, without Ray."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
import torch

from manta.artifact import WEIGHTS_FILE, ModelArtifact, write_artifact
from manta.config import ModelConfig
from manta.errors import InputError
from manta.labels import LabelSpace
from manta.model import build_model, load_tokenizer
from manta.registry import ModelRegistry
from manta.storage import Storage
from manta.tracking import RunTracker
from manta_serve import follow
from manta_serve.follow import ChampionFollower

LABELS = LabelSpace(("billing", "delivery"), "binary")


def artifact_of(folder: Path, tiny_model: Path, *, seed: int) -> ModelArtifact:
    config = ModelConfig(pretrained=str(tiny_model), max_length=16)
    torch.manual_seed(seed)
    facts = {"name": "desk", "max_length": 16, "metrics": {}, "examples": ["my parcel"], "data_hash": "", "config": {}}
    model = build_model(config, LABELS)
    return write_artifact(
        folder,
        weights=model.state_dict(),
        model_config=model.config,
        tokenizer=load_tokenizer(config),
        labels=LABELS,
        facts=facts | {"run": folder.name, "pretrained": "tiny"},
    )


@pytest.fixture(scope="module")
def storage(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """Three versions; the first is the champion."""
    folder = tmp_path_factory.mktemp("follow")
    storage = Storage(folder / "storage")
    registry = ModelRegistry(storage)
    for seed in range(3):
        tracker = RunTracker(storage)
        tracker.start(f"run-{seed}", experiment="desk", config={})
        registry.register(artifact_of(folder / f"run-{seed}", tiny_model, seed=seed), run_id=tracker.run_id)
    registry.set_champion(registry.get("desk", version=1))
    return storage


def test_the_champion_answers_and_so_does_the_one_before_after_a_rollback(storage: Storage) -> None:
    registry = ModelRegistry(storage)
    follower = ChampionFollower(storage, "desk")
    first = follower.current.classify(["my parcel"])[0].scores
    assert follower.look() is False

    registry.set_champion(registry.get("desk", version=2))
    old = follower.current
    assert follower.look() is True
    assert (follower.current.version, old.version) == (2, 1)
    assert follower.current.classify(["my parcel"])[0].scores != first
    assert old.classify(["my parcel"])[0].scores == first  # a request under way is answered by the one it began with

    registry.set_champion(registry.get("desk", version=1))
    assert follower.look() is True
    assert follower.current.classify(["my parcel"])[0].scores == first


def test_a_champion_that_does_not_load_leaves_the_old_one(storage: Storage) -> None:
    registry = ModelRegistry(storage)
    follower = ChampionFollower(storage, "desk")
    third = registry.get("desk", version=3)
    weights = registry.fetch(third).path / WEIGHTS_FILE
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    registry.set_champion(third)
    with pytest.raises(InputError, match="altered or cut short"):
        follower.look()
    assert follower.current.version == 1
    assert follower.look() is False  # it is not tried again and again
    weights.write_bytes(whole)
    registry.set_champion(registry.get("desk", version=1))
    assert follower.look() is False


def test_it_looks_by_itself_and_outlives_a_registry_that_is_gone(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Storage(tmp_path / "copy")
    shutil.copytree(storage.root, copy.root)
    monkeypatch.setattr(follow, "LOOK_EVERY_S", 0.01)
    follower = ChampionFollower(copy, "desk")
    taken, failed = threading.Event(), threading.Event()
    real = ChampionFollower.look

    def look(self: ChampionFollower) -> bool:
        try:
            found = real(self)
        except Exception:
            failed.set()
            raise
        if found:
            taken.set()
        return found

    monkeypatch.setattr(ChampionFollower, "look", look)
    registry = ModelRegistry(copy)
    follower.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////nowhere/mlflow.db")
    assert failed.wait(120)
    assert follower.current.version == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    registry.set_champion(registry.get("desk", version=2))
    assert taken.wait(120)
    assert follower.current.version == 2
    follower.stop()
