"""Real services under constant load while versions, replicas and the service itself change: no wrong answer, no failed request."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from ray import serve
from ray.serve.config import AutoscalingConfig

from manta.cluster.ports import free_ports
from manta.config import ServeConfig
from manta.inference.artifact_writing import with_golden
from manta.inference.formats import WEIGHTS_FILE
from manta.inference.predictor import Predictor
from manta.labels import LabelSpace
from manta.registry.decisions import Action, Decision
from manta.registry.models import ModelRegistry
from manta.registry.tracking import RunTracker
from manta.storage.folders import Storage
from manta_jobs.packaging.golden import record_golden
from manta_serve.access.keys import KeyStore
from manta_serve.running.app import ServeArguments, deployment
from manta_serve.versions.takeover import TOGETHER_AFTER

from ..serve.untrained import artifact_of
from .serving_load import Asked, Expected, Load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(600)
LABELS = LabelSpace.from_labels(["account", "billing", "delivery"])
TEXTS = ["the parcel is late", "my password", "charged twice and now it is still of today", "card", "hello it is the driver"]
CORRUPT, OTHERWISE = 3, 4


@pytest.fixture
def storage(tiny_model: Path, tmp_path: Path) -> Storage:
    """Four versions, the first the champion. The weights of one are cut short, one does not answer as its golden file says."""
    storage = Storage(tmp_path / "storage")
    registry = ModelRegistry(storage)
    first = None
    for version in range(1, 5):
        tracker = RunTracker(storage)
        tracker.start(f"run-{version}", experiment="desk", config={})
        artifact = artifact_of(tiny_model, tmp_path / f"run-{version}", labels=LABELS, seed=version)
        first = first or artifact
        artifact = with_golden(artifact, record_golden(first if version == OTHERWISE else artifact, TEXTS))
        registry.register(artifact, run_id=tracker.run_id)
    weights = registry.files.fetch(registry.get("desk", version=CORRUPT)).path / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-1])
    crown(storage, 1, at=datetime(2026, 1, 1, tzinfo=UTC))
    return storage


@pytest.fixture
def expected(storage: Storage) -> Expected:
    """Answers of the two undamaged versions."""
    registry = ModelRegistry(storage)
    predictors = {
        version: Predictor(registry.files.fetch(registry.get("desk", version=version)), device="cpu") for version in (1, 2)
    }
    return {version: {text: predictor.predict([text])[0].scores for text in TEXTS} for version, predictor in predictors.items()}


def crown(storage: Storage, version: int, *, action: Action = "promoted", at: datetime | None = None) -> None:
    """Move the champion, as `manta models promote` and `rollback` do after the gate has passed."""
    registry = ModelRegistry(storage)
    previous = registry.standing("desk").champion
    registry.set_champion(registry.get("desk", version=version))
    decision = Decision(
        action=action, version=version, previous=previous, at=(at or datetime.now(UTC)).isoformat(timespec="microseconds")
    )
    registry.record("desk", decision)


@pytest.fixture
def run(serve_port: int, storage: Storage) -> Iterator[Callable[..., None]]:
    """Start the application, with Ray's options replaced by those given; it is gone after the test."""

    def start(num_replicas: Any, **options: Any) -> None:
        config = ServeConfig.model_validate({"num_replicas": num_replicas})
        arguments = ServeArguments(model="desk", storage=str(storage.root), serve=config, require_keys=False)
        serve.run(deployment(arguments).options(**options).bind(arguments), name="manta", route_prefix="/")

    yield start
    serve.delete("manta")


