"""A finished search as its report sees it: searched fields as axes from 0 to 1, scores, the winner and the config's own trial."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from manta.config import ExperimentConfig, Range
    from manta_jobs.tuning.journal import Confirmation, Trial

MOST_TICKS = 7
LOG_FROM_RATIO = 8
"""Listed numbers that span at least this factor are shown on a log axis."""
MOST_CHARACTERS = 22


@dataclass(frozen=True)
class SearchedField:
    """One searched field as an axis: the places of its values between 0 and 1, and its ticks."""

    name: str
    """Dotted name, as in the config."""
    label: str
    """Shortest name that is unique among the searched fields."""
    scale: Literal["linear", "log", "category"]
    listed: tuple[Any, ...]
    """The values of a `choice`, and any other values that trials had; empty for a range."""
    low: float = 0.0
    high: float = 1.0

    def place(self, value: Any) -> float:
        """Return the place of a value on the axis; 0.5 if the axis has only one value."""
        if self.scale == "category":
            index = [_key(level) for level in self.listed].index(_key(value))
            return index / (len(self.listed) - 1) if len(self.listed) > 1 else 0.5
        low, high, number = (math.log(each) if self.scale == "log" else float(each) for each in (self.low, self.high, value))
        return (number - low) / (high - low) if high > low else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        """Return the places and texts of the ticks."""
        if self.scale == "category":
            return [(self.place(value), short_text(value)) for value in self.listed]
        if self.listed:
            return [(self.place(value), value_text(value)) for value in thinned(list(self.listed))]
        numbers = log_ticks(self.low, self.high) if self.scale == "log" else linear_ticks(self.low, self.high)
        return [(self.place(number), value_text(number)) for number in numbers]


@dataclass(frozen=True)
class SearchResults:
    """The data from which the plots and the report are made."""

    config: ExperimentConfig
    """The config that the search started from."""
    trials: list[Trial]
    confirmations: list[Confirmation]
    winner_values: dict[str, Any] | None
    """The winner's values; None if no trial finished an epoch."""

    def score(self, trial: Trial) -> float | None:
        """Return the metric of the epoch that a trial keeps; None without a finite number."""
        return trial.score(self.config)

    def planned(self, trial: Trial) -> int:
        """Return the epochs that a trial would have run."""
        return trial.planned_epochs(self.config)

    @property
    def metric(self) -> str:
        """The validation metric that chooses the winner."""
        return self.config.train.metric

    @property
    def metric_label(self) -> str:
        """The metric in words."""
        return f"validation {self.metric.replace('_', ' ')}"

    @property
    def higher_is_better(self) -> bool:
        """True if a higher metric is better; False for a loss."""
        return self.config.train.metric_mode == "max"

    @cached_property
    def ranked(self) -> list[Trial]:
        """Trials with a score, best first; failed ones come after all others."""
        scored = [(trial, score) for trial in self.trials if (score := self.score(trial)) is not None]
        sign = -1 if self.higher_is_better else 1
        return [trial for trial, score in sorted(scored, key=lambda pair: (pair[0].status == "failed", sign * pair[1]))]

    @cached_property
    def fields(self) -> list[SearchedField]:
        """The searched fields in the order of the config."""
        return [self._field(name, values) for name, values in self.config.tune.searched.items()]

    @cached_property
    def own_values(self) -> dict[str, Any]:
        """The config's own value of each searched field."""
        document = self.config.model_dump(mode="json")
        return {name: value_in(document, name) for name in self.config.tune.searched}

    @cached_property
    def own(self) -> Trial | None:
        """The trial with the config's own values."""
        drawn = (trial for trial in self.trials if trial.values or not self.own_values)
        return next((trial for trial in drawn if self._same(trial.values, self.own_values)), None)

    @cached_property
    def winner(self) -> Trial | None:
        """The trial that won. Of trials with the same values, a confirmed one comes first."""
        if self.winner_values is None:
            return None
        candidates = [*(confirmation.trial for confirmation in self.confirmations), *self.ranked]
        return next((trial for trial in candidates if self._same(trial.values, self.winner_values)), None)

    @cached_property
    def winning(self) -> Confirmation | None:
        """The confirmation of the winner, with its runs with other seeds."""
        return next((each for each in self.confirmations if self.winner is not None and each.trial.name == self.winner.name), None)

    @property
    def metric_axis(self) -> SearchedField:
        """The scores as an axis; a higher place is a higher score."""
        scores = [score for trial in self.ranked if (score := self.score(trial)) is not None] or [0.0, 1.0]
        return SearchedField(self.metric, self.metric_label, "linear", (), min(scores), max(scores))

    def _same(self, left: dict[str, Any], right: dict[str, Any]) -> bool:
        return all(_key(left.get(name, own)) == _key(right.get(name, own)) for name, own in self.own_values.items())

    def _field(self, name: str, values: Range) -> SearchedField:
        seen = [trial.values[name] for trial in self.trials if name in trial.values]
        label = self._label(name)
        if values.choice is not None:
            listed = tuple({_key(value): value for value in [*values.choice, *seen]}.values())
            if not all(is_number(value) for value in listed):
                return SearchedField(name, label, "category", listed)
            listed = tuple(sorted(listed))
            is_log = listed[0] > 0 and listed[-1] >= LOG_FROM_RATIO * listed[0]
            return SearchedField(name, label, "log" if is_log else "linear", listed, listed[0], listed[-1])
        bounds = values.bounds or (0.0, 1.0)
        if not all(is_number(value) for value in seen):  # the config's own value may be a word, such as `auto`
            return SearchedField(name, label, "category", tuple({_key(value): value for value in seen}.values()))
        is_log = values.loguniform is not None and all(value > 0 for value in seen)
        return SearchedField(name, label, "log" if is_log else "linear", (), min([*bounds, *seen]), max([*bounds, *seen]))

    def _label(self, name: str) -> str:
        leaves = [other.rsplit(".", 1)[-1] for other in self.config.tune.searched]
        leaf = name.rsplit(".", 1)[-1]
        return leaf.replace("_", " ") if leaves.count(leaf) == 1 else name


