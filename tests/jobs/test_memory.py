from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from manta.config import ModelConfig, TrainConfig
from manta.labels import LabelSpace
from manta.loss import ClassificationLoss, TrainedClassifier
from manta.model import build_model
from manta_jobs import memory
from manta_jobs.memory import bytes_per_row, choose_micro_batch_size

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
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    machine = memory.free_host_memory()
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert memory.free_host_memory() == pytest.approx(machine, rel=0.2)
    (tmp_path / "memory.max").write_text("5000\n")
    assert memory.free_host_memory() == 4000


def test_only_failed_allocations_are_out_of_memory() -> None:
    assert memory.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert memory.is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**48)
    assert memory.is_out_of_memory(caught.value)
    assert not memory.is_out_of_memory(RuntimeError("shapes do not match"))
