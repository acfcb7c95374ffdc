"""Training goes on after a SIGKILL of a worker, a node, the driver, or in the middle of a checkpoint; nothing is simulated."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from manta.registry.models import ModelRegistry
from manta.storage.folders import Storage
from manta_jobs.training.checkpoints import STATE_FILE

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Nodes, Run

INTERVAL = 10
MID_EPOCH = 30


def scores(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The metrics of each epoch, hashes of all weights among them, without times and places."""
    left_out = ("examples_per_s", "checkpoint")
    return [{key: value for key, value in epoch.items() if key not in left_out} for epoch in report["history"]]


def newest_step(folder: Path) -> int:
    """The step of the newest checkpoint that is whole, 0 without any."""
    return max((int(path.parent.name[5:]) for path in (folder / "checkpoints").glob(f"step-*/{STATE_FILE}")), default=0)


def past(step: int) -> Callable[[Path], int | None]:
    """A sign: the run has a checkpoint of this step or a later one; which one."""
    return lambda folder: newest_step(folder) if newest_step(folder) >= step else None


@pytest.fixture(scope="module")
def uninterrupted(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Filled by the first test: the report of a run that nothing happened to."""
    return {}


def registered(run: Run) -> int:
    """Number of versions in the run's storage."""
    return len(ModelRegistry(Storage(run.storage)).versions("survivor"))


@pytest.mark.timeout(400)
def test_a_killed_worker_is_replaced(start: Callable[..., Run], nodes: Nodes, uninterrupted: dict[str, Any]) -> None:
    uninterrupted |= start("whole", checkpoint_steps=INTERVAL).report()
    assert uninterrupted["distribution"]["resumed_at_steps"] == []
    assert uninterrupted["distribution"]["num_nodes"] == 2

    run = start("worker", checkpoint_steps=INTERVAL)
    saved = run.wait_for(past(MID_EPOCH), what="a checkpoint in mid-epoch")
    nodes.train_workers()[-1].send_signal(signal.SIGKILL)
    report = run.report()
    (resumed,) = report["distribution"]["resumed_at_steps"]
    assert resumed >= saved
    assert resumed % uninterrupted["history"][0]["step"] != 0, "not in the middle of an epoch"
    assert scores(report) == scores(uninterrupted)
    assert report["metrics"] == uninterrupted["metrics"]
    assert "lost; going on from the last checkpoint" in run.log.read_text()
    assert registered(run) == 1


@pytest.mark.timeout(400)
def test_a_killed_driver_is_resumed(start: Callable[..., Run], nodes: Nodes, uninterrupted: dict[str, Any]) -> None:
    run = start("driver", checkpoint_steps=INTERVAL)
    saved = run.wait_for(past(MID_EPOCH), what="a checkpoint in mid-epoch")
    run.process.kill()
    run.process.wait()
    assert registered(run) == 0
    again = start("driver", resume=run.folder.name)
    report = again.report()
    (resumed,) = report["distribution"]["resumed_at_steps"]
    assert resumed >= saved
    assert scores(report) == scores(uninterrupted)
    assert report["metrics"] == uninterrupted["metrics"]
    assert registered(again) == 1

    finished = start("driver", resume=run.folder.name)
    assert finished.process.wait(timeout=60) == 2
    assert "is finished" in finished.log.read_text()


@pytest.mark.timeout(400)
def test_training_goes_on_with_fewer_workers_when_a_node_is_lost(start: Callable[..., Run], nodes: Nodes) -> None:
    run = start("node", checkpoint_steps=INTERVAL, num_workers=[1, 2])
    saved = run.wait_for(past(MID_EPOCH), what="a checkpoint in mid-epoch")
    assert len(nodes.train_workers()) == 2
    nodes.cluster.remove_node(nodes.others[1], allow_graceful=False)
    report = run.report()
    distribution = report["distribution"]
    assert distribution["world_size"] == 1
    assert distribution["resumed_at_steps"][0] >= saved
    assert report["metrics"]["accuracy"] > 0.9
    assert registered(run) == 1


@pytest.mark.timeout(500)
def test_a_node_that_is_to_go_is_left_with_a_checkpoint_of_that_moment(start: Callable[..., Run], nodes: Nodes) -> None:
    """The notice is Ray's own, as clouds' autoscalers give it; a preemption is no failure, of which none is allowed here."""
    run = start("preempted", num_workers=[1, 2], num_epochs=60, max_failures=0, checkpoint_minutes=60.0)
    run.wait_for(lambda folder: newest_step(folder) > 0, what="the first epoch")
    assert len(nodes.train_workers()) == 2
    node = nodes.others[1]
    notice = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", nodes.address, "--node-id", node.node_id]
    notice += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot capacity is gone"]
    subprocess.run([*notice, "--deadline-remaining-seconds", "20"], check=True, capture_output=True)
    told_at = run.wait_for(in_mid_epoch, what="a checkpoint in mid-epoch")
    time.sleep(20)
    nodes.cluster.remove_node(node, allow_graceful=False)
    report = run.report()
    assert report["distribution"]["resumed_at_steps"][0] >= told_at
    assert report["distribution"]["world_size"] == 1
    assert registered(run) == 1


def in_mid_epoch(folder: Path) -> int | None:
    """A sign: the newest checkpoint is not one of an epoch's end; its step."""
    step = newest_step(folder)
    state = folder / "checkpoints" / f"step-{step:08d}" / STATE_FILE
    try:
        return step if step and json.loads(state.read_text())["state"]["batch"] else None
    except OSError:  # it has been replaced by a newer one
        return None


@pytest.mark.timeout(600)
def test_a_checkpoint_that_was_cut_short_is_passed_over(start: Callable[..., Run], nodes: Nodes, two_classes: Path) -> None:
    """With an encoder that takes a while to write; the worker that writes is killed while it does."""
    settings = {"num_epochs": 2, "batch_size": 8, "checkpoint_steps": 4}
    run = start("cut", model="embedded", data=two_classes, **settings)

    def writing(folder: Path) -> Path | None:
        for partial in (folder / "checkpoints").glob(".step-*.partial"):
            if newest_step(folder) and (partial / "model.safetensors").exists() and not (partial / STATE_FILE).exists():
                return partial
        return None

    partial = run.wait_for(writing, what="a checkpoint being written")
    writers = [worker for worker in nodes.train_workers() if writes_to(worker, partial)] or nodes.train_workers()
    for worker in writers:
        worker.send_signal(signal.SIGKILL)
    cut = int(partial.name.removeprefix(".step-").removesuffix(".partial"))
    report = run.report()
    assert report["distribution"]["resumed_at_steps"][0] == cut - settings["checkpoint_steps"]
    assert registered(run) == 1


def writes_to(process: psutil.Process, folder: Path) -> bool:
    """True if the process has a file in the folder open."""
    try:
        return any(Path(file.path).parent == folder for file in process.open_files())
    except psutil.Error:
        return False
