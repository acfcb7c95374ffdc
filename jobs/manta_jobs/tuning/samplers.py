"""How a search draws its trials' values: at random, every combination, or by what did well so far.

The first trial is the config as it stands, so that a search never ends worse than what it started from. Draws depend on the seed
and, with TPE, on the results told so far; nothing else.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from manta.config import ExperimentConfig, Range


class Draws(Protocol):
    """Where values come from."""

    def draw(self, number: int) -> dict[str, Any] | None:
        """The values of trial `number`, from 0 and in that order; None when there are no more."""

    def known(self, values: dict[str, Any]) -> None:
        """A trial of an interrupted search had these; they take the place of a draw."""

    def told(self, values: dict[str, Any], score: float) -> None:
        """Take the result of drawn values: the metric that compares trials, after the last epoch."""


class ListedDraws:
    """Values that are all known from the start: random ones, or every combination of `choice` lists."""

    def __init__(self, points: list[dict[str, Any]]) -> None:
        self._points = points

    def draw(self, number: int) -> dict[str, Any] | None:
        """The point of that number."""
        return self._points[number] if number < len(self._points) else None

    def known(self, values: dict[str, Any]) -> None:
        """Nothing: the same number has the same values anyway."""

    def told(self, values: dict[str, Any], score: float) -> None:
        """Nothing: results change no draw."""


class TpeDraws:
    """The tree-structured Parzen estimator of Optuna (Bergstra et al., 2011, https://optuna.org)."""

    def __init__(self, config: ExperimentConfig, space: dict[str, Range], own: dict[str, Any]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = {name: _distribution(values) for name, values in space.items()}
        # Trials that are still training count as bad ones, so that two lanes do not try the same twice.
        sampler = optuna.samplers.TPESampler(seed=config.tune.seed, constant_liar=True, n_startup_trials=NUM_RANDOM_FIRST)
        higher_is_better = config.train.metric_mode == "max"
        self._study = optuna.create_study(sampler=sampler, direction="maximize" if higher_is_better else "minimize")
        self._own = own
        self._asked: list[Any] = []

    def draw(self, number: int) -> dict[str, Any] | None:
        """The config's own values first, then what promises most."""
        if number == 0:
            self.known(self._own)
            return self._own
        trial = self._study.ask(self._space)
        self._asked.append((dict(trial.params), trial))
        return dict(trial.params)

    def known(self, values: dict[str, Any]) -> None:
        """They may lie outside of the space; Optuna then learns nothing of them."""
        if all(self._space[name]._contains(self._space[name].to_internal_repr(value)) for name, value in values.items()):
            self._study.enqueue_trial(values)
            trial = self._study.ask(self._space)
            self._asked.append((values, trial))

    def told(self, values: dict[str, Any], score: float) -> None:
        """Once for each draw."""
        for index, (asked, trial) in enumerate(self._asked):
            if asked == values:
                self._study.tell(trial, score)
                del self._asked[index]
                return


NUM_RANDOM_FIRST = 5
"""Trials before TPE begins to choose: Optuna's own default is 10, more than many a search has in all."""


def make_draws(config: ExperimentConfig, space: dict[str, Range]) -> Draws:
    """The kind that `tune.search` names."""
    own = {name: value_of(config, name) for name in space}
    if config.tune.search == "optuna":
        return TpeDraws(config, space, own)
    points = grid_points(space) if config.tune.search == "grid" else random_points(config, space)
    return ListedDraws([own, *(point for point in points if point != own)][: config.tune.budget.num_trials])


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
