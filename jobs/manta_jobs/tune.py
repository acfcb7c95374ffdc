"""`manta tune`: search the config's fields over Ray Tune. Every trial is the same distributed training run as `manta train`."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from manta.config import ExperimentConfig, Range
from manta.config_file import write_config
from manta.errors import RunError
from manta_jobs.cluster import WorkerResources, connected, fit_workers, interruptible, num_workers_at_once
from manta_jobs.finish import TrainedModel, finish
from manta_jobs.prepare import PreparedRun, TokenizedData, prepare
from manta_jobs.progress import Board
from manta_jobs.record import RunRecord
from manta_jobs.search_view import SearchView
from manta_jobs.trainer import build_trainer, failure_sentence

if TYPE_CHECKING:
    from ray.tune import ResultGrid, Tuner
    from rich.console import Console

    from manta_jobs.checkpoints import TrainingState

TRIALS_FOLDER = "trials"


@dataclass(frozen=True)
class Trial:
    """One finished or stopped training run of the search."""

    name: str
    values: dict[str, Any]
    """The searched fields, by dotted name."""
    history: list[dict[str, Any]]
    score: float
    """Its best epoch's value of the chosen metric."""
    stopped_early: bool


@dataclass(frozen=True)
class TunedModel:
    """What a search leaves behind: the best trial as a finished model, and how the others did."""

    model: TrainedModel
    best_config_path: Path
    trials: list[Trial]
    """Best first."""
    num_failed: int


def tune(config: ExperimentConfig, *, console: Console, address: str | None = None) -> TunedModel:
    """Search, choose the best trial on validation, evaluate it on test once and register it.

    Raises:
        InputError: the data, model, space or config is wrong; nothing has been written.
        RunError: every trial failed.
    """
    started = time.monotonic()
    prepared = prepare(config, verb="tune", console=console, address=address)
    with connected(address, num_workers=config.train.max_workers):
        resources = fit_workers(config.train)
        view = SearchView(config, Board(), console)
        tuner = build_tuner(prepared, resources=resources, view=view)
        with RunRecord(
            prepared.folder, prepared.storage, config, console=console, new_steps=list, history=list, searched=config.tune.space
        ) as record:
            with view.shown():
                results = interruptible(tuner.fit, console=console)
            trials = ranked_trials(results, config)
            if not trials:
                raise RunError(f"every trial failed; the first one said: {failure_sentence(results.errors[0])}")
            best_config = config.with_values(trials[0].values)
            best_path = prepared.folder.path / "best.yaml"
            write_config(best_config, best_path)
            write_trials(trials, prepared.folder.path / "trials.yaml")
            record.chosen(trials[0].values)
            trained = state_of(trials[0], prepared)
            record.catch_up(trained.history, steps=view.board.steps_after(trials[0].name, 0))
            model = finish(prepared, best_config, trained=trained, record=record, console=console, started=started)
    return TunedModel(model, best_path, trials, len(results.errors))


