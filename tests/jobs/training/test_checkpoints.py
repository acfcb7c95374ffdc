from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
import torch

from manta.config import TrainConfig
from manta.storage.object_store import discard, here, mirror_of, names, store
from manta_jobs.training.checkpoints import (
    OPTIMIZER_FILE,
    STATE_FILE,
    WEIGHTS_FILE,
    CheckpointWriter,
    TrainingState,
    epochs_without_gain,
    kept_epoch,
    latest_checkpoint,
    read_state,
    write_checkpoint,
)

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS = {"weight": torch.arange(1000.0)}
MOMENTS = {"exp_avg.weight": torch.ones(1000)}


def write(folder: Path, step: int, *, best: int | None = None) -> Path:
    state = TrainingState(step=step, epoch=1, batch=3, loss_sum=0.1, best_step=best, history=[{"epoch": 1, "loss": 0.3}])
    return write_checkpoint(folder, dataclasses.asdict(state), weights=WEIGHTS, moments=MOMENTS)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    written = write(tmp_path, 7)
    path, state = latest_checkpoint(tmp_path) or pytest.fail("none found")
    assert path == written
    assert state == TrainingState(step=7, epoch=1, batch=3, loss_sum=0.1, history=[{"epoch": 1, "loss": 0.3}])
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}


HISTORY = [
    {"epoch": 1, "accuracy": 0.9, "loss": 0.4},
    {"epoch": 2, "accuracy": 0.9, "loss": 0.3},
    {"epoch": 3, "accuracy": 0.8, "loss": 0.5},
]


def test_the_last_epoch_is_kept_whatever_few_validation_rows_say() -> None:
    assert kept_epoch(HISTORY, TrainConfig())["epoch"] == 3
    assert kept_epoch(HISTORY[:1], TrainConfig())["epoch"] == 1


def test_early_stopping_keeps_the_best_epoch_and_of_equal_ones_the_later() -> None:
    assert kept_epoch(HISTORY, TrainConfig(early_stopping=2))["epoch"] == 2
    assert kept_epoch(HISTORY, TrainConfig(early_stopping=2, metric="loss"))["epoch"] == 2


def test_an_equal_epoch_is_no_gain() -> None:
    assert [epochs_without_gain(HISTORY[:count], TrainConfig(early_stopping=2)) for count in (1, 2, 3)] == [0, 1, 2]
    assert epochs_without_gain(HISTORY, TrainConfig(early_stopping=2, metric="loss")) == 1


def test_there_may_be_none(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "nothing") is None
    (tmp_path / ".step-00000005.partial").mkdir()
    assert latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("name", [WEIGHTS_FILE, OPTIMIZER_FILE, STATE_FILE])
@pytest.mark.parametrize("fault", ["cut short", "altered", "missing"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, name: str, fault: str) -> None:
    before, newest = write(tmp_path, 10), write(tmp_path, 20)
    file = newest / name
    content = file.read_bytes()
    if fault == "missing":
        file.unlink()
    elif fault == "cut short":
        file.write_bytes(content[: len(content) // 2])
    elif name == STATE_FILE:
        file.write_bytes(content.replace(b'"files"', b'"fires"'))
    else:
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert read_state(newest) is None
    path, state = latest_checkpoint(tmp_path) or pytest.fail("none found")
    assert path == before
    assert state.step == 10


def test_the_newest_two_and_the_best_are_kept(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path)
    for step in (5, 10, 15, 20, 25):
        writer.write(TrainingState(step=step, best_step=10), weights=WEIGHTS, moments=MOMENTS)
    writer.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000020", "step-00000025"]
    writer.write(TrainingState(step=30, best_step=10, finished=True), weights=WEIGHTS, moments={})
    writer.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000030"]


@pytest.mark.parametrize("name", [WEIGHTS_FILE, STATE_FILE])
def test_an_upload_that_was_cut_short_is_passed_over(
    name: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = mirror_of(f"{bucket}/run/checkpoints")
    writer = CheckpointWriter(folder)
    for step in (5, 10, 15, 20):
        writer.write(TrainingState(step=step, best_step=5), weights=WEIGHTS, moments=MOMENTS)
    writer.wait()
    assert names(folder) == ["step-00000005", "step-00000015", "step-00000020"]
    half = folder / "step-00000020" / name
    if name == WEIGHTS_FILE:  # of the same step, trained again by another node that was lost
        half.write_bytes(half.read_bytes()[:-1])
        store(half)
    else:
        discard(half)
    monkeypatch.setenv("MANTA_CACHE", str(tmp_path / "elsewhere"))
    path, state = latest_checkpoint(folder) or pytest.fail("none found")
    assert (path, state.step) == (here(folder) / "step-00000015", 15)


def test_a_step_that_is_trained_again_replaces_its_checkpoint(tmp_path: Path) -> None:
    path = write(tmp_path, 10)
    (path / WEIGHTS_FILE).write_bytes(b"old")
    assert write(tmp_path, 10) == path
    assert read_state(path) is not None


def test_a_full_or_missing_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    writer = CheckpointWriter(tmp_path / "file" / "checkpoints")
    writer.write(TrainingState(), weights=WEIGHTS, moments=MOMENTS)
    with pytest.raises(OSError, match=r"the checkpoint could not be written to .*file/checkpoints"):
        writer.wait()
    writer.wait()


def test_training_may_go_on_changing_its_state(tmp_path: Path) -> None:
    writer, state = CheckpointWriter(tmp_path), TrainingState(step=3)
    writer.write(state, weights=WEIGHTS, moments=MOMENTS)
    state.step, state.loss_sum = 4, 9.0
    writer.wait()
    _, found = latest_checkpoint(tmp_path) or pytest.fail("none found")
    assert (found.step, found.loss_sum) == (3, 0.0)