def replicas() -> list[psutil.Process]:
    """The processes that hold the model."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "ServeReplica:manta:classifier" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def until(condition: Callable[[], object], *, limit_s: float = 120.0, what: str) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def assert_all_right(asked: list[Asked], load: Load) -> None:
    assert asked
    assert all(item.status == 200 and item.is_right for item in asked), load.summary()


def change_under_load(load: Load, storage: Storage) -> None:
    """Promote, roll back, and promote two versions that must never answer."""
    load.wait_for_answers(20, version=1)
    crown(storage, 2)
    load.wait_for_answers(20, version=2)
    crown(storage, 1, action="rolled back")
    load.wait_for_answers(20, version=1)
    for broken in (CORRUPT, OTHERWISE):
        crown(storage, broken)
        time.sleep(TOGETHER_AFTER.total_seconds() + 3)  # nothing tells of what does not happen
    load.wait_for_answers(20, version=1)
    assert_all_right(load.stop(), load)
    # One switch for each change: never back and forth.
    assert [connection.versions for connection in load.connections] == [[1, 2, 1]] * len(load.connections), load.summary()


def test_two_replicas_change_versions_together(
    run: Callable[..., None], serve_port: int, storage: Storage, expected: Expected
) -> None:
    run(2)
    change_under_load(Load(serve_port, expected), storage)


def test_a_killed_replica_takes_only_what_it_had_under_way(run: Callable[..., None], serve_port: int, expected: Expected) -> None:
    run(2)
    load = Load(serve_port, expected)
    load.wait_for_answers(50)
    killed = time.monotonic()
    before = replicas()
    assert len(before) == 2
    before[0].kill()
    load.wait_for_answers(50)
    until(lambda: len(replicas()) == 2, what="a replica in the place of the killed one")
    load.wait_for_answers(50)
    asked = load.stop()
    failed = [item for item in asked if item.status != 200]
    assert all(item.is_right for item in asked if item.status == 200), load.summary()
    assert all(item.status is None or item.status >= 500 for item in failed), load.summary()
    assert all(item.sent < killed + 0.05 for item in failed), [(item.sent - killed, item.error) for item in failed]
    assert len(failed) <= len(load.connections)


def test_replicas_that_come_and_go_cost_no_request(
    run: Callable[..., None], serve_port: int, storage: Storage, expected: Expected
) -> None:
    scaling = AutoscalingConfig(
        min_replicas=1,
        initial_replicas=1,
        max_replicas=2,
        target_ongoing_requests=1,
        look_back_period_s=2,
        upscale_delay_s=1,
        downscale_delay_s=3,
        metrics_interval_s=1,
    )
    run([1, 2], autoscaling_config=scaling)
    quiet = Load(serve_port, expected, num_connections=1)
    quiet.wait_for_answers(5)
    assert len(replicas()) == 1
    busy = Load(serve_port, expected, num_connections=24)
    until(lambda: len(replicas()) == 2, what="a second replica")
    crown(storage, 2)  # the new one starts, perhaps, before the moment at which the old one takes over
    busy.wait_for_answers(20, version=2)
    assert_all_right(busy.stop(), busy)
    until(lambda: len(replicas()) == 1, what="the second replica gone")
    quiet.wait_for_answers(5)
    assert_all_right(quiet.stop(), quiet)
    for connection in [*busy.connections, *quiet.connections]:
        assert connection.versions in ([1, 2], [2]), connection.versions


@pytest.fixture
def command(
    storage: Storage, listens_to_ctrl_c: Callable[[], None], tmp_path: Path
) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """`manta serve` as people start it, once it answers."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        log = tmp_path / "serve.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "manta.cli", "serve", *arguments],
                stdout=output,
                stderr=output,
                env={**os.environ, "MANTA_STORAGE": str(storage.root)},
                start_new_session=True,
                preexec_fn=listens_to_ctrl_c,
            )
        started.append(process)
        until(lambda: "Ctrl-C stops it" in log.read_text() or process.poll() is not None, limit_s=240, what=log.read_text())
        assert process.poll() is None, log.read_text()
        return process

    yield start
    for process in started:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()


def test_a_service_of_one_replica_changes_versions_and_ends_without_a_failed_request(
    command: Callable[..., subprocess.Popen[bytes]], storage: Storage, expected: Expected
) -> None:
    port = free_ports(1)[0]
    process = command("desk", "--port", str(port))
    change_under_load(Load(port, expected), storage)
    end_under_load(process, Load(port, expected))


