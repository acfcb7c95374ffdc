"""`manta tune`: search the config's fields with Ray Tune. Every trial is the same distributed training as `manta train`."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from manta.config.file import write_config
from manta.config.starting_point import methods_tried
from manta.console import working
from manta.errors import RunError
from manta.storage.object_store import discard, names
from manta_jobs.cluster.connection import (
    Cluster,
    connected,
    fit_workers,
    interruptible,
    num_workers_at_once,
    present_cluster,
)
from manta_jobs.cluster.losses import losses_named
from manta_jobs.cluster.waiting import look_while_waiting
from manta_jobs.packaging.averaging import WeightAverage, average_on_cluster
from manta_jobs.runs.finish import finish
from manta_jobs.runs.methods import Outcome, held_out_metrics, run_methods
from manta_jobs.runs.prepare import PreparedRun, keep, prepare, reopen
from manta_jobs.runs.results import TunedModel
from manta_jobs.training.checkpoints import (
    OPTIMIZER_FILE,
    TRIALS_FOLDER,
    WEIGHTS_FILE,
    checkpoint_name,
    kept_epoch,
    saved_steps,
)
from manta_jobs.training.choice import SearchLead, has_time_for_few_row_methods
from manta_jobs.training.progress import Board
from manta_jobs.training.tracking import RunRecord
from manta_jobs.tuning.confirm import confirm, finished_runs, num_confirming, plan_sentence, ranked, winning_run
from manta_jobs.tuning.journal import Confirmation, Journal, Trial
from manta_jobs.tuning.live_table import SearchView
from manta_jobs.tuning.ray_tune import build_tuner
from manta_jobs.tuning.report import write_search_report
from manta_jobs.tuning.samplers import make_sampler, value_of
from manta_jobs.tuning.tracking import TrialRecords
from manta_jobs.tuning.trial_queue import TrialQueue
from manta_jobs.tuning.trial_workers import WorkerPools, pool_trainer

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer
    from rich.console import Console

    from manta.config import ExperimentConfig
    from manta_jobs.training.checkpoints import TrainingState

JOURNAL_FILE = "trials.jsonl"
FINISHING_S = 15.0
"""Seconds of a time limit reserved for the work after training: the test rows, the registry and the report."""
FORMATS_S = 17.0
"""Seconds of a time limit reserved for making the faster inference formats: about 14 CPU seconds for the embedded encoder and 417
test rows on one machine, and a margin. Several cores take less, larger encoders more."""


def tune(config: ExperimentConfig, *, console: Console, address: str | None = None) -> TunedModel:
    """Search, choose the best trial on validation, evaluate it on test once and register it.

    Raises:
        InputError: the data, model, space or config is wrong; nothing has been written.
        RunError: every trial failed, or the time was over before there was any model.
    """
    started = time.monotonic()
    console.print(plan_sentence(config))
    return run(prepare(config, verb="tune", console=console, address=address), console=console, address=address, started=started)


def resume(name: str, *, console: Console, address: str | None = None) -> TunedModel:
    """Resume an interrupted search: ended trials stay as they are, the others continue from their checkpoints.

    Raises:
        InputError: there is no such run, it is finished, or its data has changed.
        RunError: every trial failed, or the time was over before there was any model.
    """
    started = time.monotonic()
    prepared = reopen(name, verb="tune", console=console)
    console.print(plan_sentence(prepared.config))
    return run(prepared, console=console, address=address, started=started)


def run(prepared: PreparedRun, *, console: Console, address: str | None, started: float) -> TunedModel:
    """Search over a prepared run's data, or resume the search in its journal, and finish it."""
    config = prepared.config
    resume_command = f"manta tune --resume {prepared.folder.handle}"
    with connected(address, num_workers=config.train.max_workers), losses_named(resume_command):
        cluster = present_cluster(config.train)
        search = Search(prepared, cluster=cluster, started=started)
        view = SearchView(config, search.queue, search.board, console, seconds_left=search.seconds_left)
        with RunRecord(
            prepared.folder, prepared.storage, config, console=console, new_steps=list, history=list, searched=config.tune.searched
        ) as record:
            records = TrialRecords(
                prepared.folder,
                prepared.storage,
                search.queue,
                search.board,
                experiment=config.registered_name,
                parent_id=record.run_id,
            )
            console.print(f"If the search is interrupted: {resume_command}")
            few_rows = run_few_row_methods(prepared, console=console, resume_command=resume_command)
            with view.shown(), records.kept():
                look = look_while_waiting(config.train, search.resources, cluster, console)
                best, confirmed = interruptible(search.run, console=console, look=look)
            trials = list(search.queue.snapshot().values())
            choice = chosen(best, confirmed, few_rows, prepared, trials=trials)
            best_path = prepared.folder.path / "best.yaml"
            write_config(choice.config, best_path)
            ordered = best + [trial for trial in trials if trial.is_drawn and trial not in best]
            write_trials(ordered, confirmed, prepared.folder.path / "trials.yaml", config=config)
            record.chosen({name: value_of(choice.config, name) for name in config.tune.searched})
            formats = makes_formats(config)
            if config.registry.fast_formats and not formats:
                console.print("No faster formats are made: the time limit is too short for them.")
            if isinstance(choice.kept, Outcome):
                outcome = replace(choice.kept, searched=choice.lead)
            else:
                trained = state_of(choice.kept, prepared)
                record.catch_up(trained.history, steps=search.board.steps_after(choice.kept.name, 0))
                average = averaged(confirmed, choice.config, prepared, console=console)
                outcome = Outcome(trained=trained, average=average, searched=choice.lead)
            model = finish(
                prepared, choice.config, outcome=outcome, record=record, console=console, started=started, formats=formats
            )
            with working(console, "Writing the report of the search"):
                page = write_search_report(
                    config,
                    trials=ordered,
                    confirmations=confirmed,
                    best=None if choice.winner is None else choice.config,
                    test_metrics=model.artifact.manifest.metrics,
                    folder=prepared.folder.path,
                    baseline_metrics=None if model.baseline is None else model.baseline.test,
                    method=outcome.method,
                    kept=" ".join(part for part in (outcome.sentence(), outcome.average and outcome.average.sentence()) if part),
                )
    free_disk(prepared.folder.path / TRIALS_FOLDER, winner=choice.winner)
    keep(prepared.folder)
    return TunedModel(model, best_path, choice.winner, ordered, confirmed, page)


