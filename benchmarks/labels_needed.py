"""The measures of `manta data suggest` for `data.py`: labels needed by each way of choosing rows, and the coverage of forecasts.

Labels needed: rows are labeled batch by batch until the regression reaches 90% of the accuracy that it has with all rows. The first
batch is drawn at random, the same for every way of choosing:

- `random`      at random
- `margin`      the smallest margins between the two most probable labels
- `entropy`     the highest entropies
- `diversity`   the row nearest to each center of a k-means of the rows without a label
- `both`        what `manta data suggest` does: small margins, then one row of each cluster of them

SST-2 and AG News choose, BANKING77 only reports.

Coverage: a forecast from some labeled rows aims at the accuracy that twice as many rows have on test rows, as a power law through
fits to growing parts of all rows says. `free` leaves the exponent of the forecast between 0.05 and 2, `bounded` between 0.3 and
0.8, and `half` fixes it at a half.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from manta.data.split import Indices, stratified_split
from manta.labels import Floats, LabelSpace, Targets
from manta.model.regression import fit_regression
from manta_jobs.data.choice import central, choose, margins
from manta_jobs.data.forecast import PowerLaw, forecast, learning_curve, power_law
from manta_jobs.training.few_rows.linear import STRENGTHS

Result = dict[str, Any]
SHARE = 0.9
BATCHES = {"sst2": (20, 400), "agnews": (10, 200), "banking77": (77, 1540)}
"""Rows of a batch, and most rows that are labeled."""
RUNS = {"sst2": 9, "agnews": 9, "banking77": 3}
"""Runs of each way, each with another first batch."""
FORECASTS = {"sst2": (400, 7), "agnews": (300, 6), "banking77": (900, 7)}
"""Labeled rows of a forecast, and how many forecasts."""
FORMS = {"free": (0.05, 2.0), "bounded": (0.3, 0.8), "half": (0.49, 0.51)}
CHOOSING = ("sst2", "agnews")


class Rows(Protocol):
    """Embedded rows of a case with their labels, as `data.Drawn` has them."""

    labels: LabelSpace
    vectors: Floats
    targets: Targets
    test_vectors: Floats
    test_targets: Targets


def accuracy_with(rows: Rows, own: Indices) -> tuple[float, npt.NDArray[np.float64]]:
    """Return the test accuracy after fitting to the rows `own`, and the probabilities of all rows."""
    model = fit_to(rows)(rows.vectors[own], rows.targets[own])
    answers = rows.labels.decide(rows.labels.probabilities(model.logits(rows.test_vectors)))
    return float((answers == rows.test_targets).mean()), rows.labels.probabilities(model.logits(rows.vectors))


def fit_to(rows: Rows) -> Callable[..., Any]:
    """Return the fit of a regression of the middle strength."""
    return partial(fit_regression, labels=rows.labels, strength=STRENGTHS[1])


def next_rows(way: str, rows: Rows, left: Indices, probabilities: Floats, *, count: int, seed: int) -> Indices:
    """Return the rows among `left` that a way of choosing labels next."""
    generator = np.random.default_rng([seed, len(left)])
    if way == "random":
        return np.asarray(generator.choice(left, count, replace=False))
    if way == "diversity":
        some = np.sort(generator.choice(left, min(len(left), 10 * count), replace=False))
        return np.asarray(some[central(rows.vectors[some], np.ones(len(some)), count=count, seed=seed)])
    if way == "both":
        return np.asarray(left[choose(rows.vectors[left], probabilities[left], count=count, seed=seed)])
    known = probabilities[left]
    certainty = margins(known) if way == "margin" else (known * np.log(np.maximum(known, 1e-12))).sum(axis=1)
    return np.asarray(left[np.argsort(certainty, kind="stable")[:count]])


def labels_needed(rows: Rows, case: str, way: str, *, seed: int) -> Result:
    """Label batch by batch, and return the rows at which 90% of the full accuracy is reached, read off between two batches."""
    count, most = BATCHES[case]
    everything = np.arange(len(rows.targets))
    goal = SHARE * accuracy_with(rows, everything)[0]
    own = np.random.default_rng(seed).choice(everything, count, replace=False)
    found: list[tuple[int, float]] = []
    while True:
        accuracy, probabilities = accuracy_with(rows, own)
        found.append((len(own), accuracy))
        if accuracy >= goal or len(own) >= most:
            break
        left = np.setdiff1d(everything, own)
        own = np.concatenate([own, next_rows(way, rows, left, probabilities, count=count, seed=seed)])
    return {"goal": goal, "curve": found, "labels": crossing(found, goal)}


def crossing(curve: list[tuple[int, float]], goal: float) -> float | None:
    """Return the rows at which a line through the last two points meets the goal; None if the last one is below it."""
    if curve[-1][1] < goal:
        return None
    if len(curve) == 1:
        return float(curve[0][0])
    (low, before), (high, after) = curve[-2:]
    return low + (high - low) * (goal - before) / (after - before)


def true_law(rows: Rows) -> PowerLaw:
    """Return the law of test accuracy, from three fits to each of six growing parts of the rows."""
    sizes = np.geomspace(len(rows.targets) / 10, 0.95 * len(rows.targets), 6).astype(np.int64)
    shares = sizes / len(rows.targets)
    parts = [[stratified_split(rows.targets, fraction=share, seed=seed)[1] for seed in range(3)] for share in shares]
    accuracy = [np.mean([accuracy_with(rows, part)[0] for part in some]) for some in parts]
    return power_law(sizes, np.array(accuracy), exponents=FORMS["free"])


def forecasts(rows: Rows, case: str, *, run: int, law: PowerLaw) -> Iterator[Result]:
    """Yield a forecast of each form from some of the rows, with the true number of labels."""
    num_rows, _ = FORECASTS[case]
    target = float(law.at(2 * num_rows))
    own = stratified_split(rows.targets, fraction=num_rows / len(rows.targets), seed=100 + run)[1]
    curve = learning_curve(rows.vectors[own], rows.targets[own], labels=rows.labels, fit=fit_to(rows), seed=run)
    for form, exponents in FORMS.items():
        found = forecast(curve, target=target, num_rows=len(own), seed=run, exponents=exponents)
        low, high = found.ends or (0.0, 0.0)
        is_inside = low <= law.rows_for(target) <= high
        yield {"form": form, "true": law.rows_for(target) - len(own), "is_inside": is_inside, **found.to_dict()}


def needed_table(results: list[Result]) -> list[str]:
    """Return the lines of a table with the mean labels needed by each way, and the share saved against random choice."""
    groups: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in results:
        if row.get("measure") == "labels":
            missed = float(BATCHES[row["case"]][1])
            groups[row["case"]][row["way"]].append(missed if row["labels"] is None else row["labels"])
    if not groups:
        return []
    ways = list(next(iter(groups.values())))
    lines = [f"| set | {' | '.join(ways)} | `both` saves |", f"|{' --- |' * (len(ways) + 2)}"]
    for case, by_way in groups.items():
        means = {way: float(np.mean(by_way[way])) for way in ways}
        saved = "" if case in CHOOSING else "**"
        cells = " | ".join(f"{means[way]:,.0f}" for way in ways)
        lines.append(f"| {case} | {cells} | {saved}{1 - means['both'] / means['random']:.0%}{saved} |")
    return lines


def coverage_table(results: list[Result]) -> list[str]:
    """Return the lines of a table with the number of forecasts that were given, and of those whose interval has the true number."""
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for row in results:
        if row.get("measure") == "forecast":
            groups[row["form"], row["case"]].append(row)
            groups[row["form"], "all"].append(row)
    headings = ("exponent", "set", "labeled rows", "runs", "true number inside", "refused", "given", "true number inside, given")
    lines = [f"| {' | '.join(headings)} |", f"|{' --- |' * len(headings)}"]
    for (form, case), rows in sorted(groups.items()):
        given = [row for row in rows if row["labels"] is not None]
        inside, of_given = (sum(row["is_inside"] for row in some) for some in (rows, given))
        labeled = "" if case == "all" else f"{rows[0]['num_rows']:,}"
        cells = f"{len(rows)} | {inside} | {len(rows) - len(given)} | {len(given)} | {of_given}"
        lines.append(f"| {form} | {case} | {labeled} | {cells} |")
    return lines if groups else []