def finite_epochs(trial: Trial, metric: str) -> tuple[list[int], list[float]]:
    """Return the epochs in which a metric is a finite number, and its values there."""
    known: list[tuple[Any, Any]] = [(epoch["epoch"], epoch.get(metric)) for epoch in trial.history]
    pairs = [(int(epoch), float(value)) for epoch, value in known if is_number(value)]
    return [epoch for epoch, _ in pairs], [value for _, value in pairs]


def is_number(value: Any) -> bool:
    """Tell whether a value can be placed on a scale. True and false cannot."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def value_in(document: dict[str, Any], name: str) -> Any:
    """Return a setting of a config's JSON by its dotted name; None if a section on the way is missing."""
    value: Any = document
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def value_text(value: Any) -> str:
    """Return a value as people write it: `3.2e-4`, `0.12`, `true`, `all-linear`."""
    if isinstance(value, str):
        return value
    if not isinstance(value, float):
        return json.dumps(value, ensure_ascii=False)
    if 0 < abs(value) < 0.01 or abs(value) >= 1e6:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.6g}"


def short_text(value: Any, *, most: int = MOST_CHARACTERS) -> str:
    """Return a value's text for a tick: on one line, and cut in the middle if it is longer than `most` characters."""
    text = " ".join(value_text(value).split())
    return text if len(text) <= most else f"{text[: (most - 1) // 2]}…{text[-(most // 2) :]}"


def linear_ticks(low: float, high: float) -> list[float]:
    """Return round numbers between the bounds."""
    from matplotlib.ticker import MaxNLocator

    if low == high:
        return [low]
    ticks = [float(tick) for tick in MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]
    return [round(tick, 12) for tick in ticks if low - 1e-12 <= tick <= high + 1e-12]


def log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 of each power of ten between the bounds, or fewer of them if these are too many."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [float(f"{step}e{exponent}") for exponent in exponents for step in steps]
        ticks = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(ticks) <= MOST_TICKS:
            break
    return thinned(ticks) if len(ticks) > 1 else [low, high]


def thinned(numbers: list[float]) -> list[float]:
    """Return at most `MOST_TICKS` of the numbers, including the first."""
    return numbers[:: math.ceil(len(numbers) / MOST_TICKS)]


def _key(value: Any) -> str:
    """Return a key that tells values apart, even unhashable ones; 1 and 1.0 have the same key."""
    return json.dumps(float(value) if is_number(value) else value, sort_keys=True, default=str)
