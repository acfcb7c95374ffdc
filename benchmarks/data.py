"""Measurements of `manta data check` on planted label errors, and of the labels that `manta data suggest` saves.

`--measures labels,forecast` are those of `labels_needed.py`, `scope` is that of `scope.py`, `accuracy` that of
`estimated.py`. The measure `check` is this:

Labels of training rows are exchanged by a seed: a tenth or a fifth of them with any other label, or a tenth with the label whose
mean embedding is nearest. The embedded encoder is frozen, and every score ranks the rows by the same probabilities:

- `self-confidence`     probability of the given label by a regression that was not fitted to the row; its order is that of the loss
- `margin`              the same minus the highest probability of another label
- `entropy`             entropy of the probabilities over that of the given label
- `adjusted`            self-confidence after subtracting each label's mean probability among its own rows
- `neighbors`           share of the ten nearest rows that have the given label, weighed by similarity
- `both`                mean of the ranks by self-confidence and by neighbors
- `plain-loss`          loss of a regression that was fitted to all rows, the judged one included

Confident learning also flags rows: its precision and recall are the share of flagged rows that were planted, and of planted rows
that were flagged. AUPRC is the area under the precision-recall curve of planted errors. The rows of `sample:support` and
`sample:reviews` choose the score, those of DIR only report. Accuracy is that of a regression on test rows with true labels, after
the first k suspects were looked at and those among them that were planted got their label back.

Each result is one line of `benchmarks/results/data.jsonl`, written as soon as it is known; what is there is not run again.

    python benchmarks/data.py --data DIR
    python benchmarks/data.py --table
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from estimated import accuracy_lines, accuracy_measured, with_typos
from labels_needed import FORECASTS, RUNS, coverage_table, forecasts, labels_needed, needed_table, true_law
from manta.config import ExperimentConfig
from manta.console import people_console
from manta.data.dataset import Split, checked_splits
from manta.data.split import stratified_split
from manta.labels import Floats, LabelSpace, Targets
from manta_jobs.data.doubts import cross_validated, doubts
from manta_jobs.data.embeddings import embeddings
from manta_jobs.data.neighbors import Neighbors, nearest
from manta_jobs.training.few_rows.linear import STRENGTHS
from quality_results import append_result, read_results
from scope import MOST_OTHERS, auroc_lines, caught_lines, held_out_labels, scope_measured
from scope import RUNS as SCOPE_RUNS

RESULTS = Path(__file__).parent / "results" / "data.jsonl"
Scores = npt.NDArray[np.float64]
PLANTED = {"uniform-10": 0.1, "uniform-20": 0.2, "similar-10": 0.1}
MEASURES = ("check", "labels", "forecast", "scope", "accuracy")
NUM_DRAWN = 3
"""Different draws of a set's rows. Further runs begin with other rows of these."""
WAYS = ("random", "margin", "entropy", "diversity", "both")
FIXED = (0.5, 1.0, 2.0)
"""The numbers of suspects that are looked at, as multiples of the number of planted errors."""


@dataclass(frozen=True)
class Case:
    """A set: the place of its rows, and the number that is drawn."""

    data: dict[str, Any]
    num_train: int
    num_test: int
    chooses: bool = False
    """True if the set chooses the score; it then reports nothing."""


CASES = {
    "support": Case({"train": "sample:support"}, 1000, 200, chooses=True),
    "reviews": Case({"train": "sample:reviews"}, 1000, 200, chooses=True),
    "sst2": Case({"train": "sst2/train.tsv", "test": "sst2/test.tsv", "header": False, "text": 0, "label": 1}, 3000, 1821),
    "agnews": Case({"train": "agnews/train.jsonl", "test": "agnews/test.jsonl", "text": "body", "label": "topic"}, 2000, 2000),
    "banking77": Case({"train": "banking77/train.csv", "test": "banking77/test.csv", "label": "category"}, 3080, 1540),
}


