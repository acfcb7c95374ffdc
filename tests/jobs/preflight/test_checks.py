"""Each of the preflight's checks, where it holds and where it does not."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from manta.config import DataConfig, ExperimentConfig
from manta.data import TextDataset, load_dataset
from manta.labels import LabelSpace
from manta.storage.folders import Storage
from manta_jobs.cluster.autoscaling import Growth
from manta_jobs.cluster.connection import Cluster, WorkerResources
from manta_jobs.preflight import checks
from manta_jobs.preflight.checks import Check
from manta_jobs.preflight.estimate import (
    ModelSize,
    checkpoint_bytes,
    run_disk_bytes,
)
from manta_jobs.preflight.tokens import TokenSample, histogram, sample_tokens

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
