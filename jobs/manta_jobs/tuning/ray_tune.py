"""Ray Tune's side of a search: it samples values, follows every trial's epochs and stops trials that fall behind.

A trial in Tune is a `QueuedTrial`, which trains nothing itself. It puts its values into the queue, a worker pool trains them, and
the trial reports the pool's epochs. It needs no CPU, so trials never wait for resources that other trials hold idle.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune as ray_tune
from ray.tune import Callback
from ray.tune.search import Searcher

from manta.storage.object_store import shown
from manta_jobs.tuning.journal import longest_epochs

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray.tune import Tuner
    from ray.tune.experiment import Trial as RayTrial
    from ray.tune.schedulers import TrialScheduler

    from manta.config import ExperimentConfig
    from manta_jobs.tuning.journal import Trial
    from manta_jobs.tuning.samplers import Sampler
    from manta_jobs.tuning.trial_queue import TrialQueue

TRIAL = "trial"
"""Key of the trial's name among the values that Tune holds."""
GRACE_SHARE = 0.1
"""Share of a trial's epochs before which none is stopped, but at least one epoch. Few rows are trained for many short epochs."""
ASHA_KEEPS_ONE_IN = 3


class TrialFailedError(Exception):
    """Error of a trial that failed or was not run; the search continues."""


class QueuedTrial(ray_tune.Trainable):  # type: ignore[misc]  # Ray's class is untyped
    """One trial as Tune sees it. Its process is used again for the next trial."""

    def setup(self, config: dict[str, Any], queue: TrialQueue) -> None:
        """Take the first trial."""
        self._queue = queue
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take a trial. It is put into the queue when its first epoch is asked for."""
        self._values = {name: value for name, value in new_config.items() if name != TRIAL}
        self._known = 0
        self._is_submitted = False
        return True

    def step(self) -> dict[str, Any]:
        """Wait for the next epoch, and return its metrics.

        Raises:
            TrialFailedError: there will be no next epoch; the message has the trial's reason.
        """
        name = str(self.trial_name)
        if not self._is_submitted:
            self._queue.submit(name, self._values)
            self._is_submitted = True
        trial = self._queue.next_epoch(name, known=self._known)
        if len(trial.history) <= self._known:
            raise TrialFailedError(f"{trial.status}: {trial.reason}")
        metrics = trial.history[self._known]
        self._known += 1
        is_last = trial.status != "running" and len(trial.history) == self._known
        return metrics | {"done": is_last}


class SampledTrials(Searcher):  # type: ignore[misc]  # Ray's class is untyped
    """Source of Tune's trials: first those that an interrupted search had begun, then new samples."""

    def __init__(
        self,
        sampler: Sampler,
        *,
        begun: dict[str, dict[str, Any]],
        num_trials: int,
        is_over: Callable[[], bool],
        config: ExperimentConfig,
    ) -> None:
        super().__init__(metric=config.train.metric, mode=config.train.metric_mode)
        self._sampler = sampler
        self._begun = begun
        self._num_trials = num_trials
        self._is_over = is_over
        self._drawn: dict[str, dict[str, Any]] = {}
        self._scores: dict[str, float] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial's values and name, or the mark that the search is finished."""
        number = len(self._drawn)
        name = trial_name(number)
        values = self._begun.get(name)
        if number == self._num_trials or (values is None and self._is_over()):
            return str(Searcher.FINISHED)
        if values is not None:
            self._sampler.replay(values)
        else:
            values = self._sampler.sample(number)
        if values is None:
            return str(Searcher.FINISHED)
        self._drawn[trial_id] = values
        return values | {TRIAL: name}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Remember the score of the trial's last epoch."""
        self._scores[trial_id] = float(result[self.metric])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass the trial's score on to the sampler, if it has one."""
        if result and self.metric in result:
            self.on_trial_result(trial_id, result)
        if trial_id in self._scores:
            self._sampler.tell(self._drawn[trial_id], self._scores[trial_id])

    def save(self, checkpoint_path: str) -> None:
        """Create an empty file, because Tune wants one. The journal holds all there is to save."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: see `save`."""


class StopInQueue(Callback):  # type: ignore[misc]  # Ray's class is untyped
    """Callback that tells the queue at once when the scheduler has stopped a trial."""

    def __init__(self, queue: TrialQueue) -> None:
        self._queue = queue

    def on_trial_complete(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        """Stop the trial in the queue, after it ended by itself or by the scheduler."""
        self._queue.stop(str(trial))

    def on_trial_error(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        """Stop the trial in the queue if its process failed, so that no worker waits for a decision on it."""
        self._queue.stop(str(trial))


def trial_name(number: int) -> str:
    """Return the name of a trial by its number from 0: `trial-001` for 0."""
    return f"trial-{number + 1:03d}"


def build_tuner(
    config: ExperimentConfig,
    *,
    queue: TrialQueue,
    sampler: Sampler,
    begun: dict[str, Trial],
    at_once: int,
    folder: Path,
    is_over: Callable[[], bool],
) -> Tuner:
    """Return the search, not yet started. `begun` are the trials of an interrupted search, by name."""
    # Ray's newer output always prints a banner on stdout; stdout is reserved for `--json`.
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    # Each trial's figures are in the journal and in MLflow.
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    trainable = ray_tune.with_parameters(QueuedTrial, queue=queue)
    recorded = {name: trial.values for name, trial in begun.items()}
    num_trials = config.tune.budget.num_trials
    search = SampledTrials(sampler, begun=recorded, num_trials=num_trials, is_over=is_over, config=config)
    return ray_tune.Tuner(
        # The trial computes nothing. It takes a byte of memory, because Tune wants a trial to take something.
        ray_tune.with_resources(trainable, ray_tune.PlacementGroupFactory([{"memory": 1}])),
        tune_config=ray_tune.TuneConfig(
            metric=config.train.metric,
            mode=config.train.metric_mode,
            num_samples=num_trials,
            scheduler=scheduler(config),
            search_alg=search,
            max_concurrent_trials=at_once,
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.config[TRIAL]),
        ),
        # In an object store, this is a URL. Tune itself stores there the state from which a trial resumes on another node.
        run_config=ray_tune.RunConfig(
            name="tune",
            storage_path=shown(folder / "ray"),
            verbose=0,
            callbacks=[StopInQueue(queue)],
            # A trial's process has nothing to save. Asked to when it is stopped, it would count as failed.
            checkpoint_config=ray_tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )


def scheduler(config: ExperimentConfig) -> TrialScheduler:
    """Return the scheduler that stops trials: asynchronous successive halving, or one that stops none.

    Successive halving (Li et al., 2020, https://arxiv.org/abs/1810.05934) continues with the best third of the trials after a tenth
    of the epochs, three tenths and nine tenths.
    """
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if config.tune.scheduler == "none":
        return FIFOScheduler()
    # One more than the longest, because a trial that reaches max_t would be stopped like one that fell behind.
    longest = longest_epochs(config, searched=True)
    return ASHAScheduler(
        time_attr="epoch", max_t=longest + 1, grace_period=max(1, round(longest * GRACE_SHARE)), reduction_factor=ASHA_KEEPS_ONE_IN
    )
