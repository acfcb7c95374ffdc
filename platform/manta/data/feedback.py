"""Merging of feedback on a served model's answers, as `POST /v1/feedback` stores it, into the training rows.

A file of rows that people labeled, such as that of `manta data suggest`, is merged likewise. Its rows without a label are left out,
unless a decision of `data.corrections` gives them one. Decisions about rows with a label are followed, too.

It is merged after validation and test rows are set aside. So these stay the same, and both models can be compared on them. Each
text has one label in the training rows: that of the latest feedback.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from manta.data import check, look_alikes
from manta.data.coded import Coded
from manta.data.corrections import Decisions, changed_rows
from manta.data.naming import Naming
from manta.data.read import read_rows
from manta.data.stored import with_added
from manta.labels import names_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.config import DataConfig
    from manta.data.collect import Rows
    from manta.labels import LabelSpace, RowLabels, Targets
    from manta.texts import Text

MOST_SHOWN = 3
LONGEST_SHOWN = 60


@dataclass(frozen=True)
class Merged:
    """Training rows with the feedback merged in."""

    texts: Sequence[Text]
    targets: Targets
    warnings: tuple[str, ...]
    """Sentences on the texts that were added, left out and given another label."""


def with_feedback(
    location: str,
    config: DataConfig,
    *,
    texts: Sequence[Text],
    targets: Targets,
    labels: LabelSpace,
    held_out: Sequence[Sequence[Text]],
) -> Merged:
    """Return the training rows `texts` with `targets`, merged with the feedback at `location`.

    Texts of the `held_out` splits are left out. All feedback is in memory, unlike the other rows.

    Raises:
        InputError: the file is missing or wrong, or has a label that the training rows do not have.
    """
    columns = ("first", "second") if len(config.text_columns) == 2 else "text"
    form = {"text": columns, "label": "label", "encoding": "auto", "header": True, "delimiter": "auto"}
    rows = read_rows(location, "feedback", config.model_copy(update=form))
    naming = Naming(config, {look_alikes.folded(name): name for name in labels.names} if config.normalize_labels else None)
    decisions = None
    if config.corrections is not None:
        decisions = Decisions(config.corrections, known=labels.names, naming=naming)
        rows = _decided(rows, decisions) if labels.task != "multilabel" else rows
    num_read = len(rows.texts)
    rows = _labeled(rows) if labels.task != "multilabel" else rows  # where rows have several labels, no label is an answer, too
    num_unlabeled = num_read - len(rows.texts)
    if num_read and not rows.texts:
        return Merged(texts, targets, (f"no row of {location} has a label yet.",))
    names = check.checked_labels(rows, separator=config.label_separator if labels.task == "multilabel" else None)
    renamed = names.map(naming.of)
    sentences = [f"feedback, {sentence}" for sentence in naming.sentences([names], [renamed])]
    if decisions is not None:
        rows, renamed = changed_rows(rows, renamed, decisions.changes(rows, renamed))
    rows, names = naming.without_left_out(rows, renamed)
    check.check_known(rows, names, set(labels.names))
    said = dict(zip(rows.texts, names, strict=True))  # the last feedback on a text counts
    left_out = {text for split in held_out for text in split if text in said}
    for text in left_out:
        del said[text]
    encoded = labels.encode(list(said.values()))
    places: dict[Text, list[int]] = {}
    for index, text in enumerate(texts):
        if text in said:
            places.setdefault(text, []).append(index)
    changed: list[tuple[Text, RowLabels]] = []
    merged = targets.copy()
    for (text, label), target in zip(said.items(), encoded, strict=True):
        at = places.get(text, [])
        if at and not np.array_equal(merged[at[0]], target):
            changed.append((text, label))
            merged[at] = target
    is_new = np.array([text not in places for text in said], dtype=bool)
    new = [text for text in said if text not in places]
    warnings = _warnings(location, num_added=len(new), num_left_out=len(left_out), num_unlabeled=num_unlabeled, changed=changed)
    return Merged(with_added(texts, new), np.concatenate([merged, encoded[is_new]]), (*sentences, *warnings))


def _decided(rows: Rows, decisions: Decisions) -> Rows:
    """Return the rows with the labels that decisions give to those without one."""
    empty = [index for index, label in enumerate(rows.labels) if check.is_missing(label)]
    if not empty:
        return rows
    found = decisions.changes(rows.take(np.array(empty, dtype=np.int64)), Coded.of([""] * len(empty)))
    given = list(rows.labels)
    for at, label in found.items():
        given[empty[at]] = label
    return replace(rows, labels=given)


def _labeled(rows: Rows) -> Rows:
    """Return the rows that have a label."""
    kept = [index for index, label in enumerate(rows.labels) if not check.is_missing(label)]
    return rows if len(kept) == len(rows.texts) else rows.take(np.array(kept, dtype=np.int64))


def _warnings(
    location: str, *, num_added: int, num_left_out: int, num_unlabeled: int, changed: list[tuple[Text, RowLabels]]
) -> tuple[str, ...]:
    sentences = [f"texts of the feedback that join the training rows: {num_added} ({location})."]
    if changed:
        new = [f"{_short(text)} is now {', '.join(names_of(label)) or 'no label'}" for text, label in changed[:MOST_SHOWN]]
        more = "; …" if len(changed) > MOST_SHOWN else ""
        shown = "; ".join(new) + more
        sentences.append(f"training rows with another label than the feedback, which counts: {len(changed)} ({shown}).")
    if num_left_out:
        sentences.append(f"texts of the feedback that are validation or test rows, and not trained on: {num_left_out}.")
    if num_unlabeled:
        sentences.append(f"rows of the feedback that have no label yet, and are left out: {num_unlabeled}.")
    return tuple(sentences)


def _short(text: Text) -> str:
    shown = text if isinstance(text, str) else " — ".join(text)
    return repr(shown if len(shown) <= LONGEST_SHOWN else shown[:LONGEST_SHOWN] + "…")
