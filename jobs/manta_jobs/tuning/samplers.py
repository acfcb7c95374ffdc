"""Samplers choose the values of a search's trials: at random, every combination, or guided by the results so far.

The first trial has the config's own values, so a search never ends worse than it started. Samples depend only on the seed and, with
TPE, on the results so far.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from manta.config import ExperimentConfig, Range


class Sampler(Protocol):
    """Interface of a sampler, which chooses the values of one trial after another."""

    def sample(self, number: int) -> dict[str, Any] | None:
        """Return the values of trial `number`, counted from 0 and asked for in that order; None when there are no more."""

    def replay(self, values: dict[str, Any]) -> None:
        """Take a trial's values from an interrupted search instead of a new sample."""

    def tell(self, values: dict[str, Any], score: float) -> None:
        """Learn the score of sampled values: the metric that compares trials, after the last epoch."""


class ListSampler:
    """Sampler of values that are all known from the start: random ones, or every combination of `choice` lists."""

    def __init__(self, points: list[dict[str, Any]]) -> None:
        self._points = points

    def sample(self, number: int) -> dict[str, Any] | None:
        """Return the point with that number; None after the last point."""
        return self._points[number] if number < len(self._points) else None

    def replay(self, values: dict[str, Any]) -> None:
        """Do nothing: the same number always has the same values."""

    def tell(self, values: dict[str, Any], score: float) -> None:
        """Do nothing: results change no sample."""


class TpeSampler:
    """The tree-structured Parzen estimator of Optuna (Bergstra et al., 2011, https://optuna.org)."""

    def __init__(self, config: ExperimentConfig, space: dict[str, Range], own: dict[str, Any]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = {name: _distribution(values) for name, values in space.items()}
        # Trials that are still training count as bad ones, so that two worker pools do not try the same twice.
        sampler = optuna.samplers.TPESampler(seed=config.tune.seed, constant_liar=True, n_startup_trials=NUM_RANDOM_FIRST)
        higher_is_better = config.train.metric_mode == "max"
        self._study = optuna.create_study(sampler=sampler, direction="maximize" if higher_is_better else "minimize")
        self._own = own
        self._asked: list[Any] = []

    def sample(self, number: int) -> dict[str, Any] | None:
        """Return the config's own values first, then the values that Optuna suggests."""
        if number == 0:
            self.replay(self._own)
            return self._own
        trial = self._study.ask(self._space)
        self._asked.append((dict(trial.params), trial))
        return dict(trial.params)

    def replay(self, values: dict[str, Any]) -> None:
        """Add the values to Optuna's study. Values outside of the search space are ignored."""
        if all(self._space[name]._contains(self._space[name].to_internal_repr(value)) for name, value in values.items()):
            self._study.enqueue_trial(values)
            trial = self._study.ask(self._space)
            self._asked.append((values, trial))

    def tell(self, values: dict[str, Any], score: float) -> None:
        """Report a sample's score to Optuna. Call it once for each sample."""
        for index, (asked, trial) in enumerate(self._asked):
            if asked == values:
                self._study.tell(trial, score)
                del self._asked[index]
                return


NUM_RANDOM_FIRST = 5
"""Random trials before TPE begins to choose. Optuna's own default of 10 is more than many searches have in total."""


def make_sampler(config: ExperimentConfig, space: dict[str, Range]) -> Sampler:
    """Return the sampler that `tune.search` names."""
    own = {name: value_of(config, name) for name in space}
    if config.tune.search == "optuna":
        return TpeSampler(config, space, own)
    points = grid_points(space) if config.tune.search == "grid" else random_points(config, space)
    return ListSampler([own, *(point for point in points if point != own)][: config.tune.budget.num_trials])


def random_points(config: ExperimentConfig, space: dict[str, Range]) -> list[dict[str, Any]]:
    """Return one point for each trial of the search, all drawn from the same generator."""
    generator = np.random.default_rng(config.tune.seed)
    return [{name: _sample(values, generator) for name, values in space.items()} for _ in range(config.tune.budget.num_trials)]


def grid_points(space: dict[str, Range]) -> list[dict[str, Any]]:
    """Return every combination of `choice` lists; the last field varies fastest."""
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*(kind.choice or [] for kind in space.values()))]


def value_of(config: ExperimentConfig, name: str) -> Any:
    """Return a setting by its dotted name."""
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _sample(values: Range, generator: np.random.Generator) -> Any:
    if values.loguniform is not None:
        low, high = values.loguniform
        return float(math.exp(generator.uniform(math.log(low), math.log(high))))
    if values.uniform is not None:
        return float(generator.uniform(*values.uniform))
    if values.randint is not None:
        return int(generator.integers(values.randint[0], values.randint[1] + 1))
    options = values.choice or []
    return options[int(generator.integers(len(options)))]


def _distribution(values: Range) -> BaseDistribution:
    from optuna import distributions

    if values.loguniform is not None:
        return distributions.FloatDistribution(*values.loguniform, log=True)
    if values.uniform is not None:
        return distributions.FloatDistribution(*values.uniform)
    if values.randint is not None:
        return distributions.IntDistribution(*values.randint)
    return distributions.CategoricalDistribution(values.choice or [])
