"""`manta data suggest`: which rows of a pool to label next, and how many labels bring accuracy to a target.

Both come from embeddings of the frozen encoder and the regression of the method `linear`, fitted to the labeled rows. The chosen
rows are written twice: as a table whose column `label` people fill in, and as a queue for the page's tab Labels.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from manta.console import working
from manta.data.dataset import checked_splits, set_aside
from manta.data.feedback import with_feedback
from manta.data.split import stratified_folds
from manta.errors import InputError
from manta.label_check.decisions import read_decisions, text_hash
from manta.label_check.learned import LEARNED_FILE, MOST_NUMBERS, Learned
from manta.label_check.suspects import UNLABELED, Neighbor, Place, Suspect, Suspects
from manta.model.loss import resolve_class_weights
from manta.model.regression import fit_regression
from manta.storage.folders import disk_errors
from manta.storage.object_store import store
from manta_jobs.data.check import decisions_file, new_check, places_of
from manta_jobs.data.choice import choose, margins
from manta_jobs.data.doubts import cross_validated
from manta_jobs.data.embeddings import embeddings
from manta_jobs.data.forecast import NUM_FOLDS, NUM_REPEATS, NUM_SIZES, Forecast, forecast, learning_curve, too_few
from manta_jobs.data.neighbors import nearest_of
from manta_jobs.data.pool import Chosen, Pool, chosen_rows, read_chosen, read_pool, text_names
from manta_jobs.training.few_rows.linear import LINEAR_FOLDER
from manta_jobs.training.progress import Board, RunProgress, shown_progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from manta.config import ExperimentConfig
    from manta.labels import Floats, LabelSpace, Targets
    from manta.texts import Text
    from manta_jobs.data.neighbors import Neighbors
    from manta_jobs.training.few_rows.linear import LinearModel


@dataclass(frozen=True)
class LabeledRows:
    """The rows that the regression learns from."""

    texts: list[Text]
    targets: Targets
    labels: LabelSpace
    num_typical: int
    """The first rows, which come from the data itself; those behind were chosen, or are feedback."""
    places: list[Place]
    """Places of the typical rows."""
    known: set[str]
    """Hashes of all texts with a label, those of validation and test rows included."""
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Suggestion:
    """A row to label."""

    text: Text
    suggested: str
    probability: float
    margin: float

    def to_dict(self) -> dict[str, Any]:
        """Return the row of `--json`."""
        numbers = {"probability": round(self.probability, 6), "margin": round(self.margin, 6)}
        return {"text_hash": text_hash(self.text), "text": self.text, "suggested": self.suggested, **numbers}


@dataclass(frozen=True)
class Suggested:
    """The result of `manta data suggest`."""

    rows: tuple[Suggestion, ...]
    file: Path
    queue: Path
    """The same rows for the page's tab Labels."""
    decisions: Path
    """The file that decisions of the tab go into."""
    num_labeled: int
    num_filled: int
    """Rows of the file that have a label."""
    num_open: int
    """Different texts of the pool without a label."""
    num_pool: int
    forecast: Forecast | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `--json` prints it."""
        return {
            "rows": [row.to_dict() for row in self.rows],
            "file": str(self.file),
            "queue": str(self.queue),
            "decisions": str(self.decisions),
            "num_labeled": self.num_labeled,
            "num_filled": self.num_filled,
            "num_open": self.num_open,
            "num_pool": self.num_pool,
            "forecast": None if self.forecast is None else self.forecast.to_dict(),
            "seconds": round(self.seconds, 1),
        }


def suggest(
    config: ExperimentConfig,
    pool: str,
    *,
    data: str,
    count: int,
    is_experiment: bool,
    out: Path,
    target: float | None,
    console: Console,
) -> Suggested:
    """Choose `count` rows of the pool to label next, and write them to `out`, below its rows that have a label already.

    `data` is the experiment or the file of labeled rows as it was typed. Labels that people gave in the page count, too.

    Raises:
        InputError: the rows, the pool or `out` are wrong, or every text of the pool has a label.
    """
    started = time.monotonic()
    is_pair = len(config.data.text_columns) == 2
    decisions = decisions_file(config, data, beside=out)
    decided = decided_labels(decisions)
    if decisions.exists():
        config = config.with_values({"data.corrections": str(decisions)})
    kept = read_chosen(out, is_pair=is_pair, decided={digest: label for digest, label in decided.items() if label is not None})
    with working(console, f"Reading {config.data.train} and {pool}"):
        rows = labeled_rows(config, filled=out if kept.rows else None, is_experiment=is_experiment)
        unlabeled = read_pool(pool, pool_columns(config, is_pair=is_pair))
    tell_of(rows, unlabeled, console)
    open_rows = without_labels(unlabeled, rows.known | decided.keys())
    vectors = embeddings([*rows.texts, *(unlabeled.texts[index] for index in open_rows)], config, console=console)
    own, others = vectors[: len(rows.texts)], vectors[len(rows.texts) :]
    with working(console, "Fitting the regression and choosing rows"):
        model = cross_validated(own, rows.targets, rows.texts, config=config, labels=rows.labels)
        probabilities = rows.labels.probabilities(model.regression.logits(others))
        found = choose(others, probabilities, count=count, seed=config.data.split_seed)
    chosen = [open_rows[index] for index in found]
    suggestions = suggestions_of([unlabeled.texts[index] for index in chosen], probabilities[found], rows.labels)
    write(suggestions, chosen, unlabeled, kept, out)
    queue = new_check(config, name=Path(pool).name.split(".")[0])
    near = nearest_of(others[found], own[: rows.num_typical])
    write_learned(queue.with_name(LEARNED_FILE), own, others[found], suggestions, rows, model, config)
    write_queue(queue, suggestions, [Place(pool, "row", index + 1, None) for index in chosen], near, rows, decisions)
    told = None if target is None else labels_for(target, own, rows, model, config, console=console)
    seconds = time.monotonic() - started
    counts = len(rows.texts), len(kept.rows), len(open_rows), len(unlabeled.texts)
    return Suggested(tuple(suggestions), out, queue, decisions, *counts, told, seconds)


def labeled_rows(config: ExperimentConfig, *, filled: Path | None, is_experiment: bool) -> LabeledRows:
    """Read the training rows of an experiment, or all rows of a file, and join feedback and the `filled` rows of a file to them.

    Raises:
        InputError: the first fault found, with file and line, or rows have several labels.
    """
    checked = checked_splits(config.data, task=config.model.task)
    labels, splits, warnings = checked.labels, checked.splits, list(checked.warnings)
    if labels.task == "multilabel":
        raise InputError(f"{config.data.train}: rows have several labels each; manta data suggest needs rows with one label.")
    if is_experiment:
        set_aside(splits, config.data, num_labels=len(labels.names))
    train, held_out = splits["train"], [split.texts for name, split in splits.items() if name != "train"]
    texts, targets = train.texts, train.targets
    for location in dict.fromkeys(str(place) for place in (config.data.feedback, filled) if place is not None):
        merged = with_feedback(location, config.data, texts=texts, targets=targets, labels=labels, held_out=held_out)
        texts, targets = merged.texts, merged.targets
        warnings += merged.warnings
    known = {text_hash(text) for some in (texts, *held_out) for text in some}
    return LabeledRows(list(texts), targets, labels, len(train), places_of(train, None), known, tuple(warnings))


def pool_columns(config: ExperimentConfig, *, is_pair: bool) -> tuple[str, ...]:
    """Return the text columns of the pool: those of the rows, unless these are numbered."""
    columns = [column for column in config.data.text_columns if isinstance(column, str)]
    return tuple(columns) if len(columns) == 1 + is_pair else text_names(is_pair=is_pair)


def tell_of(rows: LabeledRows, pool: Pool, console: Console) -> None:
    """Print the warnings about labeled rows and pool."""
    for note in pool.notes:
        console.print(note, markup=False)
    warnings = list(rows.warnings)
    if pool.faults:
        warnings.append(f"rows of the pool that are left out: {len(pool.faults):,} ({pool.faults[0]}).")
    for warning in warnings:
        console.print(f"[yellow]Warning:[/] {warning}")


def without_labels(pool: Pool, known: set[str]) -> list[int]:
    """Return the first row of each text of the pool that is not `known`.

    Raises:
        InputError: there is none.
    """
    first: dict[str, int] = {}
    for index, text in enumerate(pool.texts):
        first.setdefault(text_hash(text), index)
    rows = [index for digest, index in first.items() if digest not in known]
    if not rows:
        raise InputError(f"{pool.source}: every text has a label already; give a pool with other texts.")
    return rows


def suggestions_of(texts: Sequence[Text], probabilities: Floats, labels: LabelSpace) -> list[Suggestion]:
    """Return the rows to label with their most probable labels, from probabilities `(rows, labels)`."""
    names = [names[0] for names in labels.decided_names(probabilities)]
    numbers = zip(labels.confidence(probabilities).tolist(), margins(probabilities).tolist(), strict=True)
    return [Suggestion(text, name, *pair) for text, name, pair in zip(texts, names, numbers, strict=True)]


def write(suggestions: Sequence[Suggestion], chosen: Sequence[int], pool: Pool, kept: Chosen, out: Path) -> None:
    """Write the kept rows and the chosen ones, whose label is empty."""
    added = [
        {"label": "", "suggested": row.suggested, "probability": round(row.probability, 4), "margin": round(row.margin, 4)}
        for row in suggestions
    ]
    chosen_rows(pool, chosen, added, kept=kept).write(out)


def decided_labels(path: Path) -> dict[str, str | None]:
    """Return what people decided about texts without a label, by the text's hash; None for texts that are to be dropped.

    Raises:
        InputError: the file of decisions is faulty.
    """
    decisions = [decision for _, decision in read_decisions(path)] if path.exists() else []
    return {item.text_hash: item.new for item in decisions if item.old == UNLABELED and not isinstance(item.new, tuple)}


def write_queue(
    path: Path, suggestions: Sequence[Suggestion], places: Sequence[Place], near: Neighbors, rows: LabeledRows, decisions: Path
) -> None:
    """Write the rows to label for the page's tab Labels, each with its nearest labeled rows."""
    found = []
    for suggestion, place, others, similarity in zip(suggestions, places, near.rows, near.similarity, strict=True):
        shown = [
            Neighbor(rows.texts[row], rows.labels.names[int(rows.targets[row])], float(cosine), rows.places[row])
            for row, cosine in zip(others.tolist(), similarity.tolist(), strict=True)
        ]
        found.append(
            Suspect(
                text=suggestion.text,
                given=UNLABELED,
                proposed=suggestion.suggested,
                probability=suggestion.probability,
                given_probability=0.0,
                quality=suggestion.margin,
                kinds=(),
                place=place,
                neighbors=tuple(shown),
            )
        )
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Suspects(tuple(found), rows.labels.names, places[0].file, decisions).write(path)
        store(path)


