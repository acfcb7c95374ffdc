"""Ray Tune's side of a search: it draws values, follows every trial's epochs and stops those that fall behind.

A trial in Tune is a `QueuedTrial`, which trains nothing itself: it puts its values into the queue, from which a lane of workers
takes them, and hands on what the lane reports. It needs no CPU, so trials never wait for resources that they hold themselves.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune as ray_tune
from ray.tune import Callback
from ray.tune.search import BasicVariantGenerator, Searcher

from manta.object_store import shown
from manta_jobs.tuning.journal import longest_epochs

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray.tune import Tuner
    from ray.tune.experiment import Trial as RayTrial

    from manta.config import ExperimentConfig, Range
    from manta_jobs.tuning.journal import Trial
    from manta_jobs.tuning.samplers import Draws
    from manta_jobs.tuning.trial_queue import TrialQueue

TRIAL = "trial"
"""Where Tune's values hold the trial's name when it is drawn."""
CLONE_FILE = "trial.json"
GRACE_SHARE = 0.1
"""Share of a trial's epochs before which none is stopped, but at least one: few rows are trained for many short epochs."""
ASHA_KEEPS_ONE_IN = 3


class TrialFailedError(Exception):
    """A trial failed or was not run; the search goes on."""


class QueuedTrial(ray_tune.Trainable):  # type: ignore[misc]  # Ray's class is untyped
    """One trial as Tune sees it; its process is used again for the next."""

    def setup(self, config: dict[str, Any], queue: TrialQueue, in_turns: bool) -> None:
        """Take the first trial."""
        self._queue = queue
        self._in_turns = in_turns
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take a trial; it is put into the queue when its first epoch is asked for."""
        self._values = {name: value for name, value in new_config.items() if name != TRIAL}
        self._known = 0
        self._clone_of: tuple[str, int] | None = None
        self._is_submitted = False
        return True

    def step(self) -> dict[str, Any]:
        """Wait for the next epoch's metrics.

        Raises:
            TrialFailedError: there will be none; the reason is the trial's.
        """
        name = str(self.trial_name)
        if not self._is_submitted:
            self._queue.submit(name, self._values, in_turns=self._in_turns, clone_of=self._clone_of)
            self._is_submitted = True
        trial = self._queue.next_epoch(name, known=self._known)
        if len(trial.history) <= self._known:
            raise TrialFailedError(f"{trial.status}: {trial.reason}")
        metrics = trial.history[self._known]
        self._known += 1
        is_last = trial.status != "running" and len(trial.history) == self._known
        return metrics | {"done": is_last}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Where the trial is; its weights are in its own checkpoint, which the journal knows."""
        state = {"trial": str(self.trial_name), "epochs": self._known}
        (Path(checkpoint_dir) / CLONE_FILE).write_text(json.dumps(state), encoding="utf-8")

    def load_checkpoint(self, checkpoint: str) -> None:
        """Go on from where this trial was, or as the clone of another."""
        state = json.loads((Path(checkpoint) / CLONE_FILE).read_text(encoding="utf-8"))
        self._known = int(state["epochs"])
        if state["trial"] != str(self.trial_name):
            self._clone_of = (str(state["trial"]), self._known)


class DrawnTrials(Searcher):  # type: ignore[misc]  # Ray's class is untyped
    """Gives Tune the next trial: those that an interrupted search had begun, then new draws."""

    def __init__(
        self,
        draws: Draws,
        *,
        begun: dict[str, dict[str, Any]],
        num_trials: int,
        is_over: Callable[[], bool],
        config: ExperimentConfig,
    ) -> None:
        super().__init__(metric=config.train.metric, mode=config.train.metric_mode)
        self._draws = draws
        self._begun = begun
        self._num_trials = num_trials
        self._is_over = is_over
        self._drawn: dict[str, dict[str, Any]] = {}
        self._scores: dict[str, float] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's values and name."""
        number = len(self._drawn)
        name = trial_name(number)
        values = self._begun.get(name)
        if number == self._num_trials or (values is None and self._is_over()):
            return str(Searcher.FINISHED)
        if values is not None:
            self._draws.known(values)
        else:
            values = self._draws.draw(number)
        if values is None:
            return str(Searcher.FINISHED)
        self._drawn[trial_id] = values
        return values | {TRIAL: name}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Remember the trial's last epoch."""
        self._scores[trial_id] = float(result[self.metric])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass on what came of the trial, if anything."""
        if result and self.metric in result:
            self.on_trial_result(trial_id, result)
        if trial_id in self._scores:
            self._draws.told(self._drawn[trial_id], self._scores[trial_id])

    def save(self, checkpoint_path: str) -> None:
        """The journal holds all there is to save; Tune wants a file."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""


