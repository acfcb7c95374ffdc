"""A running service follows the registry, without Ray: who takes over, when, and what never does."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from manta.config import ServeConfig, TrafficConfig
from manta.errors import InputError
from manta.inference.artifact import ModelArtifact
from manta.inference.artifact_writing import with_golden
from manta.inference.conversion import make_formats
from manta.inference.formats import WEIGHTS_FILE
from manta.inference.predictor import Predictor
from manta.labels import LabelSpace
from manta.registry.decisions import Action, Decision
from manta.registry.models import ModelRegistry
from manta.registry.tracking import RunTracker
from manta.storage.folders import Storage
from manta_jobs.packaging.golden import record_golden
from manta_serve.answering.service import Service
from manta_serve.api.routes import create_api
from manta_serve.batching.batcher import TextBatcher
from manta_serve.monitoring.service_metrics import ServiceMetrics
from manta_serve.running.commands import serve
from manta_serve.versions import served_models
from manta_serve.versions.extra import BusyLoadingError, RefusedVersionError, UnknownVersionError
from manta_serve.versions.loader import VersionLoader
from manta_serve.versions.served_model import ServedModel
from manta_serve.versions.served_models import NotLoadedError, ServedModels
from manta_serve.versions.takeover import TOGETHER_AFTER, answering

from ..untrained import artifact_of

LABELS = LabelSpace(("billing", "delivery"), "binary")
TEXTS = ["my parcel", "card"]
BROKEN = 4


@pytest.fixture(scope="module")
def registered(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """Three versions, of which the last registered one is the candidate, and one whose golden predictions are another's."""
    folder = tmp_path_factory.mktemp("models")
    storage = Storage(folder / "storage")
    registry = ModelRegistry(storage)
    made: list[ModelArtifact] = []
    for seed in range(4):
        tracker = RunTracker(storage)
        tracker.start(f"run-{seed}", experiment="desk", config={})
        artifact = artifact_of(tiny_model, folder / f"run-{seed}", labels=LABELS, seed=seed)
        made.append(with_golden(artifact, record_golden(made[0] if seed == BROKEN - 1 else artifact, TEXTS)))
        registry.register(made[-1], run_id=tracker.run_id)
    registry.set_champion(registry.get("desk", version=1))
    return storage


@pytest.fixture
def storage(registered: Storage, tmp_path: Path) -> Storage:
    """A registry of one's own; the artifacts are the same."""
    shutil.copytree(registered.root, tmp_path / "copy")
    return Storage(tmp_path / "copy")


@pytest.fixture
def registry(storage: Storage) -> ModelRegistry:
    return ModelRegistry(storage)


@pytest.fixture
def second_cut_short(registry: ModelRegistry, tmp_path: Path) -> Iterator[Path]:
    """The weights of version 2, which are cut short."""
    weights = registry.files.fetch(registry.get("desk", version=2)).path / WEIGHTS_FILE
    whole = tmp_path / "whole"
    shutil.move(weights, whole)
    weights.write_bytes(whole.read_bytes()[:-1])
    yield weights
    shutil.move(whole, weights)


def chosen(models: ServedModels, *, request_key: str | None = None, version: int | None = None) -> ServedModel:
    return asyncio.run(models.choose(request_key=request_key, version=version))


def crown(registry: ModelRegistry, version: int, *, at: datetime | None = None) -> None:
    """Make a version the champion, as a promotion does."""
    registry.set_champion(registry.get("desk", version=version))
    registry.record("desk", Decision(action="promoted", version=version, at=(at or datetime.now(UTC)).isoformat()))


def test_the_champion_answers_and_so_does_the_one_before_after_a_rollback(storage: Storage, registry: ModelRegistry) -> None:
    models = ServedModels(storage, "desk")
    first = models.current.classify(TEXTS)[0].scores
    assert models.look() is False

    crown(registry, 2)
    old = models.current
    assert models.look() is True
    assert (models.current.version, old.version) == (2, 1)
    assert models.current.classify(TEXTS)[0].scores != first
    assert old.classify(TEXTS)[0].scores == first  # a request under way is answered by the one it began with

    crown(registry, 1)
    assert models.look() is True
    assert models.current.classify(TEXTS)[0].scores == first


