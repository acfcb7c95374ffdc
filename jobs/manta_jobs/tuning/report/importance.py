"""How much each searched setting mattered: permutation importance of a random forest on trials it has not seen.

A forest (Breiman, 2001, https://doi.org/10.1023/A:1010933404324) learns to predict the score from the values. Each trial is
predicted by a forest that was fitted without it, once with its own values and once with one setting replaced by those of the
other trials in turn; what the error grows by is that setting's importance. A forest that cannot predict trials it has not
seen knows nothing of what mattered: then there is no answer, rather than a wrong one.
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
    """What each setting adds to predicting the score; or why that cannot be told."""

    num_trials: int
    """How many trials with a score there were."""
    shares: dict[str, float]
    """By dotted name, in the config's order; they add up to 1. Empty where nothing can be told."""
    errors: dict[str, float]
    """Standard error of each share over the trials."""
    skill: float | None = None
    """Share of the scores' variance that the forest explains on trials it has not seen; None where none was fitted."""
    reason: str | None = None
    """Why nothing can be told."""


def importance(results: SearchResults) -> Importance:
    """Judge the settings by the scores of all trials that did not fail."""
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
    """How well forests predict trials they were not fitted on, from `(trials, fields)` places and `(trials,)` scores.

    The first figure is the share of the scores' variance that is explained. The second, `(trials, fields)`, says by how
    much each trial's squared error grows without a field.
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
    """Mean squared error of each of `rows` when one column takes the values of all trials in turn."""
    count = len(places)
    variants = np.repeat(places[rows], count, axis=0)
    variants[:, column] = np.tile(places[:, column], len(rows))
    errors = (forest.predict(variants) - np.repeat(scores[rows], count)) ** 2
    return np.asarray(errors.reshape(len(rows), count).mean(axis=1), dtype=np.float64)