def run_few_row_methods(prepared: PreparedRun, *, console: Console, resume_command: str) -> Outcome | None:
    """Run the methods that `manta train` uses for few rows. The search's winner is compared with the model that they give.

    Return None if there are many rows, if the config asks for fine-tuning, or if the time limit is too short.
    """
    if not prepared.folder.read_facts().get("few_rows"):
        return None
    if not has_time_for_few_row_methods(prepared.config.tune.budget.wall_clock_s):
        console.print(f"The time limit is too short to try {' and '.join(methods_tried('auto'))}, too.")
        return None
    asked = replace(prepared, config=prepared.config.with_values({"train.method": "auto"}))
    return run_methods(asked, board=Board(), console=console, resume_command=resume_command)


@dataclass(frozen=True)
class Choice:
    """The model that a search registers: that of its winner or, with few rows, that of another method."""

    config: ExperimentConfig
    """The model's own config."""
    winner: Trial | None
    """The training run with the winning settings; None if none finished an epoch."""
    kept: Trial | Outcome
    """The winner, or the result of the methods for few rows."""
    lead: SearchLead | None
    """Comparison of the two; None unless the methods for few rows gave a model."""


def chosen(
    best: list[Trial], confirmed: list[Confirmation], few_rows: Outcome | None, prepared: PreparedRun, *, trials: list[Trial]
) -> Choice:
    """Choose the model to register.

    Raises:
        RunError: no trial finished an epoch, and one of them failed or there is no model of another method.
    """
    config = prepared.config
    winner = winning_run(best, confirmed, config) if best else None
    lead = None if few_rows is None else search_lead(confirmed, winner, few_rows, prepared)
    is_sound = winner is not None or not any(trial.status == "failed" for trial in trials)
    if few_rows is not None and lead is not None and not lead.is_enough and is_sound:
        return Choice(config.with_method(lead.method), winner, few_rows, lead)
    if winner is None:
        raise RunError(no_model_sentence(trials))
    return Choice(config.with_values(winner.values), winner, winner, lead)


