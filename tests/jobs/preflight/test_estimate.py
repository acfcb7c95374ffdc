"""The preflight's estimates of memory and time, and the probe that times some steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from manta.config import ExperimentConfig, ModelConfig
from manta.config.starting_point import methods_tried
from manta.errors import InputError
from manta.labels import LabelSpace
from manta.model.encoder import load_model_config
from manta_jobs.cluster.connection import WorkerResources
from manta_jobs.preflight import checks
from manta_jobs.preflight.estimate import (
    ModelSize,
    activation_bytes,
    estimate_memory,
    estimate_time,
    model_size,
)
from manta_jobs.preflight.probe import ProbeResult, ProbeSetup, measure, probe_batches
from manta_jobs.preflight.run import Placement, load_inputs
from manta_jobs.preflight.tokens import sample_tokens
from manta_jobs.training.few_rows.contrastive import BATCH_ROWS, NUM_STEPS

from ..conftest import experiment

if TYPE_CHECKING:
    from pathlib import Path

NODE = {"CPU": 4.0, "memory": 8e9}
MINILM = ModelSize(num_parameters=22_716_296, num_learning=22_716_296, num_layers=6, width=384, inner_width=1536, num_heads=12)

SPACE = {"model.dropout": {"uniform": [0.0, 0.4]}}


def config_of(data: Path | str = "sample:support", **sections: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"name": "tiny", "data": {"train": str(data)}, **sections})


# Memory


def memory_of(
    size: ModelSize = MINILM, *, workers: int = 2, available: int | None = int(8e9), tokens: int = 128, **train: Any
) -> Any:
    config = config_of(train={"num_workers": workers, "batch_size": 32, **train}).train
    return estimate_memory(config, size, num_tokens=tokens, world_size=workers, use_gpu=False, available=available)


def test_zero_splits_what_it_promises() -> None:
    weights = 4 * MINILM.num_parameters
    whole, one, two, three = (memory_of(zero_stage=stage) for stage in range(4))
    assert (whole.parameters, whole.gradients, whole.optimizer) == (weights, weights, 2 * weights)
    assert (one.gradients, one.optimizer) == (weights, 3 * weights // 2)  # moments and float32 copies, halved
    assert (two.gradients, two.parameters) == (weights // 2, weights)
    assert three.parameters == weights // 2
    assert [each.zero_stage for each in (whole, one, two, three)] == [0, 1, 2, 3]
    assert whole.needed > one.needed > two.needed > three.needed


def test_activations_grow_with_rows_and_tokens_and_shrink_with_checkpointing() -> None:
    assert memory_of(batch_size=64).activations == pytest.approx(2 * memory_of(batch_size=32).activations, rel=0.01)
    assert memory_of(tokens=512).activations > 4 * memory_of(tokens=128).activations
    assert memory_of(gradient_checkpointing=True).activations < 0.4 * memory_of().activations
    assert memory_of(micro_batch_size=4).micro_batch_size == 4


def test_the_counted_activations_are_about_those_that_a_pass_keeps(tiny_model: Path) -> None:
    import torch

    from manta.model.encoder import build_model
    from manta.model.loss import ClassificationLoss, TrainedClassifier
    from manta_jobs.training.engine.memory import bytes_per_row

    labels, config = LabelSpace(("a", "b", "c"), "multiclass"), ModelConfig(pretrained=str(tiny_model), max_length=32)
    model = TrainedClassifier(
        build_model(config, labels), ClassificationLoss(labels, class_weights=None, smoothing=0.0, focal_gamma=0.0)
    ).train()
    inputs = {"input_ids": torch.full((4, 30), 5), "attention_mask": torch.ones(4, 30, dtype=torch.long)}
    kept = bytes_per_row(model, inputs, torch.zeros(4, dtype=torch.long))
    size = model_size(load_model_config(config, labels), config)
    counted = activation_bytes(size, num_tokens=30, num_bytes=4, checkpointing=False)
    assert 0.6 < counted / kept < 1.7


def test_parameters_are_counted_from_the_file_and_from_the_architecture(tiny_model: Path) -> None:
    labels, config = LabelSpace(("a", "b", "c"), "multiclass"), ModelConfig(pretrained=str(tiny_model), max_length=32)
    model_config = load_model_config(config, labels)
    by_file = model_size(model_config, config)
    by_model = model_size(model_config, config.model_copy(update={"freeze_layers": 1}))
    assert by_file.num_parameters == pytest.approx(by_model.num_parameters, rel=0.02)
    assert by_model.num_learning < by_model.num_parameters
    with pytest.raises(InputError, match=r"model.freeze_layers is 9, but .* has 2 layers"):
        model_size(model_config, config.model_copy(update={"freeze_layers": 9}))


def test_a_damaged_weights_file_is_named(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((tiny_model / "model.safetensors").read_bytes()[:1000])
    config = ModelConfig(pretrained=str(tmp_path), max_length=32)
    with pytest.raises(InputError, match=r"model\.safetensors is not a whole file of weights"):
        model_size(load_model_config(config, LabelSpace(("a", "b"), "binary")), config)


def test_memory_that_is_not_there() -> None:
    assert checks.check_memory(memory_of(), available=int(8e9)).status == "OK"
    assert "manta preflight" in checks.check_memory(memory_of(available=None), available=None).words
    tight = memory_of(available=int(1.5e9), micro_batch_size=16)
    assert checks.check_memory(tight, available=int(1.5e9)).status == "warning"
    none = checks.check_memory(memory_of(available=int(5e8), zero_stage=2), available=int(5e8))
    assert none.status == "cannot work"
    assert "Not even one row at a time fits; raise train.zero_stage or train.num_workers on more nodes" in none.words
    for highest in ({"zero_stage": 3}, {}):
        none = checks.check_memory(memory_of(available=int(5e8), **highest), available=int(5e8))
        assert "Not even one row at a time fits; raise train.num_workers on more nodes" in none.words


def test_the_stage_is_said_with_its_reason_where_it_is_auto() -> None:
    def said(available: int | None, **settings: Any) -> str:
        return checks.check_memory(memory_of(available=available, **settings), available=available).words

    assert " at ZeRO 0 (auto: everything fits each worker), of 8.0 GB on its CPU." in said(int(8e9))
    assert " at ZeRO 2 (auto: it fits with optimizer state and gradients split), of" in said(int(1.35e9))
    assert " at ZeRO 0 (auto: one worker has nothing to split), of" in said(int(8e9), workers=1)
    assert " at ZeRO 0 (auto: the workers take a higher one if this does not fit); a GPU's memory is looked at" in said(None)
    assert "ZeRO" not in said(int(8e9), zero_stage=2)


def test_the_workers_of_a_node_share_its_memory() -> None:
    worker = WorkerResources(num_cpus=2, use_gpu=False)
    nodes = [{"CPU": 4.0, "memory": 6e9, "object_store_memory": 2e9}, {"CPU": 2.0, "memory": 3e9}, {"memory": 1.0}]
    assert Placement(nodes, worker, world_size=3, at_once=None).available_bytes() == 3_000_000_000
    assert Placement(nodes[:1], worker, world_size=1, at_once=None).available_bytes() == 8_000_000_000
    assert Placement(nodes[:1], worker, world_size=1, at_once=2).available_bytes() == 4_000_000_000
    assert Placement(nodes, WorkerResources(1, use_gpu=True), world_size=3, at_once=None).available_bytes() is None


# Time


PACE = ProbeResult(
    startup_s=10.0, train_s_per_row=0.02, update_s=0.1, evaluation_s_per_row=0.01, num_rows=9, device="CPU", device_bytes=None
)


def time_of(config: ExperimentConfig, *, at_once: int | None, num_folds: int = 0) -> Any:
    return estimate_time(
        config,
        PACE,
        num_train_rows=1000,
        num_validation_rows=100,
        num_folds=num_folds,
        tried=methods_tried(config.train.method),
        world_size=2,
        runs_at_once=at_once,
    )


def test_time_and_cost_follow_from_the_pace() -> None:
    train = {"method": "full", "num_workers": 2, "batch_size": 100, "num_epochs": 2, "cost_per_hour": 3.6}
    epoch_s = 10 * 0.1 + 1000 * 0.02 / 2 + 100 * 0.01 / 2
    head_s = 1000 * 0.01 / 2
    alone = time_of(config_of(train=train), at_once=None)
    assert alone.run_s == pytest.approx(10 + head_s + 2 * epoch_s)
    assert alone.run_cost == pytest.approx(alone.run_s * 2 * 3.6 / 3600)
    assert alone.search_s is None
    crossed = time_of(config_of(train=train), at_once=None, num_folds=3)  # each of the folds trains on two thirds of the rows
    assert crossed.run_s == pytest.approx(10 + 3 * head_s + 2 * (3 * (10 * 0.1 + 1000 * 0.02 / 2) + 100 * 0.01 / 2))
    embed_s = (1000 + 100) * 0.01
    assert time_of(config_of(train=train | {"method": "linear"}), at_once=None).run_s == pytest.approx(10 + embed_s)
    both = time_of(config_of(train=train | {"method": "auto"}), at_once=None)
    assert both.run_s == pytest.approx(10 + embed_s + NUM_STEPS * BATCH_ROWS * 0.02 + embed_s)
    adapted = time_of(config_of(train=train | {"method": "contrastive"}), at_once=None, num_folds=3)
    assert adapted.run_s == pytest.approx(10 + 4 * (NUM_STEPS * BATCH_ROWS * 0.02 + 1000 * 0.01))
    config = config_of(train=train, tune={"space": SPACE, "budget": {"num_trials": 5}, "confirm": {"top_k": 1, "seeds": 3}})
    search = time_of(config, at_once=2)
    assert search.search_s == pytest.approx((3 + 3) * alone.run_s)
    assert search.search_cost == pytest.approx((5 + 3 * 2) * alone.run_cost)
    few_rows = config.with_values({"train.method": "auto"})
    assert time_of(few_rows, at_once=2).search_s == pytest.approx(search.search_s + both.run_s - 10)  # these start no workers
    assert time_of(few_rows.with_values({"tune.budget.wall_clock_s": 599.0}), at_once=2).search_s == search.search_s
    limited = config.with_values({"tune.budget.wall_clock_s": 30.0})
    assert time_of(limited, at_once=2).search_s == 30.0
    longer = config.with_values({"tune.space": {"train.num_epochs": {"choice": [1, 9]}}})
    assert time_of(longer, at_once=2).search_s == pytest.approx(6 * (10 + head_s + 9 * epoch_s))
    words = checks.check_time(search, PACE, config).words
    linear = checks.check_time(alone, PACE, config.with_values({"train.method": "linear"})).words
    assert linear.endswith("(a worker on CPU embeds 100 rows a second).")
    assert "which costs" in words
    assert "50 rows a second" in words


def test_the_probe_takes_real_steps(three_classes: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task's own work, in this process."""
    import time

    monkeypatch.setattr("manta_jobs.preflight.probe.TRAIN_S", 0.2)
    monkeypatch.setattr("manta_jobs.preflight.probe.EVALUATION_S", 0.1)
    inputs = load_inputs(experiment(three_classes, tiny_model))
    sample = sample_tokens(inputs.dataset.train, inputs.tokenizer)
    batches = probe_batches(inputs.config, sample)
    assert {len(batch.targets) for batch in batches} == {8}  # each of two workers' share of 16
    pace = measure(ProbeSetup(inputs.config, inputs.dataset.labels, batches, 1, time.time()))
    assert pace.num_rows >= 8
    assert min(pace.train_s_per_row, pace.update_s, pace.evaluation_s_per_row, pace.startup_s) > 0
    assert pace.train_s_per_row < 1
    assert (pace.device, pace.device_bytes) == ("CPU", None)
