"""What is checked before anything starts. Each fault is one sentence with the file, the line and what to do."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from manta.data.read import Rows
from manta.errors import InputError


def checked_labels(rows: Rows) -> list[str]:
    """The rows' labels as names, after each text and label was looked at.

    Raises:
        InputError: there are no rows, a text is empty or no string, or a label is missing or not a word or integer.
    """
    if not rows.texts:
        raise InputError(f"{rows.source}: no rows; it needs texts and labels to work with.")
    names: list[str] = []
    for index, (text, label) in enumerate(zip(rows.texts, rows.labels, strict=True)):
        if not isinstance(text, str):
            kind = "missing" if text is None else f"of type {type(text).__name__}, not a string"
            raise InputError(f"{rows.where(index)}: the text is {kind}; fix or remove the row.")
        if not text.isascii() and _has_lone_surrogate(text):
            raise InputError(f"{rows.where(index)}: the text holds half of a surrogate pair, which is no character; fix the row.")
        if not text.strip():
            raise InputError(f"{rows.where(index)}: the text is empty; fix or remove the row.")
        name = _label_name(label)
        if name is None:
            fault = f"{label!r} is not a word or an integer" if not _is_missing(label) else "the label is missing"
            raise InputError(f"{rows.where(index)}: {fault}; fix or remove the row.")
        names.append(name)
    return names


def check_classes(rows: Rows, labels: list[str]) -> None:
    """Refuse training rows that no classifier can learn from.

    Raises:
        InputError: there is one class only, or a class has one row.
    """
    counts = Counter(labels)
    if len(counts) == 1:
        raise InputError(f"{rows.source}: every row has the label {labels[0]!r}; a classifier needs at least two.")
    for name, count in counts.items():
        if count == 1:
            where = rows.where(labels.index(name))
            raise InputError(f"{where}: the only row with the label {name!r}; add more such rows or remove it.")


def check_known(rows: Rows, labels: list[str], known: set[str]) -> None:
    """Refuse validation and test rows whose label was never seen in training.

    Raises:
        InputError: naming the first such row.
    """
    for index, name in enumerate(labels):
        if name not in known:
            raise InputError(
                f"{rows.where(index)}: the label {name!r} never occurs in the training rows "
                f"(they have {_listed(sorted(known))}); fix the label or add training rows."
            )


def check_conflicts(rows: Rows, labels: list[str]) -> None:
    """Refuse one text under two labels within a split.

    Raises:
        InputError: naming both rows.
    """
    first: dict[str, int] = {}
    for index, text in enumerate(rows.texts):
        other = first.setdefault(text, index)
        if labels[other] != labels[index]:
            raise InputError(
                f"{rows.where(index)}: the same text has the label {labels[index]!r} here and {labels[other]!r} at "
                f"{rows.unit} {rows.positions[other]}; decide on one."
            )


def overlap_warnings(texts: dict[str, list[str]]) -> list[str]:
    """One sentence for each pair of splits that share texts, with the count: scores on them are too good."""
    warnings: list[str] = []
    names = list(texts)
    for position, left in enumerate(names):
        for right in names[position + 1 :]:
            shared = len(set(texts[left]) & set(texts[right]))
            if shared:
                noun = "text is" if shared == 1 else "texts are"
                warnings.append(f"{shared} {noun} in both {left} and {right}: {right} scores will look better than they are.")
    return warnings


def _has_lone_surrogate(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _is_missing(label: Any) -> bool:
    return label is None or (isinstance(label, str) and not label.strip()) or (isinstance(label, float) and math.isnan(label))


def _label_name(label: Any) -> str | None:
    if _is_missing(label) or isinstance(label, bool):
        return None
    if isinstance(label, str):
        return label.strip()
    if isinstance(label, int) or (isinstance(label, float) and label.is_integer()):
        return str(int(label))
    return None


def _listed(names: list[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
