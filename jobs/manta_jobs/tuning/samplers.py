"""Samplers: how a search chooses its trials' values: at random, every combination, or by what did well so far.

The first trial has the values of the config as it stands, so a search never ends worse than it started. Samples depend on the
seed and, with TPE, on the results so far; on nothing else.
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
    """Chooses the values of one trial after another."""

    def sample(self, number: int) -> dict[str, Any] | None:
        """The values of trial `number`, from 0 and in that order; None when there are no more."""

    def replay(self, values: dict[str, Any]) -> None:
        """Take a trial's values from an interrupted search in place of a new sample."""

    def tell(self, values: dict[str, Any], score: float) -> None:
        """Learn what sampled values came to: the metric that compares trials, after the last epoch."""


class ListSampler:
    """Values that are all known from the start: random ones, or every combination of `choice` lists."""

    def __init__(self, points: list[dict[str, Any]]) -> None:
        self._points = points

    def sample(self, number: int) -> dict[str, Any] | None:
        """The point of that number."""
        return self._points[number] if number < len(self._points) else None

    def replay(self, values: dict[str, Any]) -> None:
        """Nothing: the same number has the same values anyway."""

    def tell(self, values: dict[str, Any], score: float) -> None:
        """Nothing: results change no sample."""


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
        """The config's own values first, then what promises most."""
        if number == 0:
            self.replay(self._own)
            return self._own
        trial = self._study.ask(self._space)
        self._asked.append((dict(trial.params), trial))
        return dict(trial.params)

    def replay(self, values: dict[str, Any]) -> None:
        """Values outside of the space teach Optuna nothing."""
        if all(self._space[name]._contains(self._space[name].to_internal_repr(value)) for name, value in values.items()):
            self._study.enqueue_trial(values)
            trial = self._study.ask(self._space)
            self._asked.append((values, trial))

    def tell(self, values: dict[str, Any], score: float) -> None:
        """Call it once for each sample."""
        for index, (asked, trial) in enumerate(self._asked):
            if asked == values:
                self._study.tell(trial, score)
                del self._asked[index]
                return


NUM_RANDOM_FIRST = 5
"""Trials before TPE begins to choose: Optuna's own default is 10, more than many a search has in all."""


def make_sampler(config: ExperimentConfig, space: dict[str, Range]) -> Sampler:
    """The sampler that `tune.search` names."""
    own = {name: value_of(config, name) for name in space}
    if config.tune.search == "optuna":
        return TpeSampler(config, space, own)
    points = grid_points(space) if config.tune.search == "grid" else random_points(config, space)
    return ListSampler([own, *(point for point in points if point != own)][: config.tune.budget.num_trials])


def random_points(config: ExperimentConfig, space: dict[str, Range]) -> list[dict[str, Any]]:
    """As many points as the search has trials, each drawn from the same generator."""
    generator = np.random.default_rng(config.tune.seed)
    return [{name: _sample(values, generator) for name, values in space.items()} for _ in range(config.tune.budget.num_trials)]


def grid_points(space: dict[str, Range]) -> list[dict[str, Any]]:
    """Every combination of `choice` lists, the last field varying fastest."""
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*(kind.choice or [] for kind in space.values()))]


def value_of(config: ExperimentConfig, name: str) -> Any:
    """A setting by its dotted name."""
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
