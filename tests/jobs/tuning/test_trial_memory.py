"""Nothing of a trial is left in memory when the next one is built in the same process."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from manta_jobs.training.engine.memory import free_memory
from manta_jobs.training.engine.zero import end
from manta_jobs.training.progress import Board
from manta_jobs.tuning import trial_workers
from manta_jobs.tuning.trial_queue import Assignment

from ..processes import in_processes
from ..training.engines import STAGES, engine_of
from ..training.test_updates import step, updates_of

if TYPE_CHECKING:
    from pathlib import Path


class Held:
    """A training that refers to itself, as an engine does; the second of them fails."""

    num_built = 0

    def __init__(self, *_given: Any, **_named: Any) -> None:
        Held.num_built += 1
        self.number, self.itself = Held.num_built, self

    def run(self, *, report: Any) -> None:
        if self.number == 2:
            raise ArithmeticError("the gradients of 20 steps in a row were not finite")

    def close(self) -> None:
        pass


def test_a_trial_is_gone_before_the_next_is_built_also_after_one_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = [Assignment(f"trial-{number}", {}, None) for number in range(3)]
    built: list[weakref.ref[Held]] = []
    alive_at_start: list[list[bool]] = []

    def begun(_setup: Any) -> Held:
        alive_at_start.append([trial() is not None for trial in built])
        training = Held()
        built.append(weakref.ref(training))
        return training

    ended: list[str] = []
    queue: Any = SimpleNamespace(ended=lambda name, *_what: ended.append(name))
    config = SimpleNamespace(with_values=lambda values: config)
    setup: Any = SimpleNamespace(config=config, checkpoints="", board=Board())
    monkeypatch.setattr(trial_workers, "next_trial", lambda _pool: waiting.pop(0) if waiting else None)
    monkeypatch.setattr(trial_workers, "begun", begun)
    monkeypatch.setattr(trial_workers.dataclasses, "replace", lambda given, **_changes: given)
    monkeypatch.setattr(trial_workers.dist, "get_world_size", lambda: 1)
    monkeypatch.setattr(trial_workers.dist, "get_rank", lambda: 0)
    gc.disable()
    try:
        trial_workers.train_trials({"pool": trial_workers.WorkerPool("pool", queue, setup)})
    finally:
        gc.enable()
    assert alive_at_start == [[], [False], [False, False]]
    assert ended == ["trial-1"]


def tensors_of_an_engine(stage: int) -> list[weakref.ref[torch.Tensor]]:
    """References to the weights and moments of an engine that has trained and ended."""
    engine = engine_of(stage)
    updates = updates_of(engine)
    step(engine, updates, 0)
    tensors = [*engine.module.parameters(), *(held["exp_avg"] for held in engine.basic_optimizer.state.values())]
    end(engine)
    return [weakref.ref(tensor) for tensor in tensors]


def left_of_engines(rank: int, folder: str) -> None:
    gc.disable()
    found = {}
    for stage in STAGES:
        tensors = tensors_of_an_engine(stage)
        free_memory()
        found[stage] = (len(tensors), sum(tensor() is not None for tensor in tensors))
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_nothing_of_an_engine_is_left_at_any_stage(tmp_path: Path) -> None:
    (found,) = in_processes(left_of_engines, tmp_path, num_workers=1)
    for stage in STAGES:
        num_tensors, num_left = found[stage]
        assert num_tensors > 1
        assert num_left == 0, f"ZeRO {stage}"
