from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from moto.server import ThreadedMotoServer

from manta.cluster.ports import free_ports
from manta.data.dataset import Split, TextDataset
from manta.errors import InputError, RunError
from manta.inference.artifact import ModelArtifact
from manta.inference.conversion import make_formats
from manta.inference.formats import FORMAT_FILES, WEIGHTS_FILE
from manta.inference.predictor import Predictor
from manta.labels import LabelSpace
from manta.registry.decisions import Decision, line_of_champions
from manta.registry.frozen_rows import SEEN_FILE, FrozenRows, text_hashes
from manta.registry.lineage import code_version
from manta.registry.models import CANDIDATE, CHAMPION, ModelRegistry, find_model
from manta.registry.tracking import RunTracker
from manta.storage.audit import acting_user
from manta.storage.folders import Storage

from .test_tracking import mlflow_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from manta.registry.versions import RegisteredVersion

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


def formats_made(artifact: ModelArtifact) -> ModelArtifact:
    """The artifact with its faster formats, which answer as the safetensors do."""
    texts = ["my parcel", "the card was charged", "please now"] * 4
    logits = Predictor(artifact, device="cpu", format="safetensors").logits(texts)
    return make_formats(artifact, texts=texts, targets=logits.argmax(axis=1), logits=logits, training_texts=texts, num_threads=1)


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


def test_a_fetched_artifact_is_the_registered_one(registry: ModelRegistry, storage: Storage, artifact: ModelArtifact) -> None:
    version = register(registry, storage, artifact, promote=True)
    shutil.rmtree(artifact.path)  # the registry has its own copy
    fetched = registry.fetch(registry.get(version.name))
    assert fetched.manifest == artifact.manifest
    assert fetched.path != artifact.path


def test_formats_join_a_registered_version(registry: ModelRegistry, storage: Storage, artifact: ModelArtifact) -> None:
    version = register(registry, storage, artifact, promote=True)
    registered = registry.fetch(version)
    weights = registered.path / WEIGHTS_FILE
    before = weights.stat()
    made = formats_made(artifact)
    fp32, *_ = FORMAT_FILES["openvino-fp32"]
    shutil.copyfile(made.path / fp32, registered.path / fp32)  # a copy that broke off before the manifest
    assert registry.fetch(version) == registered
    registry.add_formats(version, made)
    joined = registry.fetch(version)
    assert joined.manifest == made.manifest
    assert [item.accepted for item in joined.manifest.formats] == [True, True]
    assert {file.name for file in joined.path.iterdir()} == {file.name for file in made.path.iterdir()}
    after = weights.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)  # services have it mapped
    assert registry.standing(version.name).reload is not None
    assert Predictor(joined, device="cpu", format="openvino-int8").predict(["my parcel"])


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
    assert registry.fetch(version).path.is_relative_to(tmp_path / "storage")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_the_code_is_known_by_its_commit_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.example", "-C", str(tmp_path))
        return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    (tmp_path / "train.py").write_text("1")
    git("add", "train.py")
    git("commit", "--quiet", "-m", "first")
    monkeypatch.chdir(tmp_path)
    found = code_version()
    assert (found["git_commit"], found["git_dirty"], found["git_folder"]) == (git("rev-parse", "HEAD"), "false", tmp_path.name)
    assert found["package_version"]
    (tmp_path / "train.py").write_text("2")
    assert code_version()["git_dirty"] == "true"
    monkeypatch.setenv("PATH", "")
    assert set(code_version()) == {"package_version"}


LABELS = LabelSpace(("account", "billing"), "binary")
PAIRS = Split([("a", "b"), ("c\n", "ü \u2028 d")], LABELS.encode(["account", "billing"]))
SINGLE = Split(["my card", "my parcel"], np.array([[0, 0], [1, 1]], dtype=np.int8))