def search_lead(confirmed: list[Confirmation], winner: Trial | None, few_rows: Outcome, prepared: PreparedRun) -> SearchLead | None:
    """Compare the search's winner with the model of the methods for few rows, by accuracy on the held-out rows."""
    model = few_rows.kept_linear
    if model is None:
        return None
    runs = finished_runs(confirmed) or ([] if winner is None else [winner])
    accuracies = [float(kept_epoch(run.history, prepared.config.train)["accuracy"]) for run in runs]
    other = held_out_metrics(model, prepared.dataset)["accuracy"]
    return SearchLead(len(model.logits), sum(accuracies) / len(accuracies) if accuracies else None, other, few_rows.method)


def averaged(
    confirmed: list[Confirmation], config: ExperimentConfig, prepared: PreparedRun, *, console: Console
) -> WeightAverage | None:
    """Average the weights of the runs with the winning settings; None if there is only one.

    The average is the model unless its loss is higher than theirs.
    """
    runs = finished_runs(confirmed)
    if len(runs) < 2:
        return None
    checkpoints = tuple(Path(kept_epoch(state_of(run, prepared).history, config.train)["checkpoint"]) for run in runs)
    with working(console, f"Averaging the weights of {len(runs)} runs"):
        return average_on_cluster(checkpoints, config, prepared.data, folder=prepared.folder.path)