class StopInQueue(Callback):  # type: ignore[misc]  # Ray's class is untyped
    """Passes on at once that the scheduler has stopped a trial."""

    def __init__(self, queue: TrialQueue) -> None:
        self._queue = queue

    def on_trial_complete(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        """A trial ended, by itself or by the scheduler."""
        self._queue.stop(str(trial))


def trial_name(number: int) -> str:
    """The name of a trial by its number from 0, such as `trial-001`."""
    return f"trial-{number + 1:03d}"


def build_tuner(
    config: ExperimentConfig,
    *,
    queue: TrialQueue,
    draws: Draws,
    begun: dict[str, Trial],
    at_once: int,
    folder: Path,
    is_over: Callable[[], bool],
) -> Tuner:
    """The search, not yet started. `begun` are the trials of an interrupted search, by name."""
    # Ray's newer output prints a banner on stdout however quiet it is told to be; stdout is for `--json`.
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    # Each trial's figures are in the journal and in MLflow.
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    is_population = config.tune.search == "pbt"
    trainable = ray_tune.with_parameters(QueuedTrial, queue=queue, in_turns=is_population)
    recorded = {name: trial.values for name, trial in begun.items()}
    num_trials = config.tune.budget.num_trials
    drawn: Any
    if is_population:
        points = [{**(recorded.get(trial_name(n)) or draws.draw(n) or {}), TRIAL: trial_name(n)} for n in range(num_trials)]
        drawn = BasicVariantGenerator(points_to_evaluate=points)
    else:
        drawn = DrawnTrials(draws, begun=recorded, num_trials=num_trials, is_over=is_over, config=config)
    return ray_tune.Tuner(
        # It waits and computes nothing. A byte of memory, as Tune wants a trial to take something.
        ray_tune.with_resources(trainable, ray_tune.PlacementGroupFactory([{"memory": 1}])),
        param_space=dict.fromkeys([*config.tune.searched, TRIAL]) if is_population else None,
        tune_config=ray_tune.TuneConfig(
            metric=config.train.metric,
            mode=config.train.metric_mode,
            num_samples=num_trials,
            scheduler=scheduler(config),
            search_alg=drawn,
            # A population trains in turns, so that all of it is there to be compared.
            max_concurrent_trials=None if is_population else at_once,
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.config[TRIAL]),
        ),
        # By its URL in an object store: Tune puts there itself what a trial goes on from on another node.
        run_config=ray_tune.RunConfig(name="tune", storage_path=shown(folder / "ray"), verbose=0, callbacks=[StopInQueue(queue)]),
    )


def scheduler(config: ExperimentConfig) -> Any:
    """What stops trials, or changes them.

    Asynchronous successive halving (Li et al., 2020, https://arxiv.org/abs/1810.05934), which goes on with the best third after
    a tenth of the epochs, three tenths and nine tenths; the median rule (Golovin et al., 2017,
    https://doi.org/10.1145/3097983.3098043); population-based training
    (Jaderberg et al., 2017, https://arxiv.org/abs/1711.09846), in which the worst quarter goes on from the best one's weights
    with changed values; or nothing.
    """
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, PopulationBasedTraining

    if config.tune.search == "pbt":
        return PopulationBasedTraining(
            time_attr="epoch",
            perturbation_interval=1,
            hyperparam_mutations={name: domain_of(values) for name, values in config.tune.searched.items()},
            custom_explore_fn=lambda values: within(values, config.tune.searched),
            log_config=False,
        )
    if config.tune.scheduler == "none":
        return FIFOScheduler()
    if config.tune.scheduler == "median":
        return MedianStoppingRule(time_attr="epoch", grace_period=1, min_samples_required=3)
    # One more than the longest, as a trial that reaches max_t would be stopped like one that fell behind.
    longest = longest_epochs(config, searched=True)
    return ASHAScheduler(
        time_attr="epoch", max_t=longest + 1, grace_period=max(1, round(longest * GRACE_SHARE)), reduction_factor=ASHA_KEEPS_ONE_IN
    )


def domain_of(values: Range) -> Any:
    """A range as Tune has it."""
    if values.loguniform is not None:
        return ray_tune.loguniform(*values.loguniform)
    if values.uniform is not None:
        return ray_tune.uniform(*values.uniform)
    return list(values.choice or [])


def within(values: dict[str, Any], space: dict[str, Range]) -> dict[str, Any]:
    """Changed values, kept inside their ranges."""
    kept = dict(values)
    for name, ranges in space.items():
        if ranges.bounds is not None:
            low, high = ranges.bounds
            kept[name] = min(max(kept[name], low), high)
    return kept
