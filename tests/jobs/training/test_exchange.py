"""The exchange of gradients by a real engine: its type and size at each ZeRO stage, its moment, and its buffers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist

from manta.config import TrainConfig
from manta.errors import InputError
from manta_jobs.training.engine import memory
from manta_jobs.training.engine.build import deepspeed_config
from manta_jobs.training.engine.memory import FLOAT32, Room, bucket_size, buffer_bytes

from ..processes import in_processes
from .engines import STAGES, engine_of, rows_of
from .test_updates import updates_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXCHANGES = ("all_reduce", "reduce")
BUCKET = 600
"""Numbers of two of the eight layers."""
AS_ON_GPUS = {
    "overlap_comm": True,
    "contiguous_gradients": True,
    "reduce_bucket_size": BUCKET,
    "stage3_param_persistence_threshold": 0,
}
NUM_NUMBERS = 8 * (16 * 16 + 16)


class Spy:
    """Record of each exchange of more than one number, with how many gradients were there when it began."""

    def __init__(self, engine: Any, patched: pytest.MonkeyPatch) -> None:
        from deepspeed.comm import comm

        self.seen: list[tuple[torch.dtype, int, int]] = []
        self.num_gradients, self.most_gathered, self.most_buffered = 0, 0, 0
        self._buckets = getattr(engine.optimizer, "ipg_buckets", {})
        self._parameters = list(engine.module.parameters())
        for parameter in self._parameters:
            parameter.register_post_accumulate_grad_hook(self._count)
        for name in EXCHANGES:
            patched.setattr(dist, name, self._recorded(getattr(dist, name)))
        # DeepSpeed keeps a reference to torch's function.
        patched.setattr(comm.cdb, "reduce_scatter_function", self._recorded(comm.cdb.reduce_scatter_function))

    def _count(self, _parameter: torch.Tensor) -> None:
        self.num_gradients += 1
        self.most_gathered = max(self.most_gathered, sum(parameter.numel() for parameter in self._parameters))
        held = [bucket.buffer if isinstance(bucket.buffer, list) else [bucket.buffer] for bucket in self._buckets.values()]
        buffers = [buffer for several in held for buffer in several if buffer is not None]
        self.most_buffered = max(self.most_buffered, sum(buffer.nbytes for buffer in buffers))

    def _recorded(self, exchange: Any) -> Any:
        def recorded(*given: Any, **named: Any) -> Any:
            largest = max((value for value in (*given, *named.values()) if isinstance(value, torch.Tensor)), key=torch.numel)
            if largest.numel() > 1:
                self.seen.append((largest.dtype, largest.numel(), self.num_gradients))
            return exchange(*given, **named)

        return recorded


def one_step(engine: Any) -> Spy:
    """Make a step with a spy."""
    updates = updates_of(engine)
    with pytest.MonkeyPatch.context() as patched:
        spy = Spy(engine, patched)
        engine.backward(engine(rows_of(dist.get_rank())))
        updates.reduce()
        updates.make()
    return spy


def cases() -> Iterator[tuple[int, str, str]]:
    for stage in STAGES:
        for precision, exchange in (("bf16", "fp32"), ("bf16", "bf16"), ("fp32", "bf16"), ("fp16", "fp32")):
            yield stage, precision, exchange


def exchanged(rank: int, folder: str) -> None:
    found: dict[Any, Any] = {}
    for stage, precision, exchange in cases():
        engine = engine_of(stage, precision=precision, gradient_exchange=exchange)
        found[stage, precision, exchange] = one_step(engine).seen
        engine.destroy()
    for stage in STAGES[1:]:
        engine = engine_of(stage, deepspeed={"zero_optimization": AS_ON_GPUS})
        one_step(engine)  # ZeRO 3 plans its gathering with the first
        spy = one_step(engine)
        found["buffers", stage] = spy.most_buffered
        found["moments", stage] = [number for _, _, number in spy.seen]
        found["gathered", stage] = spy.most_gathered
        engine.destroy()
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_gradients_travel_as_set_while_others_are_computed_and_buffers_are_those_counted(tmp_path: Path) -> None:
    found, _ = in_processes(exchanged, tmp_path, num_workers=2)
    for stage, precision, exchange in cases():
        name = f"ZeRO {stage}, {precision}, exchanged in {exchange}"
        types = {dtype for dtype, _, _ in found[stage, precision, exchange]}
        assert types == {torch.float32 if exchange == "fp32" else torch.bfloat16}, name
        assert sum(numel for _, numel, _ in found[stage, precision, exchange]) >= NUM_NUMBERS, name
    for stage in (1, 2):
        assert found["moments", stage][0] < 8, f"at ZeRO {stage} the first exchange begins after {found['moments', stage][0]} of 16"
    room = Room(NUM_NUMBERS * FLOAT32, NUM_NUMBERS * FLOAT32, row=1, available=None, world_size=2, on_gpu=True)
    config = TrainConfig(deepspeed={"zero_optimization": AS_ON_GPUS})
    for stage in (1, 2):
        assert found["buffers", stage] == buffer_bytes(config, room, zero_stage=stage)
    assert found["gathered", 3] < 0.7 * NUM_NUMBERS  # by DeepSpeed's defaults all of them
    assert found["buffers", 3] + FLOAT32 * found["gathered", 3] <= buffer_bytes(config, room, zero_stage=3)
    in_one = [numel for _, numel, _ in found[0, "bf16", "bf16"]]
    assert in_one == [NUM_NUMBERS]  # what `buffer_bytes` counts at ZeRO 0


def test_the_bucket_is_a_part_of_the_model_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    num_learning = 110_000_000
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    document = deepspeed_config(TrainConfig(zero_stage=2), num_learning=num_learning, micro_batch_size=8, num_micro=1)
    assert document["zero_optimization"]["reduce_bucket_size"] == num_learning // memory.NUM_BUCKETS
    assert document["zero_optimization"]["overlap_comm"]
    assert bucket_size(TrainConfig(), 1000) == memory.SMALLEST_BUCKET
    given = TrainConfig(deepspeed={"zero_optimization": {"reduce_bucket_size": 5000}})
    assert bucket_size(given, num_learning) == 5000
    room = Room(num_learning * FLOAT32, num_learning * FLOAT32, row=1, available=None, world_size=8, on_gpu=True)
    with_buffers = memory.held_bytes(TrainConfig(), room, zero_stage=2)
    assert with_buffers.buffers == 2 * FLOAT32 * (num_learning // 8)
    assert with_buffers.total > memory.held_bytes(given, room, zero_stage=2).total


def test_the_type_of_the_exchange_has_one_setting() -> None:
    with pytest.raises((ValueError, InputError), match=r"communication_data_type contradicts train\.gradient_exchange"):
        TrainConfig(deepspeed={"communication_data_type": "bf16"})
