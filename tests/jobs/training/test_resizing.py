"""The checkpoint before Ray Train restarts an elastic run: who is asked for it, and when the controller waits."""

from __future__ import annotations

import inspect
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import ray.train
import torch
from ray.train import RunConfig
from ray.train.v2._internal.execution.controller.controller import TrainController

from manta.console import people_console
from manta_jobs.runs.prepare import prepare
from manta_jobs.training import loop
from manta_jobs.training.loop import Training
from manta_jobs.training.progress import Board, RunProgress
from manta_jobs.training.resizing import SaveBeforeResize
from manta_jobs.training.start.worker_setup import WorkerSetup

from ..conftest import experiment
from ..processes import in_processes

if TYPE_CHECKING:
    from pathlib import Path

NAME = "run"
HEALTHY, FAILED = SimpleNamespace(errors={}), SimpleNamespace(errors={0: RuntimeError("lost")})


def started(board: Board, *, wait_s: float) -> SaveBeforeResize:
    """The callback of a run whose workers train."""
    board.started(NAME, RunProgress(10), after_step=0)
    callback = SaveBeforeResize(board, lambda: NAME, wait_s=wait_s)
    callback.after_worker_group_training_start(None)
    callback.after_worker_group_poll_status(HEALTHY)
    return callback


def test_the_controller_waits_for_the_checkpoint() -> None:
    board = Board()
    callback = started(board, wait_s=60.0)
    controller = threading.Thread(target=callback.before_controller_execute_resize_decision, args=(None,))
    controller.start()
    while not board.is_checkpoint_wanted(NAME):
        assert controller.is_alive()
    board.checkpoint_done(NAME)
    controller.join(timeout=30)
    assert not controller.is_alive()


def test_workers_that_hang_are_restarted_anyway_and_the_next_ones_have_nothing_to_save() -> None:
    board = Board()
    started(board, wait_s=0.01).before_controller_execute_resize_decision(None)
    assert board.is_checkpoint_wanted(NAME)
    board.started(NAME, RunProgress(10), after_step=0)
    assert not board.is_checkpoint_wanted(NAME)


def test_workers_that_are_not_there_or_have_failed_are_not_asked() -> None:
    board = Board()
    SaveBeforeResize(board, lambda: NAME, wait_s=60.0).before_controller_execute_resize_decision(None)  # before the first start
    failed, stopped = started(board, wait_s=60.0), started(board, wait_s=60.0)
    failed.after_worker_group_poll_status(FAILED)
    failed.before_controller_execute_resize_decision(None)
    stopped.before_worker_group_shutdown(None)
    stopped.before_controller_execute_resize_decision(None)
    assert not board.is_checkpoint_wanted(NAME)


def test_ray_calls_it_before_it_shuts_the_workers_down() -> None:
    RunConfig(callbacks=[SaveBeforeResize(Board(), lambda: NAME)])
    source = inspect.getsource(TrainController._execute_resize_decision)
    assert 0 < source.index("before_controller_execute_resize_decision") < source.index("_shutdown_worker_group")


def test_only_a_run_with_a_range_of_workers_has_it(two_classes: Path, tiny_model: Path, tmp_path: Path) -> None:
    from manta_jobs.cluster.connection import WorkerResources
    from manta_jobs.training.recovery import Recovery
    from manta_jobs.training.trainer import build_trainer

    board = Board()
    kinds = {}
    for num_workers in (2, (1, 2)):
        trainer = build_trainer(
            print,
            {},
            experiment(two_classes, tiny_model, num_workers=num_workers),
            resources=WorkerResources(num_cpus=1, use_gpu=False),
            folder=tmp_path,
            name=NAME,
            callback=Recovery(board, NAME, max_failures=0),
            board=board,
            current=lambda: NAME,
            max_failures=1,
        )
        kinds[num_workers] = [type(callback) for callback in trainer.run_config.callbacks]
    assert kinds == {2: [Recovery], (1, 2): [Recovery, SaveBeforeResize]}


def interrupted_and_whole(rank: int, folder: str) -> None:
    """Stop a training of two workers some steps after Ray wanted a checkpoint, resume it, and train the same without a stop."""
    ray.train.get_context = lambda: SimpleNamespace(get_local_world_size=lambda: 2)
    ray.train.get_preemption_info = lambda: None
    loop.PREEMPTION_LOOK_EVERY_S = 0.0
    loop.LOG_EVERY_STEPS = 2
    prepared, board = torch.load(f"{folder}/setup.pt", weights_only=False), Board()

    def training(name: str) -> Training:
        return Training(WorkerSetup(**prepared, checkpoints=f"{folder}/{name}", num_threads=1, board=board, run_name=name))

    stopped = training("stopped")
    steps = stopped.rows.steps(stopped.rows.batches.epoch(0), epoch=0, rank=rank, world_size=2, num_micro=stopped.num_micro)
    for number in range(5):
        if number == 3 and rank == 0:
            board.want_checkpoint("stopped")
        stopped.train_step(steps)
        stopped.look_up()
    is_wanted = board.is_checkpoint_wanted("stopped")
    stopped.close()
    found = []
    for name in ("stopped", "whole"):
        again = training(name)
        again.run(report=lambda _metrics: True)
        found.append((again.state.resumed, [epoch["weights_sha256"] for epoch in again.state.history]))
        again.close()
    torch.save((is_wanted, found), f"{folder}/{rank}.pt")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_workers_save_when_they_are_asked_and_nothing_is_lost(two_classes: Path, tiny_model: Path, tmp_path: Path) -> None:
    config = experiment(two_classes, tiny_model, num_workers=(1, 2), zero_stage=1, checkpoint_minutes=1000.0)
    prepared = prepare(config, verb="train", console=people_console())
    data = prepared.data
    setup = {"config": prepared.config, "labels": data.labels, "data_folder": str(data.folder), "pad_id": data.pad_id}
    torch.save(setup, tmp_path / "setup.pt")
    (is_wanted, ((resumed, hashes), (_, expected))), _ = in_processes(interrupted_and_whole, tmp_path, num_workers=2)
    assert not is_wanted
    assert resumed == [4]
    assert hashes == expected
