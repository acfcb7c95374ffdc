"""The measure `accuracy` for `data.py`: how well accuracy is estimated without labels, in windows of answers with a planted shift.

Models and held-out labels are those of `scope.py`; the regression is calibrated on the validation rows. Each window has 1,000 test
rows, drawn with replacement:

- `none`        rows as they are
- `labels`      the labels' shares are drawn (Dirichlet, 0.5), so that a few labels have most rows
- `new topic`   a quarter of the rows are of the held-out labels (of SST-2: of AG News), and no answer to them is right
- `register`    five typos in each text

Compared by the absolute error against the window's true accuracy:

- `confidence`  the mean calibrated confidence
- `saerens`     the mean confidence after expectation maximization on all probabilities (Saerens et al., 2002)
- `recall`      each label's accuracy on the validation rows, weighed by its estimated share
- `estimate`    what Manta does (`manta.inference.estimated_accuracy`)

AG News and SST-2 choose, BANKING77 only reports.
"""

from __future__ import annotations

import dataclasses
import random
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from labels_needed import Rows, fit_to
from manta.behaviour.perturbations import typo
from manta.inference.calibration import fit_temperature
from manta.inference.estimated_accuracy import Window, answer_sums, estimated, label_shares
from manta.inference.scope import References, chosen_scope
from manta.labels import Floats, LabelSpace, Targets

Result = dict[str, Any]
Values = npt.NDArray[np.float64]
NUM_WINDOWS = 40
WINDOW_ROWS = 1000
NUM_TYPOS = 5
KINDS = ("none", "labels", "new topic", "register")
WAYS = ("confidence", "saerens", "recall", "estimate")
SCOPE_LOSS = 0.02


@dataclass(frozen=True)
class Judged:
    """Rows of one kind as a model answers them."""

    probabilities: Values
    is_right: npt.NDArray[np.bool_]
    is_out: npt.NDArray[np.bool_]
    targets: Targets


def with_typos(texts: list[str], *, seed: int) -> list[str]:
    """Return the texts in a register in which people mistype."""
    generator = random.Random(seed)
    changed = []
    for text in texts:
        mistyped = text
        for _ in range(NUM_TYPOS):
            mistyped = typo(mistyped, generator)
        changed.append(mistyped)
    return changed


