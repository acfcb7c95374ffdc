from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from manta.config import ModelConfig, TrainConfig
from manta.labels import LabelSpace
from manta.model.encoder import build_model
from manta.model.loss import ClassificationLoss, TrainedClassifier
from manta_jobs.cluster import connection
from manta_jobs.training.checkpoints import TrainingState
from manta_jobs.training.engine import memory
from manta_jobs.training.engine.memory import (
    Room,
    agreed_micro_batch_size,
    agreed_zero_stage,
    bytes_per_row,
    choose_micro_batch_size,
    choose_zero_stage,
    stage_reason,
)

if TYPE_CHECKING:
    from pathlib import Path

LABELS = LabelSpace(("a", "b", "c"), "multiclass")
MIB = 1024**2


def chosen(free_mib: float, *, world_size: int = 1, limit: int | None = None, **settings: Any) -> int:
    config = TrainConfig(batch_size=64, **settings)
    return choose_micro_batch_size(config, row_bytes=10 * MIB, free_bytes=int(free_mib * MIB), world_size=world_size, limit=limit)


def test_auto_takes_the_most_that_fits_and_never_more_than_the_share_of_a_batch() -> None:
    assert chosen(100_000) == 64
    assert chosen(100_000, world_size=3) == 22
    assert chosen(500) == int(500 * memory.USABLE_SHARE / 10 / memory.BACKWARD_FACTOR) == 28
    assert chosen(0) == 1


def test_a_given_size_is_kept_within_the_share() -> None:
    assert chosen(1, micro_batch_size=16) == 16
    assert chosen(1, micro_batch_size=500, world_size=2) == 32


def test_after_running_out_of_memory_the_limit_holds_for_both() -> None:
    assert chosen(100_000, limit=8) == 8
    assert chosen(100_000, limit=8, micro_batch_size=16) == 8


def room(available_mib: float | None, *, world_size: int = 2, on_gpu: bool = True) -> Room:
    """Of a model of 100 MiB, all of which learns; a row keeps 10 MiB."""
    available = None if available_mib is None else int(available_mib * MIB)
    return Room(100 * MIB, 100 * MIB, row=10 * MIB, available=available, world_size=world_size, on_gpu=on_gpu)


def test_one_worker_splits_nothing_however_little_memory_there_is() -> None:
    assert [choose_zero_stage(TrainConfig(), room(mib, world_size=1)) for mib in (10_000, 100, None)] == [0, 0, 0]


def test_several_workers_split_no_more_than_they_must() -> None:
    # Weights, gradients, moments with copies of two workers, and buffers, in units of 100 MiB, and 15 MiB for a row.
    needs = [4 + 1 + 0.15, 2 + 1.5 + 0.25 + 0.15, 1 + 0.5 + 1.5 + 0.25 + 0.15, 0.5 + 0.5 + 1.5 + 0.5 + 0.15]
    config = TrainConfig()
    for stage, need in enumerate(needs):
        enough = 100 * need / memory.USABLE_SHARE
        assert choose_zero_stage(config, room(enough + 1)) == stage
        assert choose_zero_stage(config, room(enough - 1)) == min(stage + 1, 3)
    assert choose_zero_stage(config, room(None)) == 0


def test_on_a_cpu_there_is_room_for_a_checkpoints_copies() -> None:
    only_a_row, with_copies = ((4 + peak) * 100 / memory.USABLE_SHARE + 1 for peak in (0.15, 3))
    assert choose_zero_stage(TrainConfig(), room(only_a_row, on_gpu=False)) > 0
    assert choose_zero_stage(TrainConfig(), room(with_copies, on_gpu=False)) == 0


def test_a_given_stage_is_kept_and_offloading_has_auto_begin_higher() -> None:
    assert choose_zero_stage(TrainConfig(zero_stage=2), room(10_000, world_size=1)) == 2
    for settings, stage in (({"offload_optimizer": True}, 1), ({"offload_parameters": True}, 3)):
        assert [choose_zero_stage(TrainConfig(**settings), room(10_000, world_size=size)) for size in (1, 2)] == [stage, stage]
    # What is offloaded takes no room on a GPU.
    tight = room(100 * 2.4 / memory.USABLE_SHARE + 1)
    assert choose_zero_stage(TrainConfig(), tight) == 3
    assert choose_zero_stage(TrainConfig(offload_optimizer=True), tight) == 1


