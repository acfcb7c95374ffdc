"""Each of the preflight's checks and estimates, where it holds and where it does not."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from manta.config import DataConfig, ExperimentConfig, ModelConfig
from manta.config.starting_point import methods_tried
from manta.data import TextDataset, load_dataset
from manta.errors import InputError
from manta.labels import LabelSpace
from manta.model.encoder import load_model_config
from manta.storage.folders import Storage
from manta_jobs.cluster.autoscaling import Growth
from manta_jobs.cluster.connection import Cluster, WorkerResources
from manta_jobs.preflight import checks
from manta_jobs.preflight.checks import Check
from manta_jobs.preflight.estimate import (
    ModelSize,
    activation_bytes,
    checkpoint_bytes,
    estimate_memory,
    estimate_time,
    model_size,
    run_disk_bytes,
)
from manta_jobs.preflight.probe import ProbeResult, ProbeSetup, measure, probe_batches
from manta_jobs.preflight.run import Placement, load_inputs
from manta_jobs.preflight.tokens import TokenSample, histogram, sample_tokens
from manta_jobs.training.few_rows.contrastive import BATCH_ROWS, NUM_STEPS

from ..conftest import experiment

if TYPE_CHECKING:
    from pathlib import Path

NODE = {"CPU": 4.0, "memory": 8e9}
MINILM = ModelSize(num_parameters=22_716_296, num_learning=22_716_296, num_layers=6, width=384, inner_width=1536, num_heads=12)

SPACE = {"model.dropout": {"uniform": [0.0, 0.4]}}


def config_of(data: Path | str = "sample:support", **sections: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"name": "tiny", "data": {"train": str(data)}, **sections})


@pytest.fixture(scope="module")
def support() -> TextDataset:
    return load_dataset(DataConfig(train="sample:support"))


def with_counts(dataset: TextDataset, counts: dict[int, int]) -> TextDataset:
    """The same, with so many training rows of each label."""
    rows = [row for label, count in counts.items() for row in (dataset.train.targets == label).nonzero()[0][:count]]
    return dataclasses.replace(
        dataset, train=dataset.train.take(rows), labels=LabelSpace(dataset.labels.names[: len(counts)], "multiclass")
    )


# Data


def test_rows_are_counted_and_what_is_odd_is_said(support: TextDataset) -> None:
    assert checks.check_data(support) == Check("data", "OK", "1,462 train, 208 validation, 417 test rows.")
    odd = dataclasses.replace(support, warnings=("some rows are strange.",))
    assert checks.check_data(odd) == Check("data", "warning", "1,462 train, 208 validation, 417 test rows. some rows are strange.")
    few = dataclasses.replace(support, validation=support.validation.take(range(20)))  # type: ignore[arg-type]
    assert "20 validation rows compare trials and calibrate by chance: one is 5.0 points" in checks.check_data(few).words
    crossed = dataclasses.replace(few, folds=np.arange(len(few.train)) % 3)
    assert checks.check_data(crossed) == Check("data", "OK", "1,462 train (cross-validated in 3 folds), 417 test rows.")


def test_rare_labels_and_uneven_ones_are_named(support: TextDataset) -> None:
    even = checks.check_labels(support, config_of())
    assert (even.status, "8 labels (multiclass)" in even.words) == ("OK", True)
    uneven = with_counts(support, {0: 150, 1: 12, 2: 5})
    said = checks.check_labels(uneven, config_of())
    assert said.status == "warning"
    assert "1 label has fewer than 10 rows" in said.words
    assert "1 to 30 is so uneven" in said.words
    assert "train.metric: f1_macro" in said.words
    weighted = checks.check_labels(uneven, config_of(train={"class_weights": "balanced"}))
    assert "uneven" not in weighted.words


def test_equal_labels_have_no_most_and_no_fewest(support: TextDataset) -> None:
    equal = checks.check_labels(with_counts(support, {0: 12, 1: 12, 2: 12}), config_of())
    assert equal == Check("labels", "OK", "3 labels (multiclass): every class has 12 training rows.")


# Tokens


def sample_of(*lengths: int, num_rows: int | None = None) -> TokenSample:
    import numpy as np

    return TokenSample([[7] * length for length in lengths], np.zeros(len(lengths), dtype=np.int64), 0, num_rows or len(lengths))


def test_texts_that_are_cut_are_a_warning() -> None:
    sample = sample_of(*range(10, 110))
    fine = checks.check_tokens(sample, max_length=128, data=DataConfig(train="rows.csv"))
    assert (fine.status, "cuts 0.0%." in fine.words) == ("OK", True)
    cut = checks.check_tokens(sample, max_length=59, data=DataConfig(train="rows.csv"))
    assert cut.status == "warning"
    assert "model.max_length 59 cuts 50.0%" in cut.words
    assert "104 would keep 95% of the texts whole" in cut.words
    # of step 43: 50 texts have one window, 43 two and 7 three
    assert "data.long_texts: windows would read all of each text: 1.6 windows a text" in cut.words
    read = checks.check_tokens(sample, max_length=59, data=DataConfig(train="rows.csv", long_texts="windows"))
    assert read.status == "OK"
    assert "reads in windows 50.0%. That is 1.6 windows a text on average" in read.words
    every = checks.check_tokens(dataclasses.replace(sample, num_rows=5000), max_length=4, data=DataConfig(train="rows.csv"))
    assert "cuts 100.0% (of 100 sampled rows)" in every.words
    assert (sample.longest(59), sample.longest(500)) == (59, 109)


def test_bars_are_as_high_as_lengths_are_frequent() -> None:
    import numpy as np

    assert histogram(np.array([3])) == "3 █ 3"
    assert histogram(np.array([3, 4, 4, 6])) == "3 ▅█ ▅ 6"
    assert len(histogram(np.arange(5, 500))) == len("5 ") + 12 + len(" 499")


def test_a_sample_has_the_models_own_lengths(support: TextDataset, tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    sample = sample_tokens(support.train, tokenizer, most=100)
    assert (len(sample.ids), sample.num_rows) == (100, 1462)
    assert sample.ids[0] == tokenizer(support.train.texts[0])["input_ids"]
    assert sample.ids[-1] == tokenizer(support.train.texts[-1])["input_ids"]
    batch = sample.padded(sample.lengths.argsort()[-3:], max_length=6)
    assert {name: values.shape for name, values in batch.items()} == {"input_ids": (3, 6), "attention_mask": (3, 6)}


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


# The cluster


def test_workers_that_fit_and_that_never_do() -> None:
    check, resources = checks.check_workers(config_of(train={"num_workers": 2, "use_gpu": False}), Cluster([NODE, NODE]))
    assert (check.status, resources) == ("OK", WorkerResources(num_cpus=4, use_gpu=False))
    assert check.words == "2 workers with 4 CPU each; the cluster has 8 CPU on 2 nodes."
    check, resources = checks.check_workers(config_of(train={"num_workers": 9, "cpus_per_worker": 1}), Cluster([NODE, NODE]))
    assert (check.status, resources) == ("cannot work", None)
    assert "lower train.num_workers" in check.words
    check, _ = checks.check_workers(config_of(train={"num_workers": 2, "use_gpu": True}), Cluster([NODE | {"GPU": 1.0}]))
    assert (check.status, "the cluster has 1" in check.words) == ("cannot work", True)
    check, _ = checks.check_workers(config_of(train={"num_workers": [2, 9], "cpus_per_worker": 1}), Cluster([NODE]))
    assert (check.status, "Only 4 fit" in check.words) == ("OK", True)


def test_a_cluster_that_others_use_is_a_warning() -> None:
    config = config_of(train={"num_workers": 2, "cpus_per_worker": 1, "use_gpu": False})
    assert checks.check_workers(config, Cluster([NODE], free={"CPU": 2.0}))[0].status == "OK"
    check, _ = checks.check_workers(config, Cluster([NODE], free={"CPU": 1.0}))
    assert (check.status, "the run will wait for CPU" in check.words) == ("warning", True)


def test_a_cluster_that_grows_says_how_far_and_that_the_run_waits() -> None:
    living, gpus = [{"CPU": 0.0}], [{"CPU": 4.0, "GPU": 1.0}] * 2
    known = Cluster(living, free={}, growth=Growth([*living, *gpus], is_known=True))
    check, resources = checks.check_workers(config_of(train={"num_workers": 2}), known)
    assert (check.status, resources) == ("OK", WorkerResources(num_cpus=1, use_gpu=True, most=2))
    assert check.words == (
        "2 workers with 1 CPU and 1 GPU each; the cluster has 0 CPU and 0 GPU on 1 node and can grow to 8 CPU and 2 GPU on 3 "
        "nodes. The run will wait for them."
    )
    check, _ = checks.check_workers(config_of(train={"num_workers": 3}), known)
    assert (check.status, "but the cluster can grow to 2" in check.words) == ("cannot work", True)
    grown = Cluster([*living, *gpus], free={"CPU": 8.0}, growth=known.growth)
    check, _ = checks.check_workers(config_of(train={"num_workers": 2}), grown)
    assert (check.status, "the run will wait for GPU" in check.words) == ("warning", True)


def test_where_nobody_tells_what_the_autoscaler_starts_the_table_says_so() -> None:
    living = [{"CPU": 0.0}]
    unknown = Cluster(living, free={}, growth=Growth([*living, {"CPU": 1.0}], is_known=False))
    check, resources = checks.check_workers(config_of(train={"num_workers": 1}), unknown)
    assert (check.status, resources) == ("warning", WorkerResources(num_cpus=1, use_gpu=False))
    assert "an autoscaler that starts nodes but does not tell which" in check.words
    assert check.words.endswith("Set train.use_gpu: true if some of them would have a GPU.")
    check, _ = checks.check_workers(config_of(train={"num_workers": 1, "use_gpu": False}), unknown)
    assert check.status == "OK"


def search_of(config: ExperimentConfig) -> tuple[Check, int]:
    _, resources = checks.check_workers(config, Cluster([NODE]))
    assert resources is not None
    return checks.check_search(config, [NODE], resources)


def test_trials_run_as_many_at_a_time_as_fit() -> None:
    tune = {"budget": {"num_trials": 16}}
    check, at_once = search_of(config_of(train={"num_workers": 2, "cpus_per_worker": 1}, tune=tune))
    assert (check.status, at_once) == ("OK", 2)
    assert "16 trials, 2 at the same time, and up to 9 runs that confirm the best." in check.words
    check, at_once = search_of(config_of(train={"num_workers": 2}, tune=tune))
    assert (at_once, "More run at once with train.cpus_per_worker: 1." in check.words) == (1, True)


# Disk and registry


def test_disk_for_one_run_and_for_a_search(tmp_path: Path) -> None:
    storage, config = Storage(tmp_path / "not" / "yet"), config_of()
    assert checks.check_disk(config, storage, MINILM, at_once=None).status == "OK"
    assert not storage.root.exists()
    refused = checks.check_disk(config, storage, MINILM, at_once=None, free_bytes=10_000_000)
    assert refused.status == "cannot work"
    assert "10 MB free" in refused.words
    assert "MANTA_STORAGE" in refused.words
    enough_for_some = 4 * run_disk_bytes(MINILM)
    assert checks.check_disk(config, storage, MINILM, at_once=None, free_bytes=enough_for_some).status == "OK"
    search = checks.check_disk(config, storage, MINILM, at_once=2, free_bytes=enough_for_some)
    assert (search.status, "tune.budget.num_trials" in search.words) == ("warning", True)
    assert checks.check_disk(config, storage, MINILM, at_once=5, free_bytes=enough_for_some).status == "cannot work"


def test_a_checkpoint_is_three_float32_copies() -> None:
    assert checkpoint_bytes(MINILM) == 12 * MINILM.num_parameters
    assert checkpoint_bytes(dataclasses.replace(MINILM, num_learning=0)) == 4 * MINILM.num_parameters


def test_the_registry_answers_or_is_named(own_storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.check_registry(Storage(own_storage)).status == "OK"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    check = checks.check_registry(Storage(own_storage))
    assert (check.status, "no MLflow server answers" in check.words) == ("cannot work", True)


def test_an_object_store_is_written_to_from_all_nodes_and_has_no_registry(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check = checks.check_object_store(bucket, strangers=[], num_nodes=1)
    assert (check.status, check.words) == ("OK", f"{bucket} can be written.")
    assert checks.check_object_store(bucket, strangers=[], num_nodes=3).words == f"{bucket} can be written from all 3 nodes."
    denied = checks.check_object_store(bucket, strangers=["10.0.0.2:7"], num_nodes=3)
    assert (denied.status, "but not from 10.0.0.2:7; give all 3 nodes" in denied.words) == ("cannot work", True)
    missing = checks.check_object_store(f"{bucket}-not", strangers=[], num_nodes=1)
    assert (missing.status, "bucket does not exist" in missing.words) == ("cannot work", True)
    registry = checks.check_registry(Storage.resolve(bucket))
    assert (registry.status, "set MLFLOW_TRACKING_URI" in registry.words) == ("cannot work", True)
    disk = checks.check_disk(config_of(), Storage.resolve(bucket), MINILM, at_once=None, free_bytes=10_000_000)
    assert "set MANTA_CACHE to a larger disk" in disk.words


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


def test_a_search_with_few_rows_for_each_label_names_the_methods_beside_it() -> None:
    said = checks.check_searched_method(1499, 10)
    assert said.status == "OK"
    assert "With 149 training rows for each label, the methods linear and contrastive are likely to answer better" in said.words


def test_a_grid_that_the_budget_cuts_is_told() -> None:
    space = {"model.dropout": {"choice": [0.0, 0.1, 0.2]}, "train.batch_size": {"choice": [16, 32]}}
    config = config_of(tune={"space": space, "search": "grid", "budget": {"num_trials": 5}})
    said, _ = checks.check_search(config, [NODE], WorkerResources(num_cpus=1, use_gpu=False))
    assert said.status == "warning"
    assert "The grid has 6 combinations, and tune.budget.num_trials leaves room for 4" in said.words
    whole, _ = checks.check_search(
        config.with_values({"tune.budget.num_trials": 7}), [NODE], WorkerResources(num_cpus=1, use_gpu=False)
    )
    assert whole.status == "OK"


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


def test_an_earlier_head_that_is_left_out_is_said(tmp_path: Path, tiny_model: Path, support: TextDataset) -> None:
    import json

    document = json.loads((tiny_model / "config.json").read_text())
    document |= {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "bad", "1": "good"}}
    (tmp_path / "config.json").write_text(json.dumps(document))
    config = config_of(model={"pretrained": str(tmp_path)})
    said = checks.check_head(config, support.labels)
    assert [(check.name, check.status) for check in said] == [("head", "OK")]
    assert "other labels (bad, good) before: its head is left out" in said[0].words
    assert checks.check_head(config_of(model={"pretrained": str(tiny_model)}), support.labels) == []


@pytest.mark.parametrize(
    ("train", "use_gpu", "status", "words"),
    [
        ({"num_workers": 8}, True, "warning", "each gets 4 rows a step. A GPU .* train.batch_size: 128 gives each 16"),
        ({"num_workers": 8, "batch_size": 128}, True, "OK", "each gets 16 rows a step"),
        ({"num_workers": [2, 6]}, True, "warning", "each gets 5.33 rows a step"),
        ({"num_workers": 8}, False, "OK", "each gets 4 rows a step"),
    ],
)
def test_few_rows_of_a_batch_for_each_gpu_are_told(train: dict[str, Any], use_gpu: bool, status: str, words: str) -> None:
    (check,) = checks.check_batch(config_of(train=train), WorkerResources(1, use_gpu=use_gpu))
    assert check.status == status
    assert re.search(words, check.words)


def test_one_worker_has_the_whole_batch() -> None:
    assert checks.check_batch(config_of(train={"num_workers": 1}), WorkerResources(1, use_gpu=True)) == []