class Search:
    """A running search: its queue, its worker pools and Ray Tune."""

    def __init__(self, prepared: PreparedRun, *, cluster: Cluster, started: float) -> None:
        """Open the journal, which an interrupted search may have left; nothing runs yet.

        Raises:
            InputError: a trial's workers do not fit the cluster.
        """
        self.prepared, self.config = prepared, prepared.config
        self.resources = fit_workers(self.config.train, cluster)
        self.board = Board()
        budget = self.config.tune.budget
        journal = Journal(prepared.folder.path / JOURNAL_FILE)
        self._begun = journal.trials
        self._started = started - journal.elapsed_s
        most = budget.num_trials + num_confirming(self.config)
        num_workers = num_workers_at_once(self.resources, cluster.nodes)
        self.num_pools = max(1, min(most, num_workers // self.config.train.max_workers))
        self._ends_s = self._end_of_time()
        self.queue = TrialQueue(
            prepared.folder.path / JOURNAL_FILE,
            num_expected=most,
            started_s=self._now(),
            deadline_s=self._ends_s,
            max_losses=self.config.train.max_failures,
            rounds_kept=math.ceil(num_confirming(self.config) / self.num_pools),
        )

    def run(self) -> tuple[list[Trial], list[Confirmation]]:
        """Search and confirm. Return the trials that have a score, best first, and the results of confirming them."""
        config = self.config
        pools = WorkerPools(self.queue, self.board, num_pools=self.num_pools, build=self._pool)
        pools.start()
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failed trial is a row, not a traceback
        build_tuner(
            config,
            queue=self.queue,
            sampler=make_sampler(config, config.tune.searched),
            begun=self._begun,
            at_once=self.num_pools,
            folder=self.prepared.folder.path,
            is_over=self.queue.is_late,
        ).fit()
        best = ranked([trial for trial in self.queue.snapshot().values() if trial.is_drawn], config)
        self.queue.set_deadline(self._ends_s)
        confirmed = confirm(best, config, self.queue)
        self.queue.expect(0)
        pools.join()
        return as_ended(best, confirmed, self.queue.snapshot(), config)

    def _pool(self, name: str) -> TorchTrainer:
        return pool_trainer(
            self.prepared.data,
            self.config,
            queue=self.queue,
            board=self.board,
            resources=self.resources,
            folder=self.prepared.folder.path,
            trials=TRIALS_FOLDER,
            name=name,
            num_trials=self.config.tune.budget.num_trials + num_confirming(self.config),
        )

    def _now(self) -> float:
        """Return the seconds since the search started, including those before an interruption."""
        return time.monotonic() - self._started

    def seconds_left(self) -> float | None:
        """Return the time until training must end; None without a limit."""
        return None if self._ends_s is None else self._ends_s - self._now()

    def _end_of_time(self) -> float | None:
        """Return the time at which training must be over, on the clock of `_now`; None without a limit."""
        budget = self.config.tune.budget
        workers = self.num_pools * self.config.train.max_workers
        ends = []
        if budget.wall_clock_s is not None:
            finishing_s = FINISHING_S + (FORMATS_S if makes_formats(self.config) else 0.0)
            ends.append(budget.wall_clock_s - min(finishing_s, budget.wall_clock_s / 4))
        if budget.worker_hours is not None:
            ends.append(self._now() + budget.worker_hours * 3600 / workers)
        return min(ends, default=None)


def makes_formats(config: ExperimentConfig) -> bool:
    """Tell whether the winner gets its faster inference formats: not if they would take too much of a short time limit."""
    limit = config.tune.budget.wall_clock_s
    return config.registry.fast_formats and (limit is None or limit / 4 >= FINISHING_S + FORMATS_S)


def as_ended(
    best: list[Trial], confirmed: list[Confirmation], trials: dict[str, Trial], config: ExperimentConfig
) -> tuple[list[Trial], list[Confirmation]]:
    """Return the ranked and confirmed trials in their final state.

    A trial that was told to stop may still have been in its last epoch when it was ranked.
    """
    now = ranked([trials[trial.name] for trial in best], config)
    return now, [replace(item, trial=trials[item.trial.name]) for item in confirmed]


def no_model_sentence(trials: list[Trial]) -> str:
    """Return a sentence that says why a search has no model."""
    failed = [trial for trial in trials if trial.status == "failed"]
    if failed:
        return f"every trial failed; the first one said: {failed[0].reason}"
    return "the search's time was over before any trial had trained a step; raise tune.budget."


def write_trials(trials: list[Trial], confirmed: list[Confirmation], path: Path, *, config: ExperimentConfig) -> None:
    """Write the winner, every trial's values and epochs, best first, and the results of confirming, as YAML. The page reads it."""
    rows: list[dict[str, Any]] = [
        {
            "trial": trial.name,
            "values": trial.values,
            "status": trial.status,
            "reason": trial.reason,
            "score": trial.score(config),
            "epochs": trial.history,
        }
        for trial in trials
    ]
    again = [
        {
            "trial": item.trial.name,
            "mean": item.mean,
            "std": item.std,
            "runs": {run.name: score for run, score in zip(item.runs, item.scores, strict=True)},
        }
        for item in confirmed
    ]
    winner = confirmed[0].trial.name if confirmed else next((row["trial"] for row in rows if row["score"] is not None), None)
    document = {"winner": winner, "trials": rows, "confirmed": again}
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def free_disk(trials: Path, *, winner: Trial | None) -> None:
    """Remove the weights of trials that did not win. Their results stay in their `state.json` and the journal."""
    for trial in set(names(trials)) - ({winner.name} if winner else set()):
        for step in saved_steps(trials / trial):
            for weights in (WEIGHTS_FILE, OPTIMIZER_FILE):
                discard(trials / trial / checkpoint_name(step) / weights)


def state_of(trial: Trial, prepared: PreparedRun) -> TrainingState:
    """Return the training state in a trial's last checkpoint.

    Raises:
        RunError: the checkpoint is gone.
    """
    from manta_jobs.training.checkpoints import latest_checkpoint

    folder = prepared.folder.path / TRIALS_FOLDER / trial.name
    found = latest_checkpoint(folder)
    if found is None:
        raise RunError(f"the best trial's checkpoints in {folder} are gone; is that folder shared by all nodes?")
    return found[1]
