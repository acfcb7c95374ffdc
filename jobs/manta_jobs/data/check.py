"""`manta data check`: the rows whose labels are in doubt, from the embeddings of the frozen encoder.

Every row is judged by a regression that was not fitted to its text, validation and test rows, too. Nothing of the data is changed.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from manta.console import working
from manta.data.dataset import checked_splits, set_aside
from manta.errors import InputError
from manta.evaluation.label_noise import LabelNoise, label_noise
from manta.label_check.decisions import DECISIONS_FILE
from manta.label_check.suspects import CHECKS, KINDS, SUSPECTS_FILE, Kind, Neighbor, Place, Suspect, Suspects
from manta.storage.folders import Storage, disk_errors
from manta.storage.object_store import store
from manta_jobs.data.doubts import Doubts, Overlap, cross_validated, doubts, overlaps
from manta_jobs.data.embeddings import embeddings
from manta_jobs.data.neighbors import NUM_SHOWN, Neighbors, contradicted, nearest, outliers

if TYPE_CHECKING:
    from rich.console import Console

    from manta.config import ExperimentConfig
    from manta.data.collect import Places
    from manta.data.corrections import Corrections
    from manta.data.dataset import Split
    from manta.labels import LabelSpace, RowLabels, Targets
    from manta.texts import Text
    from manta_jobs.data.doubts import Probabilities


@dataclass(frozen=True)
class AllRows:
    """The rows of every split, one after another."""

    texts: list[Text]
    targets: Targets
    places: list[Place]
    labels: LabelSpace
    warnings: tuple[str, ...]
    corrections: Corrections | None

    def given(self, row: int) -> RowLabels:
        """Return the label of a row by name."""
        return _named(self.targets[row], self.labels)


@dataclass(frozen=True)
class LabelCheck:
    """The result of a check."""

    found: Suspects
    overlaps: tuple[Overlap, ...]
    noise: LabelNoise | None
    """Share of the labels that are wrong; None in a multilabel task."""
    num_rows: dict[str, int]
    """Rows of each split; those of a single file have the empty name."""
    file: Path
    """The file with all suspects."""
    agreement: float
    """Share of the rows of which the given label is also the most probable one."""
    corrections: Corrections | None
    seconds: float

    def counts(self) -> dict[Kind, int]:
        """Return the number of suspects of each kind. A row may be of several kinds."""
        counts = Counter(kind for suspect in self.found.rows for kind in suspect.kinds)
        return {kind: counts[kind] for kind in KINDS}

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `--json` prints it."""
        return {
            "data": self.found.data,
            "num_rows": self.num_rows,
            "labels": list(self.found.labels),
            "counts": self.counts(),
            "agreement": round(self.agreement, 4),
            "label_noise": None if self.noise is None else vars(self.noise),
            "overlaps": [{**vars(pair), "num_rows": pair.num_rows} for pair in self.overlaps],
            "suspects": [
                {name: value for name, value in suspect.to_dict().items() if name != "neighbors"} for suspect in self.found.rows
            ],
            "file": str(self.file),
            "decisions": str(self.found.decisions),
            "corrections": None if self.corrections is None else vars(self.corrections),
            "seconds": round(self.seconds, 1),
        }


def check_labels(config: ExperimentConfig, *, data: str, is_experiment: bool, out: Path | None, console: Console) -> LabelCheck:
    """Find the rows whose labels are in doubt, and write them to a file.

    `data` is the experiment or the file of rows as it was typed. `out` is the file of suspects; the default is a new one in the
    storage. Of an experiment, test and validation rows are set aside as its runs do.

    Raises:
        InputError: the rows or the model are wrong, or `out` exists already.
    """
    started = time.monotonic()
    path = out if out is not None else new_check(config, name=config.name)
    if path.exists():
        raise InputError(f"--out {path} exists already; name a new file.")
    with working(console, f"Reading {config.data.train}"):
        rows = all_rows(config, is_experiment=is_experiment)
    for warning in rows.warnings:
        console.print(f"[yellow]Warning:[/] {warning}")
    vectors = embeddings(rows.texts, config, console=console)
    with working(console, "Fitting the regression to each part of the rows and looking for neighbors"):
        logits = cross_validated(vectors, rows.targets, rows.texts, config=config, labels=rows.labels).logits
        probabilities = rows.labels.probabilities(logits)
        judged = doubts(probabilities, rows.targets, task=rows.labels.task)
        suspects = suspects_of(rows, probabilities, judged, nearest(vectors))
        pairs = overlaps(probabilities, rows.targets, rows.labels)
        noise = label_noise(logits, rows.targets, rows.labels)
    found = Suspects(tuple(suspects), rows.labels.names, data, decisions_file(config, data, beside=path))
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        found.write(path)
        store(path)
    return LabelCheck(
        found=found,
        overlaps=tuple(pairs),
        noise=noise,
        num_rows=dict(Counter(place.split or "" for place in rows.places)),
        file=path,
        agreement=agreement(probabilities, rows.targets, rows.labels),
        corrections=rows.corrections,
        seconds=time.monotonic() - started,
    )