def write_learned(
    path: Path,
    own: Floats,
    chosen: Floats,
    suggestions: Sequence[Suggestion],
    rows: LabeledRows,
    model: LinearModel,
    config: ExperimentConfig,
) -> None:
    """Write what the page needs to tell how accuracy grows: embeddings of the labeled rows, and those of the `chosen` ones.

    Of many rows and labels nothing is written, as a fit would take people's time.
    """
    first = np.unique([text_hash(text) for text in rows.texts], return_index=True)[1]
    if len(first) * len(rows.labels.names) > MOST_NUMBERS:
        return
    targets = rows.targets[first]
    learned = Learned(
        rows.labels.names,
        own[first],
        targets,
        stratified_folds(targets, num_folds=NUM_FOLDS, seed=config.data.split_seed),
        first < rows.num_typical,
        chosen,
        tuple(text_hash(row.text) for row in suggestions),
        model.strength,
        resolve_class_weights(config.train, rows.labels, rows.targets),
    )
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        learned.write(path)
        store(path)


def labels_for(
    target: float, vectors: Floats, rows: LabeledRows, model: LinearModel, config: ExperimentConfig, *, console: Console
) -> Forecast:
    """Forecast how many more labels bring accuracy to `target`. Each text counts once, and only typical rows are judged."""
    first = np.unique([text_hash(text) for text in rows.texts], return_index=True)[1]
    is_typical = first < rows.num_typical
    few = too_few(int(is_typical.sum()), len(rows.labels.names))
    if few is not None:
        return Forecast(target, len(first), accuracy_of(model, rows), (), reason=few)
    weights = resolve_class_weights(config.train, rows.labels, rows.targets)
    fit = partial(fit_regression, labels=rows.labels, strength=model.strength, class_weights=weights)
    board, phase = Board(), "learning curve"
    board.started(LINEAR_FOLDER, RunProgress(NUM_FOLDS * NUM_REPEATS * NUM_SIZES, phase=phase, unit="fits"), after_step=0)
    with shown_progress(board, console, num_epochs=1):
        curve = learning_curve(
            vectors[first],
            rows.targets[first],
            labels=rows.labels,
            fit=fit,
            is_typical=is_typical,
            seed=config.data.split_seed,
            tell=lambda done: board.update(LINEAR_FOLDER, done_steps=done, phase=phase),
        )
    with working(console, "Fitting the power law"):
        return forecast(curve, target=target, num_rows=len(first), seed=config.data.split_seed)


def accuracy_of(model: LinearModel, rows: LabeledRows) -> float:
    """Return the accuracy on labeled rows by fits without them."""
    answers = rows.labels.decide(rows.labels.probabilities(model.logits))
    return float((answers == rows.targets)[: rows.num_typical].mean())
