"""Importance of each searched setting: permutation importance of a random forest on trials it has not seen.

A forest (Breiman, 2001, https://doi.org/10.1023/A:1010933404324) learns to predict the score from the values. Each trial is
predicted by a forest that was fitted without it: once with its own values, and once with one setting replaced by those of the other
trials in turn. The growth of the error is that setting's importance. A forest that cannot predict unseen trials says nothing about
importance. Then there is no result, instead of a wrong one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from manta_jobs.tuning.report.results import SearchResults

Floats = npt.NDArray[np.float64]

LEAST_TRIALS = 8
MOST_FOLDS = 10
NUM_TREES = 50
LEAST_SKILL = 0.1
"""Share of the scores' variance that the forest must explain on trials it has not seen."""


@dataclass(frozen=True)
class Importance:
    """Importance of each setting for predicting the score, or the reason why it is unknown."""

    num_trials: int
    """Number of trials with a score."""
    shares: dict[str, float]
    """Importance by dotted name, in the config's order; the shares add up to 1. Empty if it is unknown."""
    errors: dict[str, float]
    """Standard error of each share over the trials."""
    skill: float | None = None
    """Share of the scores' variance that the forest explains on trials it has not seen; None if none was fitted."""
    reason: str | None = None
    """Reason why the importance is unknown."""


def importance(results: SearchResults) -> Importance:
    """Compute the settings' importance from the scores of all trials that did not fail."""
    trials = [trial for trial in results.ranked if trial.status != "failed"]
    count = len(trials)
    plural = "" if count == 1 else "s"
    fields = [field for field in results.fields if len({field.place(trial.values[field.name]) for trial in trials}) > 1]
    if count < LEAST_TRIALS:
        reason = f"{count} trial{plural} with a score are too few to tell which setting mattered; it takes at least {LEAST_TRIALS}."
        return Importance(count, {}, {}, reason=reason.replace("1 trial with a score are", "1 trial with a score is"))
    if not fields:
        return Importance(count, {}, {}, reason=f"All {count} trials had the same values.")
    scores = np.array([results.score(trial) for trial in trials], dtype=np.float64)
    if float(scores.std()) == 0.0:
        return Importance(count, {}, {}, reason=f"All {count} trials have the same score, so no setting made a difference.")
    places = np.array([[field.place(trial.values[field.name]) for field in fields] for trial in trials])
    skill, growth = held_out_errors(places, scores)
    if skill < LEAST_SKILL or growth.mean(axis=0).max() <= 0:
        reason = (
            f"{count} trials are too few to tell which setting mattered: a model of the others' values and scores "
            "does not predict the score of the trial that was left out."
        )
        return Importance(count, {}, {}, skill=skill, reason=reason)
    grown = np.maximum(growth.mean(axis=0), 0.0)
    errors = growth.std(axis=0, ddof=1) / np.sqrt(count) / grown.sum()
    names = [field.name for field in fields]
    shares = dict.fromkeys(results.config.tune.searched, 0.0) | dict(zip(names, (grown / grown.sum()).tolist(), strict=True))
    return Importance(count, shares, dict(zip(names, errors.tolist(), strict=True)), skill=skill)


def held_out_errors(places: Floats, scores: Floats) -> tuple[float, Floats]:
    """Measure how well forests predict trials they were not fitted on, from places and scores.

    Places are `(trials, fields)`, scores `(trials,)`. The first result is the share of the scores' variance that is explained. The
    second, `(trials, fields)`, is the growth of each trial's squared error without a field.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import KFold

    count, num_fields = places.shape
    errors, guesses = np.empty(count), np.empty(count)
    growth = np.empty((count, num_fields))
    for known, left_out in KFold(min(count, MOST_FOLDS), shuffle=True, random_state=0).split(places):
        forest = RandomForestRegressor(NUM_TREES, random_state=0).fit(places[known], scores[known])
        errors[left_out] = (forest.predict(places[left_out]) - scores[left_out]) ** 2
        guesses[left_out] = (scores[known].mean() - scores[left_out]) ** 2
        for column in range(num_fields):
            replaced = replaced_errors(forest, places, scores, rows=left_out, column=column)
            growth[left_out, column] = replaced - errors[left_out]
    return float(1 - errors.sum() / guesses.sum()), growth


def replaced_errors(forest: Any, places: Floats, scores: Floats, *, rows: npt.NDArray[np.int64], column: int) -> Floats:
    """Return the mean squared error of each of `rows` when one column takes the values of all trials in turn."""
    count = len(places)
    variants = np.repeat(places[rows], count, axis=0)
    variants[:, column] = np.tile(places[:, column], len(rows))
    errors = (forest.predict(variants) - np.repeat(scores[rows], count)) ** 2
    return np.asarray(errors.reshape(len(rows), count).mean(axis=1), dtype=np.float64)