def accuracy_measured(rows: Rows, strangers: Floats, mistyped: Floats, *, held_out: list[int], seed: int) -> list[Result]:
    """Return the errors of each way to estimate accuracy, for each kind of shift.

    `strangers` are embeddings of rows that are none of the labels, `mistyped` those of the test rows with typos.
    """
    kept = np.setdiff1d(np.arange(len(rows.labels.names)), held_out)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(np.isin(rows.targets, kept)))
    validation, train = order[: len(order) // 5], order[len(order) // 5 :]
    targets, is_known = np.searchsorted(kept, rows.targets), np.isin(rows.test_targets, kept)
    plain = LabelSpace(tuple(rows.labels.names[label] for label in kept), rows.labels.task)
    model = fit_to(rows)(rows.vectors[train], targets[train], labels=plain)
    logits = model.logits(rows.vectors[validation])
    labels = dataclasses.replace(plain, temperature=fit_temperature(logits, targets[validation], labels=plain))
    references = References.of(rows.vectors[train])
    scope = chosen_scope(references.distances(rows.vectors[validation]), loss=SCOPE_LOSS, num_references=len(train))
    expected = answer_sums(logits, targets[validation], labels=labels)

    def judged(vectors: Floats, truth: Targets | None) -> Judged:
        probabilities = labels.probabilities(model.logits(vectors))
        right = np.zeros(len(vectors), dtype=bool) if truth is None else labels.decide(probabilities) == truth
        out = np.zeros(len(vectors), dtype=bool) if scope is None else scope.is_out(references.distances(vectors))
        return Judged(probabilities, np.asarray(right), out, np.zeros(len(vectors), dtype=np.int64) if truth is None else truth)

    truth = np.searchsorted(kept, rows.test_targets[is_known])
    inside, new = judged(rows.test_vectors[is_known], truth), judged(strangers, None)
    register = judged(mistyped[is_known], truth)
    found = []
    for kind in KINDS:
        windows = [
            errors_in(window(kind, inside, new, register, seed=[seed, number]), expected, labels, out=SCOPE_LOSS)
            for number in range(NUM_WINDOWS)
        ]
        found.append({"kind": kind, "windows": windows, "num_validation": len(validation)})
    return found


def window(kind: str, inside: Judged, new: Judged, register: Judged, *, seed: list[int]) -> Judged:
    """Draw the answers of a window."""
    generator = np.random.default_rng(seed)
    source = register if kind == "register" else inside
    weights = np.ones(len(source.targets))
    if kind == "labels":
        shares = generator.dirichlet(np.full(source.probabilities.shape[1], 0.5))
        counts = np.bincount(source.targets, minlength=len(shares))
        weights = (shares / np.maximum(counts, 1))[source.targets]
    num_new = WINDOW_ROWS // 4 if kind == "new topic" else 0
    chosen = generator.choice(len(weights), WINDOW_ROWS - num_new, p=weights / weights.sum())
    others = generator.choice(len(new.targets), num_new)
    parts = [
        np.concatenate([getattr(source, name)[chosen], getattr(new, name)[others]])
        for name in ("probabilities", "is_right", "is_out", "targets")
    ]
    return Judged(*parts)


def errors_in(answers: Judged, expected: Any, labels: LabelSpace, *, out: float) -> Result:
    """Return the error of each way in a window, and what the estimate says of itself."""
    confidence = labels.confidence(answers.probabilities)
    decided = np.asarray(labels.decide(answers.probabilities))
    sums = Window(
        num_rows=len(confidence),
        confidence=float(confidence.sum()),
        squares=float((confidence**2).sum()),
        labels=np.bincount(decided, minlength=len(labels.names)).tolist(),
        num_out=int(answers.is_out.sum()),
    )
    estimate, truth = estimated(expected, sums, expected_out=out), float(answers.is_right.mean())
    recall = (np.array(expected.num_right) + 1) / (np.array(expected.num_rows) + 1)
    found = {
        "confidence": float(confidence.mean()),
        "saerens": saerens(answers.probabilities, np.array(expected.num_rows) / sum(expected.num_rows)),
        "recall": float(label_shares(expected, sums) @ recall),
        "estimate": estimate.accuracy,
    }
    errors = {name: round(value - truth, 4) for name, value in found.items()}
    return {"truth": truth, "inside": estimate.low <= truth <= estimate.high, "doubts": list(estimate.doubts), **errors}


def saerens(probabilities: Values, usual: Values) -> float:
    """Return the mean confidence after the probabilities were adapted to the window's labels."""
    usual = np.maximum(usual, 1e-6)
    shares, adapted = usual, probabilities
    for _ in range(100):
        adapted = probabilities * (shares / usual)
        adapted = adapted / adapted.sum(axis=1, keepdims=True)
        shares = adapted.mean(axis=0)
    return float(adapted.max(axis=1).mean())


def accuracy_lines(results: list[Result]) -> list[str]:
    """Return the lines of a table with the mean absolute errors in points, and how far the estimate's own words hold."""
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for row in results:
        if row.get("measure") == "accuracy":
            groups[row["case"], row["kind"]] += row["windows"]
    ends = ("doubted", "off by > 2", "of those doubted", "in the interval, not doubted")
    lines = [f"| set | shift | windows | true accuracy | {' | '.join(WAYS)} | {' | '.join(ends)} |", f"|{' --- |' * 12}"]
    for (case, kind), rows in groups.items():
        means = [f"{100 * np.mean([abs(row[way]) for row in rows]):.1f}" for way in WAYS]
        off = [row for row in rows if abs(row["estimate"]) > 0.02]
        trusted = [row for row in rows if not row["doubts"]]
        inside = f"{np.mean([row['inside'] for row in trusted]):.2f}" if trusted else ""
        doubted = f"{1 - len(trusted) / len(rows):.2f} | {len(off)} | {sum(bool(row['doubts']) for row in off)} | {inside}"
        truth = f"{np.mean([row['truth'] for row in rows]):.3f}"
        lines.append(f"| {case} | {kind} | {len(rows)} | {truth} | {' | '.join(means)} | {doubted} |")
    return lines