@pytest.mark.parametrize(
    ("split", "labels", "expected"),
    [(PAIRS, LABELS, ["account", "billing"]), (SINGLE, LabelSpace(("a", "b"), "multilabel"), [(), ("a", "b")])],
)
def test_test_rows_are_kept_whole(split: Split, labels: LabelSpace, expected: list[Any], tmp_path: Path) -> None:
    seen = Split(["My  Card"], labels.encode([labels.names[0]]))
    rows = FrozenRows.of(TextDataset(seen, seen, split, labels), suite="tests: []")
    rows.write(tmp_path)
    again = FrozenRows.read(tmp_path)
    assert (again.texts, again.labels, again.suite) == (split.texts, expected, "tests: []")
    assert again.seen.tolist() == text_hashes(["my card"]).tolist()
    assert again.unseen_by(again.seen).texts == [text for text in split.texts if text != "my card"]
    (tmp_path / SEEN_FILE).write_bytes(b"nothing")
    with pytest.raises(InputError, match="the frozen test rows are missing or damaged"):
        FrozenRows.read(tmp_path)


def rows_of_test() -> FrozenRows:
    return FrozenRows(["my card", "my parcel"], ["billing", "delivery"], text_hashes(["hello"]))


def test_test_rows_are_found_with_their_version(registry: ModelRegistry, storage: Storage, artifact: ModelArtifact) -> None:
    assert registry.frozen_rows(register(registry, storage, artifact, promote=False)) is None
    version = register(registry, storage, artifact, promote=False, frozen=rows_of_test())
    rows = registry.frozen_rows(version)
    assert rows is not None
    assert (rows.texts, rows.labels) == (rows_of_test().texts, rows_of_test().labels)
    assert not (registry.fetch(version).path / "test.jsonl").exists()  # beside the model, not in it


@pytest.mark.parametrize(
    ("actions", "line"),
    [
        ([], []),
        ([("first", 1), ("refused", 2), ("promoted", 3)], [1, 3]),
        ([("first", 1), ("promoted", 2), ("forced", 3), ("rolled back", 2)], [1, 2]),
        ([("first", 1), ("promoted", 2), ("forced", 3), ("rolled back", 1)], [1]),
        ([("first", 1), ("promoted", 2), ("promoted", 1), ("rolled back", 2), ("rolled back", 1)], [1]),
    ],
)
def test_the_line_of_champions_follows_the_log(actions: list[tuple[Any, int]], line: list[int]) -> None:
    assert line_of_champions([Decision(action=action, version=version) for action, version in actions]) == line


def test_a_champion_that_the_log_did_not_see_is_in_the_line() -> None:
    assert line_of_champions([Decision(action="promoted", version=5, previous=4)]) == [4, 5]


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