def test_what_does_not_load_is_refused_with_its_reason_until_a_reload(
    storage: Storage, registry: ModelRegistry, second_cut_short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = ServedModels(storage, "desk")
    crown(registry, 2)
    assert models.look() is False
    assert models.current.version == 1
    (refusal,) = models.refused
    assert refusal.version == 2
    assert "altered or cut short" in refusal.reason
    shutil.copy(tmp_path / "whole", second_cut_short)
    assert models.look() is False  # it is not tried again and again

    monkeypatch.setenv("MANTA_STORAGE", str(storage.root))
    result = CliRunner().invoke(serve, ["reload", "desk"])
    assert result.exit_code == 0, result.output
    assert models.look() is True
    assert (models.current.version, models.refused) == (2, [])
    unknown = CliRunner().invoke(serve, ["reload", "nobody"])
    assert isinstance(unknown.exception, InputError)


def test_formats_that_join_a_version_are_taken_by_a_running_service(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(tmp_path / "storage")
    tracker = RunTracker(storage)
    tracker.start("run", experiment="desk", config={})
    artifact = artifact_of(tiny_model, tmp_path / "run", labels=LABELS, seed=0)
    artifact = with_golden(artifact, record_golden(artifact, TEXTS))
    registry = ModelRegistry(storage)
    version = registry.register(artifact, run_id=tracker.run_id)
    registry.set_champion(version)
    models = ServedModels(storage, "desk")
    before = models.current
    assert before.format == "safetensors"
    registry.request_reload("desk")
    assert models.look() is False  # nothing has joined
    logits = Predictor(artifact, device="cpu").logits(TEXTS)
    made = make_formats(artifact, texts=TEXTS, targets=logits.argmax(axis=1), logits=logits, training_texts=TEXTS, num_threads=1)
    registry.add_formats(version, made)
    monkeypatch.setattr("manta.inference.fastest._Timing.of", lambda self, names: {"openvino-int8": 1.0, "safetensors": 2.0})
    assert models.look() is True
    assert (models.current.version, models.current.format) == (1, "openvino-int8")
    assert models.refused == []
    assert before.classify(TEXTS)[0].label == models.current.classify(TEXTS)[0].label


def test_a_deleted_version_answers_no_more(storage: Storage, registry: ModelRegistry) -> None:
    shutil.copytree(registry.files.fetch(registry.get("desk", version=3)).path, storage.root / "kept")
    models = ServedModels(storage, "desk", extra_versions=2)
    assert chosen(models, version=3).version == 3
    registry.record("desk", Decision(action="deleted", version=3, at=datetime.now(UTC).isoformat()))
    registry._client.delete_model_version("desk", "3")  # the files are those of all tests
    models.look()
    with pytest.raises(UnknownVersionError, match="there is no version 3 of desk"):
        chosen(models, version=3)
    models.stop()


def test_what_answers_otherwise_than_it_did_when_it_was_made_is_refused(storage: Storage, registry: ModelRegistry) -> None:
    models = ServedModels(storage, "desk")
    crown(registry, BROKEN)
    assert models.look() is False
    assert models.current.version == 1
    assert "2 of its 2 golden predictions come out otherwise as safetensors" in models.refused[0].reason


def test_a_service_that_starts_with_a_broken_champion_takes_the_one_before(storage: Storage, registry: ModelRegistry) -> None:
    crown(registry, 3)
    crown(registry, BROKEN)
    models = ServedModels(storage, "desk")
    assert (models.current.version, models.refused[0].version) == (3, BROKEN)
    with pytest.raises(InputError, match="nobody: not in the registry"):
        ServedModels(storage, "nobody")


def test_several_replicas_take_a_champion_at_the_same_moment(storage: Storage, registry: ModelRegistry) -> None:
    now = promoted = datetime.now(UTC)
    models = ServedModels(storage, "desk", together=True, clock=lambda: now)
    crown(registry, 2, at=promoted)
    assert models.look() is True  # it is loaded
    now = promoted + TOGETHER_AFTER - timedelta(milliseconds=1)
    assert models.current.version == 1
    now = promoted + TOGETHER_AFTER
    assert models.current.version == 2
    assert models.look() is False


def test_a_promotion_that_is_taken_back_before_its_moment_never_answers(storage: Storage, registry: ModelRegistry) -> None:
    now = promoted = datetime.now(UTC)
    models = ServedModels(storage, "desk", together=True, clock=lambda: now)
    crown(registry, 2, at=promoted)
    models.look()
    crown(registry, 1, at=promoted + timedelta(seconds=1))
    models.look()
    now = promoted + 2 * TOGETHER_AFTER
    assert models.current.version == 1


def test_the_candidate_gets_its_share_and_every_key_stays_with_one_version(storage: Storage, registry: ModelRegistry) -> None:
    registry._set_alias("desk", "candidate", "3")
    models = ServedModels(storage, "desk", traffic=TrafficConfig(candidate=30))
    keys = [f"user-{number}" for number in range(1000)]
    met = {key: chosen(models, request_key=key).version for key in keys}
    assert 250 < sum(version == 3 for version in met.values()) < 350
    assert all(chosen(models, request_key=key).version == met[key] for key in keys)
    assert chosen(models).version == 1
    assert [chosen(models, request_key="user-1", version=version).version for version in (1, 3)] == [1, 3]
    with pytest.raises(NotLoadedError, match=r"version 2 of desk is not loaded; there is version 1 and 3\."):
        chosen(models, version=2)

    crown(registry, 3)  # it was the candidate: nothing has to be loaded
    candidate = models.candidate
    models.look()
    assert models.current is candidate
    assert models.candidate is None


def test_one_version_is_described_by_the_header(storage: Storage, registry: ModelRegistry) -> None:
    registry._set_alias("desk", "candidate", "3")
    models = ServedModels(storage, "desk", traffic=TrafficConfig(candidate=30))
    service = Service(models, TextBatcher(max_queued_texts=1024), config=ServeConfig(), metrics=ServiceMetrics())
    client = TestClient(create_api(service))
    described = [client.get("/v1/model", headers={"Manta-Version": version}) for version in ("1", "3", "2", "x")]
    assert [answer.status_code for answer in described] == [200, 200, 409, 422]
    assert [(answer.json()["version"], answer.json()["candidate"]) for answer in described[:2]] == [(1, 3), (3, 3)]


@pytest.mark.parametrize("traffic", [TrafficConfig(candidate=5), TrafficConfig(shadow=5), TrafficConfig()])
def test_a_broken_candidate_or_one_without_traffic_is_not_loaded(storage: Storage, traffic: TrafficConfig) -> None:
    models = ServedModels(storage, "desk", traffic=traffic)
    assert models.candidate is None
    assert [refusal.version for refusal in models.refused] == ([BROKEN] if traffic != TrafficConfig() else [])


def test_it_looks_by_itself_and_outlives_a_registry_that_is_gone(
    storage: Storage, registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_models, "LOOK_EVERY_S", 0.01)
    taken, failed = threading.Event(), threading.Event()
    real = ServedModels.look

    def look(self: ServedModels) -> bool:
        try:
            found = real(self)
        except Exception:
            failed.set()
            raise
        if found:
            taken.set()
        return found

    monkeypatch.setattr(ServedModels, "look", look)
    models = ServedModels(storage, "desk")
    models.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////nowhere/mlflow.db")
    assert failed.wait(120)
    assert models.current.version == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    crown(registry, 2)
    assert taken.wait(120)
    assert models.current.version == 2
    models.stop()


def test_a_version_that_is_asked_for_is_loaded_and_the_one_asked_for_longest_ago_goes(storage: Storage) -> None:
    models = ServedModels(storage, "desk", extra_versions=1)
    second = chosen(models, version=2)
    assert second.version == 2
    assert chosen(models, version=2) is second
    assert [model.version for model in models.loaded] == [1, 2]
    assert chosen(models, version=3).version == 3
    assert [model.version for model in models.loaded] == [1, 3]
    assert chosen(models).version == 1
    models.stop()


def test_what_does_not_exist_or_is_broken_is_said(storage: Storage) -> None:
    models = ServedModels(storage, "desk", extra_versions=1)
    with pytest.raises(UnknownVersionError, match=r"there is no version 9 of desk\."):
        chosen(models, version=9)
    with pytest.raises(RefusedVersionError, match=r"version 4 of desk cannot answer; the log says why\."):
        chosen(models, version=BROKEN)
    assert models.refused == []  # nobody wants it to be the champion
    assert chosen(models, version=2).version == 2
    models.stop()


def test_requests_for_one_version_share_its_loading_and_many_versions_are_too_many(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = ServedModels(storage, "desk", extra_versions=2)
    gate, loads = threading.Event(), []
    real = VersionLoader.load

    def checked(self: VersionLoader, version: int) -> ServedModel:
        loads.append(version)
        assert gate.wait(60)
        return real(self, version)

    monkeypatch.setattr(VersionLoader, "load", checked)

    async def ask() -> list[ServedModel]:
        asking = [asyncio.create_task(models.choose(request_key=None, version=version)) for version in (2, 2, 3, 9)]
        gone = asyncio.create_task(models.choose(request_key=None, version=2))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(BusyLoadingError, match="ask for version 4 again in 5 s"):
            await models.choose(request_key=None, version=BROKEN)
        assert (await models.choose(request_key=None, version=None)).version == 1  # the champion answers meanwhile
        gate.set()
        with pytest.raises(UnknownVersionError):
            await asking[3]
        return [await task for task in asking[:3]]

    first, second, third = asyncio.run(ask())
    assert first is second
    assert (first.version, third.version) == (2, 3)
    assert loads == [2, 3]
    models.stop()


def test_the_champion_before_stays_in_memory_for_a_rollback(
    storage: Storage, registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = ServedModels(storage, "desk", extra_versions=1)
    first = models.current
    crown(registry, 2)
    models.look()
    assert chosen(models, version=1) is first
    monkeypatch.setattr(VersionLoader, "load", None)  # nothing has to be loaded
    crown(registry, 1)
    models.look()
    assert models.current is first
    models.stop()


def test_a_replica_that_starts_between_a_promotion_and_its_moment_begins_with_the_one_before(
    storage: Storage, registry: ModelRegistry
) -> None:
    now = datetime.now(UTC)
    crown(registry, 1, at=now - timedelta(hours=1))
    crown(registry, 2, at=now)
    models = ServedModels(storage, "desk", together=True, clock=lambda: now)
    assert models.current.version == 1
    now += TOGETHER_AFTER
    assert models.current.version == 2
    assert ServedModels(storage, "desk", together=True, clock=lambda: now).current.version == 2
    assert ServedModels(storage, "desk", clock=lambda: now - TOGETHER_AFTER).current.version == 2  # it is alone


def test_a_replica_that_loads_for_too_long_holds_its_requests_until_it_answers_as_the_others_do(
    storage: Storage, registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = promoted = datetime.now(UTC)
    models = ServedModels(storage, "desk", together=True, clock=lambda: now)
    crown(registry, 2, at=promoted)
    loading, gate = threading.Event(), threading.Event()
    real = VersionLoader.load

    def checked(self: VersionLoader, version: int) -> ServedModel:
        loading.set()
        assert gate.wait(60)
        return real(self, version)

    monkeypatch.setattr(VersionLoader, "load", checked)
    looking = threading.Thread(target=models.look)
    looking.start()
    assert loading.wait(60)
    assert chosen(models).version == 1  # the others have not got it yet
    now = promoted + TOGETHER_AFTER

    async def held() -> ServedModel:
        asked = asyncio.create_task(models.choose(request_key=None, version=None))
        done, _ = await asyncio.wait([asked], timeout=0.2)
        assert not done
        gate.set()
        return await asked

    assert asyncio.run(held()).version == 2
    looking.join()


@pytest.mark.parametrize(
    ("decided", "after_s", "version"),
    [
        ([], 0, None),
        ([("first", 1, None, 0)], 1, None),
        ([("first", 1, None, 0)], 15, 1),
        ([("first", 1, None, 0), ("promoted", 2, 1, 100)], 114, 1),
        ([("first", 1, None, 0), ("promoted", 2, 1, 100)], 115, 2),
        ([("first", 1, None, 0), ("promoted", 2, 1, 100), ("rolled back", 1, 2, 105)], 118, 1),  # 2 never answered
        ([("first", 1, None, 0), ("promoted", 2, 1, 100), ("refused", 3, 2, 105)], 115, 2),
        ([("promoted", 2, 1, 100)], 105, 1),  # 1 became the champion by other hands
    ],
)
def test_who_answers_by_the_log(decided: list[tuple[Action, int, int | None, int]], after_s: int, version: int | None) -> None:
    start = datetime(2026, 11, 1, tzinfo=UTC)
    decisions = [
        Decision(action=action, version=number, previous=previous, at=(start + timedelta(seconds=at)).isoformat())
        for action, number, previous, at in decided
    ]
    assert answering(decisions, now=start + timedelta(seconds=after_s)) == version
