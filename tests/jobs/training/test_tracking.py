"""The record of a run while it goes on, and of how it ended."""

from __future__ import annotations

import json
import struct
import time
from typing import TYPE_CHECKING, Any

import pytest
from mlflow import MlflowClient
from rich.console import Console

from manta.config import ExperimentConfig
from manta.console import people_console
from manta.errors import RunError
from manta.storage.folders import RunFolder, Storage
from manta_jobs.training import tracking as module
from manta_jobs.training.tracking import RunRecord, follow, read_steps

if TYPE_CHECKING:
    from pathlib import Path


def step(number: int, loss: float = 1.0) -> dict[str, Any]:
    return {"step": number, "epoch": number / 10, "loss": loss, "learning_rate": 1e-4, "grad_norm": None, "examples_per_s": 50.0}


def epoch(number: int) -> dict[str, Any]:
    return {"epoch": number, "train_loss": 1.0 / number, "loss": 1.1 / number, "accuracy": 0.5 + number / 10}


EPOCHS = [epoch(1), epoch(2)]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """One for the module, as its database takes seconds to make."""
    return Storage(tmp_path_factory.mktemp("storage"))


@pytest.fixture
def folder(storage: Storage) -> RunFolder:
    return storage.new_run("desk", verb="train")


def recording(
    folder: RunFolder,
    storage: Storage,
    *,
    steps: list[dict[str, Any]] | None = None,
    history: list[dict[str, Any]] | None = None,
    settings: dict[str, Any] | None = None,
    **arguments: Any,
) -> RunRecord:
    """A record that finds `steps` and `history` at its first look, and no more steps after that."""
    batches = [steps or []]
    config = ExperimentConfig.model_validate({"name": "desk", "data": {"train": "rows.csv"}, "train": settings or {}})
    new_steps, epochs = lambda: batches.pop() if batches else [], lambda: history or []
    console = arguments.pop("console", people_console())
    return RunRecord(folder, storage, config, console=console, new_steps=new_steps, history=epochs, **arguments)


def client_of(folder: RunFolder) -> tuple[MlflowClient, str]:
    entry = json.loads((folder.path / "mlflow.json").read_text())
    return MlflowClient(tracking_uri=entry["uri"]), entry["run_id"]


def points_of(folder: RunFolder, name: str) -> list[tuple[int, float]]:
    client, run_id = client_of(folder)
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]


def test_a_finished_run_leaves_its_figures_and_files(folder: RunFolder, storage: Storage) -> None:
    with recording(folder, storage, steps=[step(number) for number in range(1, 21)], history=EPOCHS):
        folder.write_report({"run": folder.name})
    client, run_id = client_of(folder)
    run = client.get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", folder.name)
    assert run.data.params["train.seed"] == "0"
    assert len(points_of(folder, "train/loss")) == 20
    assert points_of(folder, "validation/loss") == [(10, 1.1), (20, 0.55)]
    assert [file.path for file in client.list_artifacts(run_id)] == ["report.json"]
    assert read_steps(folder.path / "steps.jsonl") == [step(number) for number in range(1, 21)]


def test_figures_arrive_while_the_run_goes_on(folder: RunFolder, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECORD_EVERY_S", 0.05)
    with recording(folder, storage, steps=[step(1), step(2)]):
        deadline = time.monotonic() + 20
        while len(points_of(folder, "train/loss")) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        client, run_id = client_of(folder)
        assert client.get_run(run_id).info.status == "RUNNING"


def test_an_epoch_is_recorded_once_however_often_it_is_seen(folder: RunFolder, storage: Storage) -> None:
    with recording(folder, storage, steps=[step(10)], history=EPOCHS) as record:
        record.catch_up(EPOCHS[:1])
        record.catch_up(EPOCHS)
    assert points_of(folder, "validation/accuracy") == [(10, 0.6), (20, 0.7)]


def test_epochs_without_steps_are_counted_as_steps(folder: RunFolder, storage: Storage) -> None:
    with recording(folder, storage, history=EPOCHS):
        pass
    assert [number for number, _ in points_of(folder, "validation/accuracy")] == [1, 2]


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (RunError("training failed on worker 1: out of memory"), "FAILED", "training failed on worker 1: out of memory"),
        (KeyError("loss"), "FAILED", "KeyError: 'loss'"),
        (KeyboardInterrupt(), "KILLED", "stopped by Ctrl-C"),
        (SystemExit(15), "KILLED", "stopped"),
    ],
)
def test_a_run_that_does_not_finish_says_so(
    error: BaseException, status: str, said: str, folder: RunFolder, storage: Storage
) -> None:
    with pytest.raises(type(error)), recording(folder, storage, steps=[step(1)]):
        raise error
    client, run_id = client_of(folder)
    run = client.get_run(run_id)
    assert (run.info.status, run.data.tags["manta.error"]) == (status, said)
    assert points_of(folder, "train/loss") == [(1, 1.0)]


