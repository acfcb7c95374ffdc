"""Checks of the data before anything starts. Each fault is one sentence with the file, the line and what to do."""

from __future__ import annotations

import math
from collections import Counter
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any

from manta.data.coded import Coded, label_counts
from manta.data.repeats import conflicts, num_shared
from manta.errors import InputError
from manta.labels import RowLabels, names_of
from manta.texts import has_lone_surrogate, is_empty, text_fault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.data.collect import Rows
    from manta.texts import Text

LONGEST_SHOWN = 80
LARGEST_WHOLE = 2**53
"""Decimals from this number on are no whole numbers: floats skip some there."""


def checked_labels(rows: Rows, *, separator: str | None = None) -> Coded[RowLabels]:
    """Check each text and label, and return the rows' labels as names.

    With a `separator`, as in a multilabel task, the labels of a row are a sorted tuple of different names, which may be empty.

    Raises:
        InputError: there are no rows, a text is empty or not a string, or a label is missing or neither a word nor an integer.
    """
    if not rows.texts:
        raise InputError(f"{rows.source}: no rows; it needs texts and labels to work with.")
    labels = Coded.of(rows.labels)
    faults = {code: fault for code, value in enumerate(labels.values) if (fault := _label_fault(value, separator))}
    wrong = labels.first(list(faults))
    _check_texts(rows, None if wrong is None else wrong + 1)  # the first fault counts, and in a row that of the text
    if wrong is not None:
        raise InputError(f"{rows.where(wrong)}: {faults[int(labels.codes[wrong])]}; fix or remove the row.")
    return labels.map(lambda label: _names(label, separator))


def has_lists(rows: Rows) -> bool:
    """Tell whether labels come as lists, as those of a multilabel task may."""
    return any(isinstance(label, list | tuple) for label in Coded.of(rows.labels).values)


def check_classes(rows: Rows, labels: Sequence[RowLabels]) -> list[str]:
    """Refuse training rows that no classifier can learn from. Return warnings about rows that are merely poor.

    Raises:
        InputError: there is only one class, or a class has only one row and another has more.
    """
    coded = Coded.of(labels)
    counts = label_counts(coded)
    if any(isinstance(row, tuple) for row in coded.values):
        return _multilabel_warnings(rows, counts)
    if len(counts) == 1:
        raise InputError(f"{rows.source}: every row has the label {labels[0]!r}; a classifier needs at least two.")
    has_more = max(counts.values()) > 1  # one row of each label is a way to start; of one label among others, a slip
    for name, count in counts.items():
        if count == 1 and has_more:
            where = rows.where(int((coded.codes == coded.values.index(name)).argmax()))
            raise InputError(f"{where}: the only row with the label {name!r}; add more such rows or remove it.")
    return []


def _multilabel_warnings(rows: Rows, counts: Counter[str]) -> list[str]:
    if len(counts) < 2:
        found = f"the only label is {next(iter(counts))!r}" if counts else "no row has a label"
        raise InputError(f"{rows.source}: {found}; a multilabel classifier needs at least two.")
    # Unlike with one label per row, this is no fault: the row's other labels are useful, and the row stays in train.
    single = sorted(name for name, count in counts.items() if count == 1)
    if not single:
        return []
    few = f"the label {single[0]} has" if len(single) == 1 else f"{len(single)} labels ({_listed(single)}) have"
    return [f"{few} one training row only: too few to learn from, and none to evaluate on."]


def check_known(rows: Rows, labels: Sequence[RowLabels], known: set[str]) -> None:
    """Refuse validation and test rows whose label does not occur in training.

    Raises:
        InputError: the message names the first such row.
    """
    coded = Coded.of(labels)
    index = coded.first([code for code, row in enumerate(coded.values) if not known.issuperset(names_of(row))])
    if index is not None:
        name = next(name for name in names_of(coded[index]) if name not in known)
        raise InputError(
            f"{rows.where(index)}: the label {name!r} never occurs in the training rows "
            f"(they have {_listed(sorted(known))}); fix the label or add training rows."
        )


def check_conflicts(rows: Rows, labels: Sequence[RowLabels]) -> None:
    """Refuse a text, or a pair of texts, that has two different labels within a split.

    Raises:
        InputError: the message names both rows.
    """
    coded = Coded.of(labels)
    _, found = conflicts(rows.texts, coded.codes, most=1)
    for other, index in found:
        raise InputError(
            f"{rows.where(index)}: the same {'pair of texts' if rows.pair_columns else 'text'} has {_phrase(coded[index])} "
            f"here and {_phrase(coded[other], short=True)} at {rows.unit} {rows.positions[other]}; decide on one."
        )


