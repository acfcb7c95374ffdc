"""`manta evaluate`: results of a finished model on labeled rows, computed by the same `Predictor` that serves it."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from manta.behaviour.run import find_suite, load_suite
from manta.config import DataConfig
from manta.config.file import explain
from manta.console import working
from manta.data import Split, load_labelled
from manta.errors import InputError
from manta.evaluation.metrics import classification_metrics, confusion_counts, per_class_metrics
from manta.inference.reliability import ReliabilityBin, claims, reliability_bins
from manta.registry.models import find_model
from manta.storage.folders import Storage
from manta.storage.object_store import store
from manta.texts import wrong_kind_sentence
from manta_jobs.cluster.connection import connected_if_needed
from manta_jobs.reporting.evaluation.assessment import Subject, assess
from manta_jobs.reporting.evaluation.measure import measure_on_cluster
from manta_jobs.reporting.evaluation.report import check_target, write_report
from manta_jobs.reporting.evaluation.slices import checked_patterns
from manta_jobs.runs.given_rows import MEMORY, keep_rows
from manta_jobs.runs.results import FinishedEvaluation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt
    from rich.console import Console

    from manta.labels import Floats, LabelSpace

AS_TRAINED = ("text", "label", "label_separator", "header", "delimiter", "encoding", "labels", "normalize_labels")
"""Settings of `data` that hold for rows to evaluate on as they did for the training rows, unless others are given."""
ROWS_FILE = "rows.parquet"
"""Rows that a Python program gave, beside the report on them."""


@dataclass(frozen=True)
class EvaluationFigures:
    """Metrics over all rows and by label, confusion counts and reliability."""

    num_rows: int
    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    confusion: npt.NDArray[np.int64]
    """Counts as `confusion_counts` returns them."""
    reliability: list[ReliabilityBin]
    """Accuracy of answers by confidence bin."""


def evaluate(
    model: str,
    data: str,
    *,
    settings: Mapping[str, Any],
    console: Console,
    address: str | None = None,
    columns: Sequence[str | int] = (),
    patterns: Sequence[str] = (),
    behaviour: Path | None = None,
    out: Path | None = None,
) -> FinishedEvaluation:
    """Evaluate a registered model (`NAME` for its champion, `NAME@VERSION`) or a model folder on labeled rows.

    `settings` are the fields of `DataConfig` that say how to read the rows; those that are None or left out are as in the training.
    Results are sliced by `columns` and by `patterns` (`NAME=REGEX`). `behaviour` is a suite of behaviour tests; the default is the
    suite of the model's config, if it still exists. `out` is the folder of the report; the default is a new one in the storage.

    Raises:
        InputError: the model, the rows or the suite cannot be found or are faulty, or an option is wrong.
        RunError: the report cannot be written.
    """
    with working(console, f"Looking up {model}"):
        artifact, version = find_model(model)
    checked = checked_patterns(patterns)
    manifest = artifact.manifest
    own = manifest.config.get("data", {})
    given = {name: value for name, value in settings.items() if value is not None}
    config = _data_config(data, {name: own[name] for name in AS_TRAINED if name in own} | given)
    if len(config.text_columns) != manifest.num_texts:
        times = "once" if manifest.num_texts == 1 else "twice, a column each"
        raise InputError(f"{model}: {wrong_kind_sentence(manifest.num_texts)}: give --text {times}.")
    folder = out if out is not None else _new_folder(manifest.name, version)
    check_target(folder)
    labels = manifest.label_space
    with working(console, f"Reading {data}"):
        split = load_labelled(data, config, labels=labels, columns=list(dict.fromkeys(as_columns(columns, header=config.header))))
    for note in split.notes:
        console.print(note, markup=False)
    path = behaviour if behaviour is not None else find_suite(own)
    suite = None if path is None else load_suite(path, labels=labels, num_texts=manifest.num_texts)
    with connected_if_needed(address, num_workers=1):
        measured = measure_on_cluster(artifact, split.texts, suite=suite, console=console)
    rows = folder.absolute() / ROWS_FILE
    place = data if not data.startswith(MEMORY) else str(rows)
    subject = Subject(manifest.name, version, str(artifact.path), place, manifest.created)
    with working(console, "Writing the report"):
        assessment = assess(subject, split, measured, labels=labels, patterns=checked)
        page = write_report(assessment, folder)
        keep_rows(data, rows)
        store(folder)
    return FinishedEvaluation(artifact, assessment, page)


def as_columns(names: Sequence[str | int], *, header: bool) -> list[str | int]:
    """Return columns as the config has them: positions as numbers if no header names them."""
    return [int(name) if not header and isinstance(name, str) and name.isdecimal() else name for name in names]


def _data_config(data: str, settings: Mapping[str, Any]) -> DataConfig:
    header, text = settings.get("header", True), settings.get("text", "text")
    *texts, label = as_columns(
        [*([text] if isinstance(text, str | int) else text), settings.get("label", "label")], header=bool(header)
    )
    columns = {"text": texts[0] if len(texts) == 1 else texts, "label": label}
    try:
        return DataConfig.model_validate({"train": data, **settings, **columns})
    except ValidationError as error:
        sentences = "; ".join(sentence for _, sentence in explain(error, section="data"))
        raise InputError(f"{sentences}; see the options of manta evaluate.") from None


def _new_folder(name: str, version: int | None) -> Path:
    """Return the default folder for a report. It is not made yet."""
    what = "folder" if version is None else str(version)
    stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    return Storage.resolve(None).root / "evaluations" / f"{name}-{what}-{stamp}"


def evaluation_of(logits: Floats, split: Split, *, labels: LabelSpace) -> EvaluationFigures:
    """Compute the metrics of a split from its logits."""
    probabilities = labels.probabilities(logits)
    return EvaluationFigures(
        len(split),
        classification_metrics(logits, split.targets, labels=labels),
        per_class_metrics(logits, split.targets, labels=labels),
        confusion_counts(probabilities, split.targets, labels=labels),
        reliability_bins(*claims(probabilities, split.targets, labels=labels)),
    )