def test_a_resumed_run_goes_on_in_its_record(folder: RunFolder, storage: Storage) -> None:
    with pytest.raises(KeyboardInterrupt), recording(folder, storage, steps=[step(1), step(2), step(3, loss=9.0)]):
        raise KeyboardInterrupt
    _, first_id = client_of(folder)
    with recording(folder, storage, steps=[step(3), step(4)]) as record:
        pass
    client, run_id = client_of(folder)
    assert run_id == first_id
    assert client.get_run(run_id).info.status == "FINISHED"
    assert record.steps == [step(1), step(2), step(3), step(4)]
    assert read_steps(folder.path / "steps.jsonl") == record.steps


def test_steps_are_read_past_a_line_that_was_cut_short(tmp_path: Path) -> None:
    (tmp_path / "steps.jsonl").write_text(json.dumps(step(1)) + '\n{"step": 2, "lo\n' + json.dumps(step(2)) + "\n")
    assert read_steps(tmp_path / "steps.jsonl") == [step(1), step(2)]


def test_steps_done_again_replace_the_earlier_ones() -> None:
    steps = [step(1), step(2), step(3)]
    follow(steps, [step(2, loss=0.5)])
    assert steps == [step(1), step(2, loss=0.5)]


def test_what_a_search_varies_is_recorded_when_it_is_chosen(folder: RunFolder, storage: Storage) -> None:
    with recording(folder, storage, searched=["train.learning_rate"]) as record:
        client, run_id = client_of(folder)
        assert "train.learning_rate" not in client.get_run(run_id).data.params
        record.chosen({"train.learning_rate": 3e-5})
    assert client.get_run(run_id).data.params["train.learning_rate"] == "3e-05"


def test_a_lost_store_is_told_once_and_the_run_goes_on(
    folder: RunFolder, storage: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: Any, **more: Any) -> None:
        raise ConnectionError("connection refused")

    with recording(folder, storage, steps=[step(1)], console=people_console()) as record:
        monkeypatch.setattr(MlflowClient, "log_batch", refuse)
        record.catch_up([])
        record.catch_up([])
    said = capsys.readouterr().err
    assert said.count("takes no figures (connection refused)") == 1
    assert "the record in MLflow is incomplete: 3 figures were not sent" in said
    assert read_steps(folder.path / "steps.jsonl") == [step(1)]


def test_a_store_that_comes_back_gets_everything(
    folder: RunFolder, storage: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: Any, **more: Any) -> None:
        raise ConnectionError("connection refused")

    with recording(folder, storage, steps=[step(1)], console=people_console()) as record, monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", refuse)
        record.catch_up([])
    assert "incomplete" not in capsys.readouterr().err
    assert points_of(folder, "train/loss") == [(1, 1.0)]


def event_records(path: Path) -> list[bytes]:
    """The payloads of a TFRecord file: length, its checksum, payload, its checksum."""
    data, records = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        records.append(data[12 : 12 + length])
        data = data[16 + length :]
    return records


def test_tensorboard_files_hold_the_same_figures_on_request(folder: RunFolder, storage: Storage) -> None:
    from tensorboardX.proto.event_pb2 import Event

    with recording(folder, storage, steps=[step(10, loss=1.5)], history=[epoch(1)], settings={"tensorboard": True}):
        pass
    (file,) = (folder.path / "tensorboard").iterdir()
    events = [Event.FromString(payload) for payload in event_records(file)]
    figures = {(value.tag, event.step): value.simple_value for event in events for value in event.summary.value}
    assert figures["train/loss", 10] == 1.5
    assert figures["validation/accuracy", 10] == pytest.approx(0.6)


def test_no_tensorboard_files_unless_asked(folder: RunFolder, storage: Storage) -> None:
    with recording(folder, storage, steps=[step(1)], console=Console(quiet=True)):
        pass
    assert not (folder.path / "tensorboard").exists()