def overlap_warnings(texts: dict[str, Sequence[Text]]) -> list[str]:
    """Return one sentence for each pair of splits that share texts, with the count. Scores on shared texts are too good."""
    warnings: list[str] = []
    for (left, right), num_both in num_shared(texts).items():
        if num_both:
            kind = "text pair" if isinstance(texts[left][0], tuple) else "text"
            noun = f"{kind} is" if num_both == 1 else f"{kind}s are"
            warnings.append(f"{num_both} {noun} in both {left} and {right}: {right} scores will look better than they are.")
    return warnings


def coverage_warnings(counts: dict[str, dict[str, int]]) -> list[str]:
    """Return one sentence for each split that lacks labels, with these labels and their training rows.

    `counts` are the rows of each label in each split.
    """
    warnings: list[str] = []
    for name, of_split in counts.items():
        missing = {label: counts["train"][label] for label, count in of_split.items() if not count}
        if missing:
            shown = _listed([f"{label}: {count} training row{'s' * (count != 1)}" for label, count in missing.items()])
            warnings.append(
                f"{name} has no row of {len(missing)} of the {len(of_split)} labels ({shown}): its scores say nothing about "
                f"{'it' if len(missing) == 1 else 'them'}; add rows or give data.{name}."
            )
    return warnings


def _check_texts(rows: Rows, stop: int | None) -> None:
    """Refuse the first faulty text of the rows before `stop`."""
    for index, text in enumerate(islice(rows.texts, stop)):
        if any(map(text_fault, text)) if rows.pair_columns else text_fault(text):
            value = rows.wrong[1] if rows.wrong is not None and index == rows.wrong[0] else text
            faults = list(map(text_fault, value if rows.pair_columns else [value]))
            place = next(place for place, fault in enumerate(faults) if fault)
            what = f"the text in column {rows.pair_columns[place]!r}" if rows.pair_columns else "the text"
            raise InputError(f"{rows.where(index)}: {what} {faults[place]}; fix or remove the row.")


def _label_fault(label: Any, separator: str | None) -> str | None:
    """Return why a value is not a label, or not several, as a phrase; None if it is."""
    if separator is not None:
        for part in _parts(label, separator):
            if _label_name(part) is None:
                fault = "one of the labels is missing" if is_missing(part) else f"{_shown(part)} is not a word or an integer"
                return f"{fault} in {_shown(label)}"
        return None
    if _label_name(label) is not None:
        return None
    if isinstance(label, list | tuple):
        return f"{_shown(label)} is not a word or an integer (lists of labels need model.task multilabel)"
    return f"{_shown(label)} is not a word or an integer" if not is_missing(label) else "the label is missing"


def _names(label: Any, separator: str | None) -> RowLabels:
    """Return a label without a fault as its name, or as a sorted tuple of the names of several."""
    if separator is None:
        return str(_label_name(label))
    return tuple(sorted({str(_label_name(part)) for part in _parts(label, separator)}))


def _parts(label: Any, separator: str) -> Sequence[Any]:
    """Return the labels of a row of a multilabel task."""
    if label is None or (isinstance(label, str) and is_empty(label)):
        return ()
    return label.split(separator) if isinstance(label, str) else label if isinstance(label, list | tuple) else [label]


def _phrase(labels: RowLabels, *, short: bool = False) -> str:
    """Return the labels of a row for a sentence; `short` if the sentence already has the noun."""
    if isinstance(labels, str):
        return repr(labels) if short else f"the label {labels!r}"
    if not labels:
        return "none" if short else "no label"
    listed = ", ".join(map(repr, labels))
    return listed if short else f"the label{'s' * (len(labels) > 1)} {listed}"


def is_missing(label: Any) -> bool:
    """Tell whether a row with this value has no label."""
    return label is None or (isinstance(label, str) and is_empty(label)) or (isinstance(label, float) and math.isnan(label))


def _label_name(label: Any) -> str | None:
    """Return the name of a label: a word, an integer, true or false, or the name of an object such as {"name": "billing"}."""
    if isinstance(label, dict):
        label = label.get("name")
    if is_missing(label):
        return None
    if isinstance(label, bool):
        return str(label).lower()
    if isinstance(label, str):
        return None if has_lone_surrogate(label) else label.strip()
    is_whole = label % 1 == 0 if isinstance(label, Decimal) else isinstance(label, float) and label.is_integer()
    return str(int(label)) if isinstance(label, int) or (is_whole and abs(label) < LARGEST_WHOLE) else None


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}…"


def _listed(names: list[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
