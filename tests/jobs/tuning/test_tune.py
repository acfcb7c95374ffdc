"""Real searches: Ray Tune in front, real Ray Train workers behind."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import ray
import yaml
from mlflow import MlflowClient

from manta.config import ExperimentConfig
from manta.config.file import load_config
from manta.console import people_console
from manta.registry.models import ModelRegistry
from manta.storage.folders import Storage
from manta_jobs.cli.show_run import show_tuned, tuned_result
from manta_jobs.runs.prepare import prepare
from manta_jobs.runs.train import train
from manta_jobs.runs.tune import as_ended, makes_formats, no_model_sentence, resume, run, tune
from manta_jobs.tuning.journal import Confirmation, Journal, Trial, TrialStatus

from ...conftest import rows_of, write_csv

if TYPE_CHECKING:
    from pathlib import Path

    from manta_jobs.runs.results import TunedModel


def search(data: Path, model: Path, **tune_settings: Any) -> ExperimentConfig:
    """Three trials, one at a time: one that learns nothing, one that learns, and one that fails."""
    return ExperimentConfig.model_validate(
        {
            "name": "searched",
            "data": {"train": str(data), "validation_fraction": 0.1},
            "model": {"pretrained": str(model), "max_length": 32},
            "train": {"num_workers": 2, "learning_rate": 1e-6, "num_epochs": 3, "batch_size": 16, "cpus_per_worker": 2},
            "tune": {
                "space": {"train.learning_rate": {"choice": [3e-3, 1e30]}, "model.dropout": {"choice": [0.0]}},
                "search": "grid",
                "budget": {"num_trials": 3},
                "confirm": {"top_k": 2, "seeds": 1},
            }
            | tune_settings,
            "registry": {"fast_formats": False},
        }
    )


def histories(trials: list[Trial]) -> dict[str, list[str]]:
    """The weights of every epoch of every trial."""
    return {trial.name: [epoch["weights_sha256"] for epoch in trial.history] for trial in trials}


@dataclass(frozen=True)
class Searched:
    """A finished search."""

    config: ExperimentConfig
    tuned: TunedModel
    storage: Path
    freed_s: float
    """Seconds from its end until no worker held a CPU."""


@pytest.fixture(scope="module")
def searched(ray_cluster: None, two_classes: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """One search of three trials and two confirming runs, for several tests."""
    storage = tmp_path_factory.mktemp("storage")
    config = search(two_classes, tiny_model).model_copy(update={"storage": str(storage)})
    tuned = tune(config, console=people_console())
    ended = time.monotonic()
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"] and time.monotonic() - ended < 60:
        time.sleep(0.1)
    return Searched(config, tuned, storage, time.monotonic() - ended)


@pytest.mark.timeout(600)
def test_a_search_registers_its_best_trial(searched: Searched) -> None:
    config, tuned = searched.config, searched.tuned
    own, drawn, failed = sorted(tuned.trials, key=lambda trial: trial.name)
    # The first trial is the config as it stands, and its learning rate is too small to learn anything.
    assert own.values == {"train.learning_rate": 1e-6, "model.dropout": 0.1}
    assert drawn.values == {"train.learning_rate": 3e-3, "model.dropout": 0.0}
    assert tuned.winner.name.startswith(drawn.name)

    # What each trial trained with is read from its model and optimizer.
    for trial in (own, drawn):
        assert trial.history
        assert {epoch["learning_rate"] for epoch in trial.history} == {trial.values["train.learning_rate"]}
        assert {epoch["dropout"] for epoch in trial.history} == {trial.values["model.dropout"]}

    # One that fails is a row with its reason, and the search goes on.
    assert failed.status == "failed"
    assert failed.reason is not None
    assert "lower train.learning_rate" in failed.reason

    assert [len(item.scores) for item in tuned.confirmed] == [1, 1]
    assert tuned.confirmed[0].mean >= tuned.confirmed[1].mean
    assert {run.values["train.seed"] for item in tuned.confirmed for run in item.runs} == {1}
    known = {"train.method": "full", "train.label_noise": 0.0}
    assert load_config(tuned.best_config_path) == config.with_values(tuned.winner.values | known)
    assert ModelRegistry(Storage(searched.storage)).get("searched").run == tuned.model.run.name
    recorded = yaml.safe_load((tuned.model.run.path / "trials.yaml").read_text())
    assert [row["values"] for row in recorded["trials"]] == [trial.values for trial in tuned.trials]


def test_the_mean_of_the_winning_runs_is_compared_with_them(searched: Searched) -> None:
    tuned = searched.tuned
    average = tuned.model.outcome.average
    assert average is not None
    runs = [tuned.confirmed[0].trial, *tuned.confirmed[0].runs]
    assert average.run_losses == pytest.approx([run.history[-1]["loss"] for run in runs], abs=1e-4)  # as the engine had them
    recorded = tuned.model.artifact.manifest.metrics["validation_loss"]
    assert recorded == pytest.approx(average.metrics["loss"] if average.is_kept else tuned.winner.history[-1]["loss"], abs=1e-6)
    assert json.loads((tuned.model.run.path / "report.json").read_text())["average"]["kept"] == average.is_kept
    assert average.sentence() in tuned.page.read_text()


def test_the_workers_of_an_ended_search_are_gone_within_seconds(searched: Searched) -> None:
    assert searched.freed_s < 5


def test_every_trial_is_a_child_of_the_searchs_mlflow_run(searched: Searched) -> None:
    tuned = searched.tuned
    entry = json.loads((tuned.model.run.path / "mlflow.json").read_text())
    client = MlflowClient(tracking_uri=entry["uri"])
    parent = client.get_run(entry["run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.params["train.learning_rate"] == str(tuned.winner.values["train.learning_rate"])
    children = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{entry['run_id']}'")
    by_name = {str(child.info.run_name).removeprefix(f"{tuned.model.run.name}-"): child for child in children}
    assert set(by_name) == {trial.name for trial in tuned.trials} | {run.name for item in tuned.confirmed for run in item.runs}
    for trial in tuned.trials:
        if trial.status == "failed":
            assert by_name[trial.name].info.status == "FAILED"
            continue
        child = by_name[trial.name]
        assert child.data.params["train.learning_rate"] == str(trial.values["train.learning_rate"])
        assert child.data.metrics["validation/accuracy"] == trial.history[-1]["accuracy"]
        assert child.info.status in ("FINISHED", "KILLED")


@pytest.mark.timeout(240)
def test_a_search_of_few_rows_is_compared_with_the_methods_for_few_rows(
    ray_cluster: None, tiny_model: Path, tmp_path: Path
) -> None:
    rows = write_csv(tmp_path / "few.csv", rows_of(["delivery", "billing"], 120))
    config = search(rows, tiny_model, budget={"num_trials": 1}, confirm=None).with_values({"train.num_workers": 1})
    tuned = tune(config.model_copy(update={"storage": str(tmp_path / "storage")}), console=people_console())
    lead = tuned.model.outcome.searched
    assert lead is not None
    assert lead.searched == tuned.trials[0].history[-1]["accuracy"]
    kept = "full" if lead.is_enough else lead.method
    assert tuned.model.outcome.method == tuned.model.artifact.manifest.method == kept
    assert lead.sentence() in tuned.page.read_text()
    assert load_config(tuned.best_config_path).train.method == kept
    report = json.loads((tuned.model.run.path / "report.json").read_text())
    assert report["methods"]["search"]["other"] == lead.other
    assert [rung["method"] for rung in report["methods"]["rungs"]] == (["full"] if kept == "full" else ["linear", "contrastive"])


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_a_search_without_time_for_a_trial_registers_the_model_of_the_methods_for_few_rows(
    ray_cluster: None, tiny_model: Path, tmp_path: Path
) -> None:
    rows = write_csv(tmp_path / "few.csv", rows_of(["delivery", "billing"], 80))
    config = search(rows, tiny_model, budget={"num_trials": 1, "worker_hours": 1e-6}, confirm=None)
    config = config.with_values({"train.num_workers": 1})
    tuned = tune(config.model_copy(update={"storage": str(tmp_path / "storage")}), console=people_console())
    assert (tuned.winner, tuned.confirmed) == (None, [])
    assert all(not trial.history for trial in tuned.trials)
    model = tuned.model
    assert model.artifact.manifest.method == model.outcome.method == load_config(tuned.best_config_path).train.method != "full"
    why = f"Kept: {model.outcome.method}. The search's time was over before any trial had finished an epoch; raise tune.budget."
    assert why in tuned.page.read_text().replace("&#39;", "'")
    assert json.loads((model.run.path / "report.json").read_text())["methods"]["why"] == why
    assert model.promotion.version.version == 1
    assert tuned_result(tuned)["best_values"] is None
    show_tuned(tuned, people_console())


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_a_trial_that_falls_behind_is_stopped_and_the_search_ends(
    ray_cluster: None, two_classes: Path, tiny_model: Path, tmp_path: Path
) -> None:
    space = {"train.learning_rate": {"choice": [1e-6]}}
    config = search(two_classes, tiny_model, space=space, budget={"num_trials": 2}, confirm=None).with_values(
        {"train.learning_rate": 3e-3, "train.metric": "loss", "train.num_workers": 1, "train.cpus_per_worker": 4}
    )  # the whole cluster for a worker: the trials run one after the other
    tuned = tune(config.model_copy(update={"storage": str(tmp_path / "storage")}), console=people_console())
    assert [(trial.name, trial.status, len(trial.history)) for trial in tuned.trials] == [
        ("trial-001", "done", 3),
        ("trial-002", "stopped early", 1),
    ]
    assert list((tmp_path / "storage").rglob("error.txt")) == []


@pytest.mark.timeout(600)
def test_a_trial_among_others_is_the_same_as_alone(searched: Searched, own_storage: Path) -> None:
    # The winner ran after others in the same processes; this run has processes of its own.
    tuned = searched.tuned
    alone = train(load_config(tuned.best_config_path).model_copy(update={"storage": None}), console=people_console())
    assert [epoch["weights_sha256"] for epoch in alone.history] == histories([tuned.winner])[tuned.winner.name]
    assert alone.artifact.manifest.metrics == tuned.model.artifact.manifest.metrics


@pytest.mark.timeout(600)
def test_an_interrupted_search_ends_as_if_it_had_not_been(
    searched: Searched, two_classes: Path, tiny_model: Path, own_storage: Path
) -> None:
    tuned = searched.tuned
    config = search(two_classes, tiny_model)
    prepared = prepare(config, verb="tune", console=people_console())
    # What a search leaves that was killed in its second trial: the first has ended, the second has begun.
    before = Journal(tuned.model.run.path / "trials.jsonl")
    journal = Journal(prepared.folder.path / "trials.jsonl")
    first = before.trials["trial-001"]
    journal.drawn(first.name, first.values, at_s=1)
    for epoch in first.history:
        journal.epoch(first.name, epoch, at_s=2)
    journal.ended(first.name, "done", at_s=3)
    journal.drawn("trial-002", before.trials["trial-002"].values, at_s=4)

    again = resume(prepared.folder.name, console=people_console())
    assert histories(again.trials) == histories(tuned.trials)
    assert again.winner.name == tuned.winner.name
    assert again.model.artifact.manifest.metrics == tuned.model.artifact.manifest.metrics
    after = (prepared.folder.path / "trials.jsonl").read_text().splitlines()
    assert [json.loads(line)["trial"] for line in after if '"drawn"' in line].count("trial-001") == 1


@pytest.mark.timeout(600)
def test_time_that_is_over_ends_the_trial_and_registers_what_there_is(
    ray_cluster: None, two_classes: Path, tiny_model: Path, own_storage: Path
) -> None:
    config = search(two_classes, tiny_model, search="random", budget={"num_trials": 50}, confirm=None).with_values(
        {"train.num_epochs": 10_000, "train.learning_rate": 1e-3, "train.cpus_per_worker": 2, "tune.budget.wall_clock_s": 30}
    )
    prepared = prepare(config, verb="tune", console=people_console())
    tuned = run(prepared, console=people_console(), address=None, started=time.monotonic())
    statuses = {trial.status for trial in tuned.trials}
    assert "out of time" in statuses
    assert statuses <= {"out of time", "not run"}  # on a slow machine not every worker pool has begun by then
    assert tuned.model.version.version == 1


def test_a_limit_in_time_that_is_short_leaves_out_the_faster_formats() -> None:
    config = ExperimentConfig.model_validate({"name": "x", "data": {"train": "x.csv"}})
    assert makes_formats(config)
    assert makes_formats(config.with_values({"tune.budget.wall_clock_s": 128}))
    assert not makes_formats(config.with_values({"tune.budget.wall_clock_s": 127}))
    assert not makes_formats(config.with_values({"registry.fast_formats": False}))


def test_a_search_without_a_model_says_why() -> None:
    failed = Trial("trial-001", {}, "failed", reason="ArithmeticError: the loss is nan after step 3")
    assert no_model_sentence([failed]) == "every trial failed; the first one said: ArithmeticError: the loss is nan after step 3"


def test_a_trial_that_was_still_stopping_when_it_was_ranked_is_told_of_once_and_as_it_ended(
    two_classes: Path, tiny_model: Path
) -> None:
    config = search(two_classes, tiny_model)

    def trial(name: str, status: TrialStatus, accuracy: float) -> Trial:
        return Trial(name, {}, status, history=[{"epoch": 1, "accuracy": accuracy}])

    ranked = [trial("trial-001", "done", 0.9), trial("trial-002", "running", 0.8), trial("trial-003", "running", 0.7)]
    confirmed = [Confirmation(ranked[1], [], [0.8])]
    now = {trial.name: trial for trial in [ranked[0], trial("trial-002", "stopped early", 0.8), trial("trial-003", "failed", 0.7)]}
    best, again = as_ended(ranked, confirmed, now, config)
    assert [(trial.name, trial.status) for trial in best] == [("trial-001", "done"), ("trial-002", "stopped early")]
    assert again[0].trial.status == "stopped early"
    assert [trial for trial in now.values() if trial not in best] == [now["trial-003"]]  # what `run` adds below the ranked ones