def test_a_candidate_with_a_share_and_in_the_shadow_costs_no_request(
    command: Callable[..., subprocess.Popen[bytes]], storage: Storage, expected: Expected, tmp_path: Path
) -> None:
    """First a candidate that must not answer, then a whole one, which is promoted and rolled back."""
    port, experiment, registry = free_ports(1)[0], tmp_path / "desk.yaml", ModelRegistry(storage)
    serve_settings = "serve: {traffic: {candidate: 50, shadow: 100}}"
    experiment.write_text(f"name: desk\ndata: {{train: x.csv}}\n{serve_settings}\nstorage: {storage.root}\n", encoding="utf-8")
    registry._set_alias("desk", "candidate", str(CORRUPT))
    command(str(experiment), "--port", str(port))
    load = Load(port, expected, num_connections=16, names_itself=True)
    load.wait_for_answers(20, version=1)
    assert described(port)["candidate"] is None
    registry._set_alias("desk", "candidate", "2")
    until(lambda: shadow_texts(port) > 50, what="texts that both versions were asked for")
    load.wait_for_answers(20)
    assert {connection.asked[-1].version for connection in load.connections} == {1, 2}, load.summary()
    crown(storage, 2)
    load.wait_for_answers(20, version=2)
    crown(storage, 1, action="rolled back")
    load.wait_for_answers(20, version=1)
    assert_all_right(load.stop(), load)
    # Whoever met the candidate stayed with it until all did.
    assert [connection.versions for connection in load.connections] == [[1, 2, 1]] * len(load.connections), load.summary()


def described(port: int) -> dict[str, Any]:
    """Answer of /v1/model."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/model", timeout=60) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def shadow_texts(port: int) -> int:
    """Number of texts on which champion and candidate were compared."""
    comparison = described(port)["comparison"]
    return 0 if comparison is None else int(comparison["shadow"]["num_texts"])


def test_the_production_profile_ends_without_a_failed_request(
    command: Callable[..., subprocess.Popen[bytes]], storage: Storage, expected: Expected, tmp_path: Path
) -> None:
    port, key = free_ports(1)[0], KeyStore(storage).create("load")
    experiment = tmp_path / "desk.yaml"
    experiment.write_text(f"name: desk\ndata: {{train: x.csv}}\nserve: {{num_replicas: 2}}\nstorage: {storage.root}\n")
    process = command(str(experiment), "--port", str(port), "--profile", "production")
    load = Load(port, expected, key=key, heeds_readyz=True)
    load.wait_for_answers(20)
    told = time.monotonic()
    process.send_signal(signal.SIGTERM)
    asked = load.stop()  # it was told by /readyz, or the test would say what failed
    assert process.wait(90) == 0
    assert_all_right(asked, load)
    assert max(item.sent for item in asked) > told


def figure(port: int, name: str) -> float:
    """The sum over all replicas of what /metrics says."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def leave_halfway(port: int, num_clients: int) -> None:
    """So many clients send a request of many texts and hang up without waiting for its answer."""
    body = json.dumps({"texts": [f"{TEXTS[2]} {number}" for number in range(60)]}).encode()
    head = f"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    clients = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(num_clients)]
    for client in clients:
        client.sendall(head.encode() + body)
    for client in clients:
        client.close()


def test_two_hundred_clients_that_hang_up_leave_nothing_behind(
    command: Callable[..., subprocess.Popen[bytes]], expected: Expected, tmp_path: Path, storage: Storage
) -> None:
    port, experiment = free_ports(1)[0], tmp_path / "desk.yaml"
    # Room for all of them: none is refused, so all that is gone was under way.
    experiment.write_text(
        f"name: desk\ndata: {{train: x.csv}}\nserve: {{max_queued_texts: 20000}}\nstorage: {storage.root}\n", encoding="utf-8"
    )
    command(str(experiment), "--port", str(port))
    gone, queued, memory = (
        'manta_requests_total{path="/v1/classify",problem="client_gone"',
        "manta_queued_texts{",
        "manta_memory_bytes{",
    )

    def once() -> float:
        before = figure(port, gone)
        leave_halfway(port, 200)
        until(lambda: figure(port, queued) == 0, what="an empty queue")
        return figure(port, gone) - before

    once()  # what is set up on first use
    baseline = figure(port, memory)
    assert sum(once() for _ in range(3)) > 100  # most left before they were answered
    load = Load(port, expected)
    load.wait_for_answers(20)
    assert_all_right(load.stop(), load)
    assert figure(port, memory) < 1.05 * baseline


def end_under_load(process: subprocess.Popen[bytes], load: Load) -> None:
    """SIGTERM: what was sent is answered, until nobody listens any more."""
    load.wait_for_answers(20)
    process.send_signal(signal.SIGTERM)
    assert process.wait(90) == 0
    asked = load.stop()
    broken = [item for item in asked if item.status is None]
    refused = [item for item in broken if "ConnectionRefused" in item.error]
    assert_all_right([item for item in asked if item not in refused], load)
    first = min(item.sent for item in refused)
    assert all(item.sent < first for item in asked if item.status == 200), load.summary()