@dataclass(frozen=True)
class Drawn:
    """The rows of a case with their true labels."""

    config: ExperimentConfig
    labels: LabelSpace
    texts: list[Any]
    vectors: Floats
    targets: Targets
    test_vectors: Floats
    test_targets: Targets
    neighbors: Neighbors
    test_texts: list[Any] = field(default_factory=list)


def main() -> int:
    """Run what is not known yet, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that holds sst2, banking77 and agnews; the bundled samples need none")
    parser.add_argument("--cases", type=lambda text: text.split(","), default=list(CASES))
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--measures", type=lambda text: text.split(","), default=list(MEASURES))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if not arguments.table:
        if "check" in arguments.measures:
            measure(arguments)
        if "labels" in arguments.measures and arguments.data is not None:
            measure_labels(arguments)
        if "forecast" in arguments.measures and arguments.data is not None:
            measure_forecasts(arguments)
        if "scope" in arguments.measures and arguments.data is not None:
            measure_scope(arguments)
        if "accuracy" in arguments.measures and arguments.data is not None:
            measure_accuracy(arguments)
    results = read_results(arguments.results)
    print_tables([row for row in results if "planted" in row])
    print("\nLabels needed\n\n" + "\n".join(needed_table(results)) + "\n\nForecasts\n\n" + "\n".join(coverage_table(results)))
    print("\nScope\n\n" + "\n".join(auroc_lines(results)) + "\n\n" + "\n".join(caught_lines(results)))
    print("\nEstimated accuracy\n\n" + "\n".join(accuracy_lines(results)))
    return 0


def measure(arguments: argparse.Namespace) -> None:
    """Run every case that is not in the results."""
    known = {(row["case"], row["planted"], row["seed"]) for row in read_results(arguments.results) if "planted" in row}
    for name in arguments.cases:
        if arguments.data is None and not CASES[name].chooses:
            continue
        for seed in arguments.seeds:
            wanted = [kind for kind in PLANTED if (name, kind, seed) not in known]
            drawn = draw(CASES[name], arguments.data, seed=seed) if wanted else None
            for kind in wanted:
                if drawn is not None and not (kind == "similar-10" and len(drawn.labels.names) == 2):
                    started = time.process_time()
                    found = result(drawn, kind, seed=seed)
                    row = {"case": name, "planted": kind, "seed": seed, "chooses": CASES[name].chooses, **found}
                    append_result(arguments.results, row | {"cpu_s": round(time.process_time() - started, 1)})
                    print(name, kind, seed, {key: round(value, 3) for key, value in found["auprc"].items()}, flush=True)


def measure_labels(arguments: argparse.Namespace) -> None:
    """Measure the labels that each way of choosing rows needs, where it is not in the results."""
    results = read_results(arguments.results)
    known = {(row["case"], row["way"], row["seed"]) for row in results if row.get("measure") == "labels"}
    for case in [name for name in arguments.cases if name in RUNS]:
        for seed in range(RUNS[case]):
            ways = [way for way in WAYS if (case, way, seed) not in known]
            drawn = draw(CASES[case], arguments.data, seed=seed % NUM_DRAWN) if ways else None
            for way in ways:
                if drawn is not None:
                    found = labels_needed(drawn, case, way, seed=seed)
                    append_result(arguments.results, {"measure": "labels", "case": case, "way": way, "seed": seed, **found})
                    print(case, way, seed, found["labels"], flush=True)


def measure_forecasts(arguments: argparse.Namespace) -> None:
    """Make the forecasts that are not in the results."""
    results = read_results(arguments.results)
    known = {(row["case"], row["run"]) for row in results if row.get("measure") == "forecast"}
    for case in [name for name in arguments.cases if name in FORECASTS]:
        runs = [run for run in range(FORECASTS[case][1]) if (case, run) not in known]
        if runs:
            drawn = draw(CASES[case], arguments.data, seed=0)
            law = true_law(drawn)
            for run in runs:
                for found in list(forecasts(drawn, case, run=run, law=law)):
                    append_result(arguments.results, {"measure": "forecast", "case": case, "run": run, **found})
                    print(case, run, form_of(found), flush=True)


def measure_scope(arguments: argparse.Namespace) -> None:
    """Measure how well texts that are none of the labels are told, where it is not in the results."""
    known = {(row["case"], row["run"]) for row in read_results(arguments.results) if row.get("measure") == "scope"}
    drawn: dict[tuple[str, int], Drawn] = {}

    def rows_of(case: str, seed: int) -> Drawn:
        if (case, seed) not in drawn:
            drawn[case, seed] = draw(CASES[case], arguments.data, seed=seed)
        return drawn[case, seed]

    for case in [name for name in arguments.cases if name in SCOPE_RUNS]:
        for run in [run for run in range(SCOPE_RUNS[case]) if (case, run) not in known]:
            rows = rows_of(case, run % NUM_DRAWN)
            others = {name: rows_of(name, 0).test_vectors[:MOST_OTHERS] for name in SCOPE_RUNS if name != case}
            found = scope_measured(rows, others, held_out=held_out_labels(case, rows.labels, run=run), seed=run)
            append_result(arguments.results, {"measure": "scope", "case": case, "run": run, **found})
            print(case, run, found["auroc"]["3rd"], found["lost"], flush=True)


def measure_accuracy(arguments: argparse.Namespace) -> None:
    """Measure how well accuracy is estimated without labels, where it is not in the results."""
    known = {(row["case"], row["run"]) for row in read_results(arguments.results) if row.get("measure") == "accuracy"}
    console = people_console()
    for case in [name for name in arguments.cases if name in SCOPE_RUNS]:
        for run in [run for run in range(SCOPE_RUNS[case]) if (case, run) not in known]:
            rows = draw(CASES[case], arguments.data, seed=run % NUM_DRAWN)
            held_out = held_out_labels(case, rows.labels, run=run)
            strangers = rows.test_vectors[np.isin(rows.test_targets, held_out)]
            if not held_out:
                strangers = draw(CASES["agnews"], arguments.data, seed=0).test_vectors
            mistyped = embeddings(with_typos(rows.test_texts, seed=run % NUM_DRAWN), rows.config, console=console)
            for found in accuracy_measured(rows, strangers, mistyped, held_out=held_out, seed=run):
                append_result(arguments.results, {"measure": "accuracy", "case": case, "run": run, **found})
                errors = [abs(one["estimate"]) for one in found["windows"]]
                print(case, run, found["kind"], round(float(np.mean(errors)), 4), flush=True)


def form_of(found: dict[str, Any]) -> dict[str, Any]:
    """Return what is printed of a forecast."""
    return {name: found[name] for name in ("form", "true", "low", "labels", "high", "reason")}


def draw(case: Case, folder: Path | None, *, seed: int) -> Drawn:
    """Draw rows of each split, label by label, and embed them."""
    at = {key: str(folder / value) if key in ("train", "test") and ":" not in value else value for key, value in case.data.items()}
    config = ExperimentConfig.model_validate({"name": "data", "data": at})
    checked = checked_splits(config.data, task="auto", refuse_conflicts=False)
    train, test = (share(checked.splits[name], num, seed) for name, num in (("train", case.num_train), ("test", case.num_test)))
    vectors, test_vectors = (embeddings(list(split.texts), config, console=people_console()) for split in (train, test))
    near = nearest(vectors)
    return Drawn(
        config, checked.labels, list(train.texts), vectors, train.targets, test_vectors, test.targets, near, list(test.texts)
    )


def share(split: Split, num_rows: int, seed: int) -> Split:
    """Return so many rows of a split, every label in its share."""
    if num_rows >= len(split):
        return split
    return split.take(stratified_split(split.targets, fraction=num_rows / len(split), seed=seed)[1])


def result(drawn: Drawn, kind: str, *, seed: int) -> dict[str, Any]:
    """Plant errors, rank the rows by every score, and fix the first suspects of each."""
    from sklearn.metrics import average_precision_score

    given = planted(drawn, kind, seed=seed)
    is_wrong = given != drawn.targets
    fitted = cross_validated(drawn.vectors, given, drawn.texts, config=drawn.config, labels=drawn.labels)
    probabilities = drawn.labels.probabilities(fitted.logits)
    flagged = doubts(probabilities, given, task=drawn.labels.task).is_wrong
    scores = qualities(drawn, given, probabilities)
    auprc = {name: float(average_precision_score(is_wrong, -quality)) for name, quality in scores.items()}
    accuracy: dict[str, Any] = {"clean": accuracy_of(drawn, drawn.targets), "planted": accuracy_of(drawn, given)}
    for name in ("self-confidence", "margin", "both", "plain-loss"):
        order = np.argsort(scores[name], kind="stable")
        accuracy[name] = [
            accuracy_of(drawn, fixed(given, drawn.targets, order[: round(times * is_wrong.sum())])) for times in FIXED
        ]
    counts = {"num_rows": len(given), "num_planted": int(is_wrong.sum()), "num_flagged": int(flagged.sum())}
    return counts | {"num_found": int((flagged & is_wrong).sum()), "auprc": auprc, "accuracy": accuracy}


def planted(drawn: Drawn, kind: str, *, seed: int) -> Targets:
    """Return the labels `(rows,)` after some were exchanged."""
    generator = np.random.default_rng(seed)
    targets, num_labels = drawn.targets, len(drawn.labels.names)
    chosen = generator.choice(len(targets), size=round(PLANTED[kind] * len(targets)), replace=False)
    given = targets.copy()
    if kind == "similar-10":
        means = np.stack([drawn.vectors[targets == label].mean(axis=0) for label in range(num_labels)])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        likeness = means @ means.T - 2 * np.eye(num_labels)
        given[chosen] = likeness.argmax(axis=1)[targets[chosen]]
    else:
        given[chosen] = (targets[chosen] + generator.integers(1, num_labels, size=len(chosen))) % num_labels
    return given


def qualities(drawn: Drawn, given: Targets, probabilities: Scores) -> dict[str, Scores]:
    """Return each score of each row's label; low is doubtful."""
    from cleanlab.rank import get_label_quality_scores

    def by(method: str, **settings: Any) -> Scores:
        return np.asarray(get_label_quality_scores(given, probabilities, method=method, **settings))

    found = {
        "self-confidence": by("self_confidence"),
        "margin": by("normalized_margin"),
        "entropy": by("confidence_weighted_entropy"),
        "adjusted": by("self_confidence", adjust_pred_probs=True),
        "neighbors": agreement(drawn.neighbors, given),
    }
    found["both"] = (ranks(found["self-confidence"]) + ranks(found["neighbors"])) / 2
    regression = regression_on(drawn, given)
    fitted_to = drawn.labels.probabilities(regression.logits(drawn.vectors))
    found["plain-loss"] = np.log(np.maximum(fitted_to[np.arange(len(given)), given], 1e-12))
    return found