@pytest.mark.server  # no server, but two processes that load and make everything
def test_two_registrations_at_the_same_time_are_two_versions(
    tmp_path: Path, make_artifact: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a registry that neither of them finds made."""
    artifact = make_artifact(tmp_path / "artifact", name="desk").artifact
    assert register_at_once(tmp_path / "storage", artifact) == [1, 2]
    registry = ModelRegistry(Storage(tmp_path / "storage"))
    assert [registry.fetch(version).manifest for version in registry.versions("desk")] == [artifact.manifest] * 2
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
    """Another process holds the database for as long as the body lasts."""
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
    assert registry.fetch(version).manifest == artifact.manifest


@pytest.mark.slow
def test_a_server_that_is_down_is_one_sentence(artifact: ModelArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"http://127.0.0.1:{free_ports(1)[0]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    registry = ModelRegistry(Storage(tmp_path / "storage"))
    started = time.monotonic()
    with pytest.raises(RunError, match=rf"^the registry at {address} does not answer \(Connection refused\)\.$"):
        registry.versions()
    with pytest.raises(RunError, match=rf"^the model is finished and lies in {artifact.path}, but could not be registered"):
        registry.register(artifact, run_id="0" * 32)
    assert time.monotonic() - started < 60


@pytest.mark.server
@pytest.mark.timeout(300)
def test_a_server_keeps_versions_rows_and_decisions(
    tmp_path: Path, make_artifact: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = make_artifact(tmp_path / "artifact", name="desk").artifact
    with mlflow_server(tmp_path / "server", free_ports(1)[0]) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert register_at_once(tmp_path / "first", artifact) == [1, 2]
        storage = Storage(tmp_path / "second")  # another machine
        registry = ModelRegistry(storage)
        third = register(registry, storage, artifact, promote=True, frozen=rows_of_test())
        assert (third.version, third.aliases) == (3, (CHAMPION,))
        assert [item.version for item in registry.versions("desk")] == [3, 2, 1]
        assert registry.with_alias("desk", CANDIDATE) is None
        rows = registry.frozen_rows(third)
        assert rows is not None
        assert rows.texts == rows_of_test().texts
        fetched = registry.fetch(third)
        assert fetched.manifest == artifact.manifest
        weights = fetched.path / WEIGHTS_FILE
        weights.write_bytes(b"")  # what was kept is damaged: fetched anew
        assert registry.fetch(third).path == fetched.path
        elsewhere = Storage(tmp_path / "third")
        ModelRegistry(elsewhere).fetch(third)
        registry.add_formats(third, formats_made(artifact))
        for place in (registry, ModelRegistry(elsewhere)):  # also where it was kept without them
            joined = place.fetch(third)
            assert [item.accepted for item in joined.manifest.formats] == [True, True]
            assert Predictor(joined, device="cpu", format="openvino-int8").predict(["my parcel"])
        assert len(registry.decisions("desk")) == 6

        assert "no version 9" in refused(registry, "desk", version=9)
        assert "known models: desk" in refused(registry, "nothing")
        with pytest.raises(InputError, match="desk@3 is the champion"):
            registry.delete(third)
        first = registry.get("desk", version=1)
        registry.delete(first)
        assert [item.version for item in registry.versions("desk")] == [3, 2]
        assert not registry.has_artifact(first)
        second = registry.get("desk", version=2)
        assert registry.has_artifact(second)
        for folder in (tmp_path / "server" / "artifacts").rglob(second.run_id):
            shutil.rmtree(folder)
        with pytest.raises(InputError, match=r"desk version 2: .* is gone from the store"):
            registry.fetch(second)
        assert [item.version for item in registry.versions("desk")] == [3, 2]


@pytest.mark.server
@pytest.mark.timeout(300)
def test_a_server_may_keep_the_files_in_an_object_store(
    tmp_path: Path, make_artifact: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, store_port = free_ports(2)
    store = ThreadedMotoServer(ip_address="127.0.0.1", port=store_port, verbose=False)  # a server that speaks S3
    store.start()
    endpoint = f"http://127.0.0.1:{store_port}"
    known = {"AWS_ACCESS_KEY_ID": "of-the-server", "AWS_SECRET_ACCESS_KEY": "alone", "AWS_DEFAULT_REGION": "eu-central-1"}
    bucket = boto3.resource(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=known["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=known["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    ).create_bucket(Bucket="models")
    artifact = make_artifact(tmp_path / "artifact", name="desk").artifact
    server = mlflow_server(tmp_path / "server", port, artifacts="s3://models/manta", MLFLOW_S3_ENDPOINT_URL=endpoint, **known)
    try:
        with server as address:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
            storage = Storage(tmp_path / "here")
            version = register(ModelRegistry(storage), storage, artifact, promote=True, frozen=rows_of_test())
            kept = {thing.key.rpartition("/")[2]: thing.size for thing in bucket.objects.all()}
            assert kept[WEIGHTS_FILE] == (artifact.path / WEIGHTS_FILE).stat().st_size
            elsewhere = ModelRegistry(Storage(tmp_path / "elsewhere"))
            assert elsewhere.fetch(version).manifest == artifact.manifest
            rows = elsewhere.frozen_rows(version)
            assert rows is not None
            assert rows.texts == rows_of_test().texts
    finally:
        store.stop()
