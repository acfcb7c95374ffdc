"""Tracking against a SQLite file, a real MLflow server, one that is not there and one that goes away."""

from __future__ import annotations

import math
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from mlflow import MlflowClient

from manta.cluster.ports import free_ports
from manta.errors import InputError, RunError
from manta.registry.tracking import Point, RunTracker, check_tracking_server, epoch_points, flat, step_points
from manta.storage.folders import Storage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CONFIG = {"name": "desk", "train": {"learning_rate": 1e-4, "seed": 0}}
STEPS = [
    {"step": 5, "epoch": 0.5, "loss": 1.5, "learning_rate": 1e-4, "grad_norm": None, "examples_per_s": 80.0},
    {"step": 10, "epoch": 1.0, "loss": 1.2, "learning_rate": 5e-5, "grad_norm": 0.7, "examples_per_s": 82.0},
]
EPOCH = {"epoch": 2, "loss": 0.9, "accuracy": 0.6, "train_loss": 1.1, "dropout": 0.1, "learning_rate": 1e-4, "weights_sha256": "ab"}


@contextmanager
def mlflow_server(
    folder: Path, port: int, *, artifacts: str | None = None, options: Sequence[str] = (), **environment: str
) -> Iterator[str]:
    """A tracking server as an operator starts it, also with further options, ready to answer; it is stopped at the end.

    It keeps files in its folder unless `artifacts` says where.
    """
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
            *("--artifacts-destination", artifacts or str(folder / "artifacts")),
            *options,
        ],
        stdout=(folder / "log").open("a"),
        stderr=subprocess.STDOUT,
        # Without job queues, which take long to start.
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | environment,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 90
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # with its workers; as a machine that goes down
        process.wait()


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except (urllib.error.URLError, OSError):
        return False
    return True


def points_of(client: MlflowClient, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]


def tracked(storage: Storage, **arguments: Any) -> tuple[RunTracker, MlflowClient]:
    tracker = RunTracker(storage)
    tracker.start("desk-train-1", experiment="desk", config=CONFIG, **arguments)
    return tracker, MlflowClient(tracking_uri=tracker.uri)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return Storage(tmp_path_factory.mktemp("storage"))


def test_steps_and_epochs_become_named_figures() -> None:
    first, second = (step_points([step]) for step in STEPS)
    assert [point.name for point in first] == ["train/loss", "train/learning_rate", "train/examples_per_s"]
    assert Point("train/grad_norm", 0.7, 10) in second
    assert epoch_points([EPOCH], steps_per_epoch=10.0) == [
        Point("validation/loss", 0.9, 20),
        Point("validation/accuracy", 0.6, 20),
        Point("train/epoch_loss", 1.1, 20),
    ]
    assert step_points([]) == []


def test_settings_are_flat_but_for_the_search() -> None:
    document = {"name": "desk", "train": {"seed": 0}, "tune": {"space": {"model.dropout": {"uniform": [0, 1]}}}}
    assert flat(document) == {"name": "desk", "train.seed": 0, "tune.space": {"model.dropout": {"uniform": [0, 1]}}}


@pytest.mark.slow
def test_a_run_is_seen_running_and_then_finished(storage: Storage, tmp_path: Path) -> None:
    tracker, client = tracked(storage)
    run = client.get_run(tracker.run_id)
    assert (run.info.status, run.info.run_name) == ("RUNNING", "desk-train-1")
    assert run.data.params == {"name": "desk", "train.learning_rate": "0.0001", "train.seed": "0"}

    tracker.add(step_points(STEPS))
    assert points_of(client, tracker.run_id, "train/loss") == []
    tracker.flush()
    assert points_of(client, tracker.run_id, "train/loss") == [(5, 1.5), (10, 1.2)]
    (tmp_path / "report.json").write_text("{}")
    tracker.log_files(tmp_path / "report.json")
    tracker.finish("FINISHED")
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(tracker.run_id)] == ["report.json"]


@pytest.mark.slow
def test_more_figures_and_settings_than_one_request_takes_arrive(storage: Storage) -> None:
    tracker = RunTracker(storage)
    tracker.start("many", experiment="many", config={f"setting{number}": number for number in range(250)})
    tracker.add([Point("train/loss", float(number), number) for number in range(2500)])
    tracker.flush()
    client = MlflowClient(tracking_uri=tracker.uri)
    assert len(client.get_run(tracker.run_id).data.params) == 250
    assert len(points_of(client, tracker.run_id, "train/loss")) == 2500
    assert tracker.num_unsent == 0


def test_a_failed_run_says_why_until_it_is_resumed(storage: Storage) -> None:
    tracker, client = tracked(storage)
    tracker.finish("FAILED", error="worker 1 ran out of memory")
    run = client.get_run(tracker.run_id)
    assert (run.info.status, run.data.tags["manta.error"]) == ("FAILED", "worker 1 ran out of memory")

    again, _ = tracked(storage, resume_id=tracker.run_id)
    assert again.run_id == tracker.run_id
    run = client.get_run(tracker.run_id)
    assert run.info.status == "RUNNING"
    assert "manta.error" not in run.data.tags


def test_a_resumed_run_keeps_the_settings_it_began_with(storage: Storage) -> None:
    tracker, client = tracked(storage)
    longer = {"name": "desk", "train": {"learning_rate": 1e-4, "seed": 7, "num_epochs": 5}}
    RunTracker(storage).start("desk-train-1", experiment="desk", config=longer, resume_id=tracker.run_id)
    params = client.get_run(tracker.run_id).data.params
    assert (params["train.seed"], params["train.num_epochs"]) == ("0", "5")