def all_rows(config: ExperimentConfig, *, is_experiment: bool) -> AllRows:
    """Read the rows of every split. A text may have two labels, as such rows are looked for.

    Raises:
        InputError: the first fault found, with file and line.
    """
    data = config.data
    if data.corrections is not None and not Path(data.corrections).expanduser().exists():
        data = data.model_copy(update={"corrections": None})  # nobody has decided yet
    checked = checked_splits(data, task=config.model.task, refuse_conflicts=False)
    splits, labels = checked.splits, checked.labels
    if is_experiment:
        set_aside(splits, config.data, num_labels=len(labels.names))
    has_splits = is_experiment or len(splits) > 1
    return AllRows(
        [text for split in splits.values() for text in split.texts],
        np.concatenate([split.targets for split in splits.values()]),
        [place for name, split in splits.items() for place in places_of(split, name if has_splits else None)],
        labels,
        tuple(checked.warnings),
        checked.corrections,
    )


def places_of(split: Split, name: str | None) -> list[Place]:
    """Return the place of each row of a split that was read from a file."""
    places: Places | None = split.places
    if places is None:
        raise ValueError("rows from a file have places")
    return [Place(places.source, places.unit, int(position), name) for position in places.positions]


def suspects_of(rows: AllRows, probabilities: Probabilities, judged: Doubts, neighbors: Neighbors) -> list[Suspect]:
    """Return the suspects of every kind, the most doubtful label first."""
    flags = {"label": judged.is_wrong, "duplicate": contradicted(neighbors, rows.targets), "outlier": outliers(neighbors)}
    proposed = rows.labels.decided_names(probabilities)
    confidence = rows.labels.confidence(probabilities)
    found = []
    for index in np.argsort(judged.quality, kind="stable").tolist():
        kinds = tuple(kind for kind in KINDS if flags[kind][index])
        if kinds:
            names = proposed[index]
            suspect = Suspect(
                text=rows.texts[index],
                given=rows.given(index),
                proposed=tuple(sorted(names)) if rows.labels.task == "multilabel" else names[0],
                probability=float(confidence[index]),
                given_probability=_probability_of_given(probabilities[index], rows.targets[index]),
                quality=float(judged.quality[index]),
                kinds=kinds,
                place=rows.places[index],
                neighbors=_shown_neighbors(rows, neighbors, index),
            )
            found.append(suspect)
    return found


def agreement(probabilities: Probabilities, targets: Targets, labels: LabelSpace) -> float:
    """Return the share of rows whose label, or all of whose labels, the probabilities decide for, too."""
    agrees = labels.decide(probabilities) == targets
    return float((agrees.all(axis=1) if agrees.ndim == 2 else agrees).mean())


def _probability_of_given(probabilities: Probabilities, target: Any) -> float:
    """Return the probability of a row's own label; of several labels, that all of them and no others apply."""
    if np.ndim(target):
        return float(np.where(target > 0, probabilities, 1 - probabilities).prod())
    return float(probabilities[target])


def _shown_neighbors(rows: AllRows, neighbors: Neighbors, index: int) -> tuple[Neighbor, ...]:
    near = zip(neighbors.rows[index].tolist(), neighbors.similarity[index].tolist(), strict=True)
    return tuple(
        Neighbor(rows.texts[other], rows.given(other), similarity, rows.places[other])
        for other, similarity in list(near)[:NUM_SHOWN]
    )


def _named(target: Any, labels: LabelSpace) -> RowLabels:
    if np.ndim(target):
        return tuple(sorted(labels.names[place] for place in np.flatnonzero(target)))
    return labels.names[int(target)]


def new_check(config: ExperimentConfig, *, name: str) -> Path:
    """Return the default file of suspects, in a new folder whose name begins with `name`. Nothing is made yet."""
    stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    return Storage.resolve(config.storage).root / CHECKS / f"{name}-{stamp}" / SUSPECTS_FILE


def decisions_file(config: ExperimentConfig, data: str, *, beside: Path) -> Path:
    """Return the file for decisions: that of the config, else one next to what was checked, if this is a file."""
    if config.data.corrections is not None:
        return Path(config.data.corrections).expanduser().absolute()
    checked = Path(data).expanduser()
    folder = checked.parent if checked.is_file() else checked if checked.is_dir() else beside.parent
    return folder.absolute() / DECISIONS_FILE
