"""The host waits for nothing within a step: it reads no value of a tensor, and rows are read ahead.

There is no GPU here. On one, each of the operators below would wait until it has done all its work.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from manta.config import ModelConfig, TrainConfig
from manta.data.dataset import Split
from manta.data.encode import write_encoded
from manta.labels import LabelSpace
from manta.model.adapt import compute_only_cls
from manta.model.encoder import build_model, load_tokenizer
from manta.model.loss import ClassificationLoss, TrainedClassifier
from manta_jobs.training.batches import WorkerRows, shares
from manta_jobs.training.distribution import MOST_PENDING_EVENTS, Stopwatch
from manta_jobs.training.engine.build import build_engine
from manta_jobs.training.engine.gpu_speedups import made_ahead, read_no_masks
from manta_jobs.training.start.seeds import seed_step

from ..processes import in_processes
from .test_updates import updates_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

THREE = LabelSpace(("a", "b", "c"), "multiclass")
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "equal", "is_nonzero"}
READING = {"tolist", "numpy", "cpu", "item", "__bool__", "__int__", "__float__"}


class Operators(TorchDispatchMode):
    """Record of operators that wait for a GPU."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket.__name__ in WAITING:
            self._seen.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


class Methods(TorchFunctionMode):
    """Record of a tensor's methods that wait for a GPU."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in READING:
            self._seen.append(function.__name__)
        return function(*args, **(kwargs or {}))


def steps_of_an_encoder(_rank: int, folder: str) -> None:
    found = {}
    for stage in (0, 2):
        config = TrainConfig(zero_stage=stage, precision="bf16", learning_rate=1e-3, num_epochs=1, focal_gamma=2.0)
        model: Any = build_model(ModelConfig(pretrained=f"{folder}/model", max_length=32), THREE)
        compute_only_cls(model)
        loss = ClassificationLoss(THREE, class_weights=np.ones(3), smoothing=0.1, focal_gamma=2.0)
        engine = build_engine(TrainedClassifier(model, loss), config, micro_batch_size=4, num_micro=2)
        engine.train()
        updates = updates_of(engine)
        ids = torch.randint(5, 30, (4, 12))
        padded = {"input_ids": ids, "attention_mask": (torch.arange(12) < torch.tensor([[12], [9], [5], [7]])).long()}
        whole = {"input_ids": ids}
        for number, reads in enumerate(([], found.setdefault(stage, []))):  # the first step of an engine sets things up
            with Operators(reads), Methods(reads):
                seed_step(0, step=number, rank=0)
                updates.set_rate(number)
                mean = torch.zeros(())
                for inputs in (padded, whole):
                    computed = engine(labels=torch.tensor([0, 1, 2, 0]), **inputs)["loss"]
                    engine.backward(computed)
                    mean += computed.detach() / 2
                    updates.reduce()
                    updates.make()
                updates.count(mean)
            read_no_masks()
        engine.destroy()
    torch.save(found, f"{folder}/0.pt")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_step_reads_nothing_back_at_zero_0_and_only_the_norm_at_others(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(tiny_model)
    (found,) = in_processes(steps_of_an_encoder, tmp_path, num_workers=1)
    assert found[0] == []
    # DeepSpeed looks whether the norm is finite, and for each of AdamW's two groups whether to clip.
    assert found[2] == 3 * ["__bool__", "_local_scalar_dense"]


@pytest.fixture
def rows(tiny_model: Path, tmp_path: Path) -> WorkerRows:
    config = TrainConfig(batch_size=8, learning_rate=1e-3, num_epochs=1)
    split = Split([f"parcel {'late ' * (number % 7)}{number}" for number in range(50)], np.arange(50) % 2)
    for name in ("train", "validation"):
        tokenizer = load_tokenizer(ModelConfig(pretrained=str(tiny_model), max_length=32))
        write_encoded(split, tmp_path / f"{name}.arrow", tokenizer=tokenizer, max_length=32)
    return WorkerRows(tmp_path, config, folds=None, fold=None, pad_id=0, device=torch.device("cpu"))


def test_rows_that_are_read_ahead_are_those_of_the_batches_in_their_order(
    rows: WorkerRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    batches = rows.batches.epoch(0)
    plain = list(rows.steps(batches, epoch=0, rank=1, world_size=2, num_micro=2))
    rows._is_on_gpu = True
    ahead = list(rows.steps(batches, epoch=0, rank=1, world_size=2, num_micro=2))
    assert len(plain) == len(ahead) == len(batches)
    num_masks = 0
    for batch, of_step, read in zip(batches, plain, ahead, strict=True):
        for share, left, right in zip(shares(batch, rank=1, world_size=2, num_micro=2), of_step, read, strict=True):
            assert np.array_equal(share.rows, right.share.rows)
            assert (share.weight, left.share.weight) == (right.share.weight, right.share.weight)
            padded = rows.train.padded(share.rows, pad_id=0)
            assert set(left.inputs) == set(padded)
            for name, tensor in right.inputs.items():
                assert np.array_equal(tensor.numpy(), padded[name])
                assert torch.equal(tensor, left.inputs[name])
            assert torch.equal(left.targets, right.targets)
            assert ("attention_mask" in right.inputs) == (not padded["attention_mask"].all())
            num_masks += "attention_mask" in right.inputs
    assert 0 < num_masks < 2 * len(batches)


def test_the_reading_thread_passes_errors_on_and_ends_when_it_is_no_longer_needed() -> None:
    before = threading.active_count()

    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the file is gone")

    items = made_ahead(broken())
    assert next(items) == 1
    with pytest.raises(OSError, match="the file is gone"):
        next(items)
    assert threading.active_count() == before
    endless = made_ahead(iter(int, 1))
    assert next(endless) == 0
    endless.close()
    assert threading.active_count() == before
    assert list(made_ahead(range(10))) == list(range(10))


class Event:
    """Stands where an event of a GPU does that is two calls behind the host."""

    now, num_waits = 0, 0

    def __init__(self, *, enable_timing: bool) -> None:
        self.at = 0

    def record(self) -> None:
        Event.now += 1
        self.at = Event.now

    def query(self) -> bool:
        return self.at < Event.now - 2

    def synchronize(self) -> None:
        Event.num_waits += not self.query()

    def elapsed_time(self, end: Event) -> float:
        return 1000.0 * (end.at - self.at)


def test_measuring_the_phases_waits_only_for_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    watch = Stopwatch(torch.device("cuda"))
    for _ in range(2 * MOST_PENDING_EVENTS):
        with watch("forward"):
            pass
    assert Event.num_waits == 0
    assert watch.seconds()["forward"] == 2 * MOST_PENDING_EVENTS
    assert Event.num_waits > 0