def test_a_run_that_the_store_has_lost_is_opened_anew(storage: Storage) -> None:
    tracker, _ = tracked(storage, resume_id="0" * 32)
    assert tracker.run_id != "0" * 32


def test_figures_that_are_no_numbers_do_no_harm(storage: Storage) -> None:
    tracker, client = tracked(storage)
    tracker.add([Point("train/loss", math.nan, 1), Point("train/loss", math.inf, 2), Point("train/loss", 1.0, 3)])
    tracker.flush()
    values = dict(points_of(client, tracker.run_id, "train/loss"))
    assert math.isnan(values[1])
    assert values[3] == 1.0


@pytest.mark.slow
def test_a_server_that_is_not_there_is_one_sentence_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"http://127.0.0.1:{free_ports(1)[0]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    started = time.monotonic()
    with pytest.raises(InputError, match=rf"^no MLflow server answers at MLFLOW_TRACKING_URI {address} \(.*refused.*\)"):
        check_tracking_server()
    assert time.monotonic() - started < 2
    with pytest.raises(RunError, match="the run cannot be recorded in MLflow at"):
        tracked(Storage(tmp_path / "storage"))
    assert time.monotonic() - started < 30
    assert not (tmp_path / "storage").exists()


def test_an_address_without_http_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "localhost:5000")
    for opens in (check_tracking_server, lambda: tracked(Storage(tmp_path))):
        with pytest.raises(InputError, match=r"localhost:5000 is no URL; write http://localhost:5000\.$"):
            opens()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "htp://host")
    with pytest.raises(RunError, match="MLFLOW_TRACKING_URI htp://host cannot be used"):
        tracked(Storage(tmp_path))


def test_a_password_in_the_address_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_ports(1)[0]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:sec:ret@127.0.0.1:{port}")
    with pytest.raises(InputError) as refused:
        check_tracking_server()
    with pytest.raises(RunError) as failed:
        tracked(Storage(tmp_path))
    for error in (refused.value, failed.value):
        assert f"http://127.0.0.1:{port}" in str(error)
        assert "ret" not in str(error).replace("retr", "")
        assert "user" not in str(error)


@pytest.mark.server
def test_a_server_that_does_not_know_its_own_name_is_told_before_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mlflow_server(tmp_path / "server", free_ports(1)[0], MLFLOW_SERVER_ALLOWED_HOSTS="known:1,127.0.0.1:*") as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        check_tracking_server()
        named = address.replace("127.0.0.1", "localhost")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", named)
        with pytest.raises(
            InputError, match=rf"refuses requests \(status 403\): .* --allowed-hosts {named.removeprefix('http://')}\."
        ):
            check_tracking_server()


@pytest.mark.server
def test_the_server_of_the_guide_answers_by_its_host_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, port = socket.gethostname(), free_ports(1)[0]
    try:
        socket.gethostbyname(name)
    except OSError:
        pytest.skip("this machine does not know its own name")
    guide = (Path(__file__).parents[3] / "docs" / "registry.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^\$ mlflow server (.*?) --backend-store-uri", guide, flags=re.MULTILINE)
    ours = re.sub(r"\bhost:5000", f"{name}:{port}", line).replace("localhost:5000", f"localhost:{port}")
    with mlflow_server(tmp_path / "server", port, options=shlex.split(ours)):
        for host in (name, "localhost"):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{host}:{port}")
            check_tracking_server()


@pytest.mark.parametrize("uri", ["", "sqlite:///somewhere.db"])
def test_a_file_needs_no_server(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    check_tracking_server()


@pytest.mark.server
@pytest.mark.timeout(240)
def test_a_server_that_is_lost_gets_the_figures_when_it_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_ports(1)[0]
    with mlflow_server(tmp_path / "server", port) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        check_tracking_server()
        tracker, client = tracked(Storage(tmp_path / "storage"))
        tracker.add([*step_points(STEPS[:1]), Point("train/grad_norm", math.nan, 5)])
        tracker.flush()
        assert points_of(client, tracker.run_id, "train/loss") == [(5, 1.5)]

    tracker.add(step_points(STEPS[1:]))
    with pytest.raises(RunError, match=rf"MLflow at {address} takes no figures"):
        tracker.flush()
    assert tracker.num_unsent == 4

    with mlflow_server(tmp_path / "server", port):
        tracker.flush()
        assert points_of(client, tracker.run_id, "train/loss") == [(5, 1.5), (10, 1.2)]
        assert tracker.num_unsent == 0
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "weights").write_bytes(b"1" * 1000)
        tracker.log_files(tmp_path / "folder", "model")
        tracker.finish("FINISHED")
        assert client.get_run(tracker.run_id).info.status == "FINISHED"
        assert [file.path for file in client.list_artifacts(tracker.run_id, "model")] == ["model/weights"]
    assert not (tmp_path / "storage").exists()


def test_an_experiment_that_another_process_makes_at_the_same_moment_is_used(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs of a new experiment both look for it, and then both make it."""
    create = MlflowClient.create_experiment

    def slower(client: MlflowClient, name: str, **settings: Any) -> str:
        create(client, name, **settings)
        return str(create(client, name, **settings))

    monkeypatch.setattr(MlflowClient, "create_experiment", slower)
    tracker = RunTracker(storage)
    tracker.start("second", experiment="twice", config={})
    client = MlflowClient(tracking_uri=tracker.uri)
    found = client.get_experiment_by_name("twice")
    assert found is not None
    assert client.get_run(tracker.run_id).info.experiment_id == found.experiment_id