def test_the_reason_is_said_where_it_is_auto() -> None:
    said = {stage: stage_reason(TrainConfig(), stage, world_size=2) for stage in range(4)}
    assert said[0] == "everything fits each worker"
    assert said[2] == "it fits with optimizer state and gradients split"
    assert stage_reason(TrainConfig(), 0, world_size=1) == "one worker has nothing to split"
    assert stage_reason(TrainConfig(offload_optimizer=True), 1, world_size=1) == "train.offload_optimizer needs 1 or more"
    assert stage_reason(TrainConfig(zero_stage=0), 0, world_size=2) == ""


def test_the_worker_with_the_least_memory_decides_and_a_resumed_run_keeps_its_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "of_all_workers", lambda mine: [mine, 2])
    config, roomy = TrainConfig(), room(10_000)
    assert agreed_zero_stage(config, roomy, before=TrainingState()) == (2, "it fits with optimizer state and gradients split")
    assert agreed_zero_stage(config, roomy, before=TrainingState(world_size=2, zero_stage=1)) == (1, "")
    # With another number of workers it is a choice anew, and what the config says goes first.
    assert agreed_zero_stage(config, roomy, before=TrainingState(world_size=3, zero_stage=1))[0] == 2
    monkeypatch.setattr(memory, "of_all_workers", lambda mine: [mine])
    assert agreed_zero_stage(TrainConfig(zero_stage=3), roomy, before=TrainingState(world_size=2, zero_stage=1)) == (3, "")


def test_a_resumed_run_keeps_the_rows_that_it_computed_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "of_all_workers", lambda mine: [mine])

    def size(available_mib: float, *, limit: int | None = None, **before: int) -> int:
        state, config = TrainingState(**before), TrainConfig(batch_size=64)
        return agreed_micro_batch_size(config, room(available_mib), zero_stage=0, before=state, limit=limit)

    roomy, tight = size(10_000), size(800)
    assert tight < roomy == 32
    assert size(10_000, world_size=2, micro_batch_size=tight) == tight
    assert size(800, world_size=2, micro_batch_size=roomy) == roomy
    assert size(10_000, world_size=3, micro_batch_size=tight) == roomy  # of another number of workers
    assert size(10_000, world_size=2, micro_batch_size=tight, limit=2) == 2


def measured(tiny_model: Path, *, rows: int, tokens: int, checkpointing: bool = False) -> int:
    model: Any = build_model(ModelConfig(pretrained=str(tiny_model), max_length=32), LABELS)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    classifier = TrainedClassifier(model, ClassificationLoss(LABELS, class_weights=None, smoothing=0.0, focal_gamma=0.0)).train()
    inputs = {"input_ids": torch.full((rows, tokens), 5), "attention_mask": torch.ones(rows, tokens, dtype=torch.long)}
    return bytes_per_row(classifier, inputs, torch.zeros(rows, dtype=torch.long))


def test_activations_are_counted_by_row_and_grow_with_the_tokens(tiny_model: Path) -> None:
    one = measured(tiny_model, rows=1, tokens=30)
    assert measured(tiny_model, rows=8, tokens=30) == pytest.approx(one, rel=0.1)
    assert measured(tiny_model, rows=1, tokens=10) < 0.5 * one
    # At least what two layers of width 32 must keep for 30 tokens.
    assert one > 2 * 30 * 32 * 4


def test_gradient_checkpointing_keeps_less(tiny_model: Path) -> None:
    assert measured(tiny_model, rows=4, tokens=30, checkpointing=True) < 0.6 * measured(tiny_model, rows=4, tokens=30)


def test_a_container_with_less_memory_than_the_machine_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CGROUP", tmp_path)
    machine = connection.free_host_memory()
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert connection.free_host_memory() == pytest.approx(machine, rel=0.2)
    (tmp_path / "memory.max").write_text("5000\n")
    assert connection.free_host_memory() == 4000


def test_only_failed_allocations_are_out_of_memory() -> None:
    assert memory.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert memory.is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**48)
    assert memory.is_out_of_memory(caught.value)
    assert not memory.is_out_of_memory(RuntimeError("shapes do not match"))