def agreement(neighbors: Neighbors, given: Targets) -> Scores:
    """Return the share of a row's neighbors that have its label, weighed by similarity."""
    weights = np.maximum(neighbors.similarity.astype(np.float64), 1e-9)
    agrees = given[neighbors.rows] == given[:, None]
    return np.asarray((weights * agrees).sum(axis=1) / weights.sum(axis=1))


def ranks(quality: Scores) -> Scores:
    """Return the rank of each row, equal values with their mean rank."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(quality))


def regression_on(drawn: Drawn, targets: Targets) -> Any:
    """Fit a regression of the middle strength to all training rows."""
    from manta.model.regression import fit_regression

    return fit_regression(drawn.vectors, targets, labels=drawn.labels, strength=STRENGTHS[1])


def accuracy_of(drawn: Drawn, targets: Targets) -> float:
    """Return the accuracy on the true test rows after fitting to some labels of the training rows."""
    answers = drawn.labels.decide(drawn.labels.probabilities(regression_on(drawn, targets).logits(drawn.test_vectors)))
    return float((answers == drawn.test_targets).mean())


def fixed(given: Targets, truth: Targets, looked_at: npt.NDArray[np.int64]) -> Targets:
    """Return the labels after the rows that were looked at got their true ones."""
    labels = given.copy()
    labels[looked_at] = truth[looked_at]
    return labels


def print_tables(results: list[dict[str, Any]]) -> None:
    """Print the means over seeds, as Markdown."""
    for chooses, words in ((True, "Sets that choose the score"), (False, "Sets that report")):
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in results:
            if row["chooses"] is chooses:
                groups.setdefault((row["case"], row["planted"]), []).append(row)
        if groups:
            print(f"\n{words}: AUPRC\n\n" + "\n".join(auprc_table(groups)))
            print(f"\n{words}: flagged rows\n\n" + "\n".join(flagged_table(groups)))
            print(f"\n{words}: test accuracy\n\n" + "\n".join(accuracy_table(groups)))


def auprc_table(groups: dict[tuple[str, str], list[dict[str, Any]]]) -> list[str]:
    """Return the lines of a table with the mean AUPRC of each score, the best one in bold."""
    names = list(next(iter(groups.values()))[0]["auprc"])
    lines = [f"| set | planted | {' | '.join(names)} |", f"|{' --- |' * (len(names) + 2)}"]
    for (case, kind), rows in groups.items():
        means = [round(float(np.mean([row["auprc"][name] for row in rows])), 3) for name in names]
        cells = [f"**{mean:.3f}**" if mean == max(means) else f"{mean:.3f}" for mean in means]
        lines.append(f"| {case} | {kind} | {' | '.join(cells)} |")
    return lines


def flagged_table(groups: dict[tuple[str, str], list[dict[str, Any]]]) -> list[str]:
    """Return the lines of a table with the rows that confident learning flags, summed over seeds."""
    headings = ["set", "planted", "rows", "planted rows", "flagged", "precision", "recall"]
    lines = [f"| {' | '.join(headings)} |", f"|{' --- |' * len(headings)}"]
    for (case, kind), rows in groups.items():
        rows_in, planted_in, flagged, found = (
            sum(row[key] for row in rows) for key in ("num_rows", "num_planted", "num_flagged", "num_found")
        )
        figures = f"{rows_in:,} | {planted_in:,} | {flagged:,} | {found / max(flagged, 1):.2f} | {found / planted_in:.2f}"
        lines.append(f"| {case} | {kind} | {figures} |")
    return lines


def accuracy_table(groups: dict[tuple[str, str], list[dict[str, Any]]]) -> list[str]:
    """Return the lines of a table with the mean accuracy before and after the first suspects of each ranking were looked at."""
    headings = ["set", "planted", "ranked by", "with errors", *(f"after {times:g} × planted" for times in FIXED), "true labels"]
    lines = [f"| {' | '.join(headings)} |", f"|{' --- |' * len(headings)}"]
    for (case, kind), rows in groups.items():
        ends = {key: f"{np.mean([row['accuracy'][key] for row in rows]):.3f}" for key in ("planted", "clean")}
        for name in [key for key in rows[0]["accuracy"] if key not in ends]:
            at = [f"{np.mean([row['accuracy'][name][place] for row in rows]):.3f}" for place in range(len(FIXED))]
            lines.append(f"| {case} | {kind} | {name} | {ends['planted']} | {' | '.join(at)} | {ends['clean']} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