def build_tuner(prepared: PreparedRun, *, resources: WorkerResources, view: SearchView) -> Tuner:
    """The search over a prepared run's data, not yet started."""
    from ray import tune as ray_tune
    from ray.tune.search import BasicVariantGenerator

    # Ray's newer output prints a banner on stdout however quiet it is told to be; stdout is for `--json`.
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    config = prepared.config
    data, folder, board = prepared.data, prepared.folder.path / TRIALS_FOLDER, view.board

    def run_trial(values: dict[str, Any]) -> None:
        _run_trial(config.with_values(values), data=data, resources=resources, board=board, folder=folder)

    own_values = {name: _value_of(config, name) for name in config.tune.space}
    at_once = max(1, num_workers_at_once(resources) // config.train.max_workers)
    return ray_tune.Tuner(
        # A trial's function only waits for its workers, which hold the CPUs and GPUs. It takes a byte of memory and no CPU:
        # if it held a CPU, the trials could take the last ones from under their own workers and wait for ever.
        ray_tune.with_resources(run_trial, ray_tune.PlacementGroupFactory([{"memory": 1}])),
        param_space={name: _distribution(values) for name, values in config.tune.space.items()},
        tune_config=ray_tune.TuneConfig(
            metric=config.train.metric,
            mode=config.train.metric_mode,
            num_samples=config.tune.budget.num_trials,
            scheduler=_scheduler(config),
            search_alg=BasicVariantGenerator(
                points_to_evaluate=[own_values], random_state=config.tune.seed, max_concurrent=at_once
            ),
        ),
        run_config=ray_tune.RunConfig(name=TRIALS_FOLDER, storage_path=str(prepared.folder.path), verbose=0, callbacks=[view]),
    )


def _run_trial(config: ExperimentConfig, *, data: TokenizedData, resources: WorkerResources, board: Board, folder: Path) -> None:
    from ray import tune as ray_tune
    from ray.tune.integration.ray_train import TuneReportCallback

    name = str(ray_tune.get_context().get_trial_id())
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    trainer = build_trainer(
        data, config, board=board, resources=resources, folder=folder, name=name, callbacks=[TuneReportCallback()]
    )
    trainer.fit()


def _scheduler(config: ExperimentConfig) -> Any:
    """Asynchronous successive halving (Li et al., 2020, https://arxiv.org/abs/1810.05934), or none."""
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if config.tune.scheduler == "none":
        return FIFOScheduler()
    epochs = config.tune.space.get("train.num_epochs")
    longest = max([config.train.num_epochs, *map(int, (epochs.choice or []) if epochs else [])])
    # One more than the longest, as a trial that reaches max_t would be stopped like one that fell behind.
    return ASHAScheduler(time_attr="epoch", max_t=longest + 1, grace_period=1, reduction_factor=2)


def _distribution(values: Range) -> Any:
    from ray import tune as ray_tune

    if values.loguniform is not None:
        return ray_tune.loguniform(*values.loguniform)
    if values.uniform is not None:
        return ray_tune.uniform(*values.uniform)
    return ray_tune.choice(values.choice)


def _value_of(config: ExperimentConfig, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def ranked_trials(results: ResultGrid, config: ExperimentConfig) -> list[Trial]:
    """Every trial that finished at least one epoch without failing, best first."""
    from manta_jobs.worker import best_epoch

    trials: list[Trial] = []
    for result in results:
        if result.error is not None or result.metrics_dataframe is None or not len(result.metrics_dataframe):
            continue
        records = result.metrics_dataframe.to_dict("records")
        history = epochs_of(records)
        best = best_epoch(history, config)
        values = dict(result.config or {})
        planned = config.with_values(values).train.num_epochs
        trials.append(
            Trial(
                name=str(records[0]["trial_id"]),
                values=values,
                history=history,
                score=float(best[config.train.metric]),
                stopped_early=len(history) < planned,
            )
        )
    return sorted(trials, key=lambda trial: trial.score, reverse=config.train.metric_mode == "max")


def epochs_of(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The workers' own figures of each epoch, without what Ray adds to a report."""
    from manta_jobs.worker import EPOCH_FIELDS

    return [{field: record[field] for field in EPOCH_FIELDS} for record in records]


def write_trials(trials: list[Trial], path: Path) -> None:
    """Write every trial's values and epochs as YAML, best first."""
    rows = [
        {
            "trial": trial.name,
            "values": trial.values,
            "score": trial.score,
            "stopped_early": trial.stopped_early,
            "epochs": trial.history,
        }
        for trial in trials
    ]
    path.write_text(yaml.safe_dump(rows, sort_keys=False), encoding="utf-8")


def state_of(trial: Trial, prepared: PreparedRun) -> TrainingState:
    """What a trial's last checkpoint says.

    Raises:
        RunError: it is gone.
    """
    from manta_jobs.checkpoints import latest_checkpoint

    folder = prepared.folder.path / TRIALS_FOLDER / trial.name
    found = latest_checkpoint(folder)
    if found is None:
        raise RunError(f"the best trial's checkpoints in {folder} are gone; is that folder shared by all nodes?")
    return found[1]
