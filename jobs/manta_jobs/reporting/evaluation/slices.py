"""Accuracy on slices of the rows: by length, by a column's values, and by regular expressions.

Small slices have wide confidence intervals, so that a few rows are not mistaken for a weakness.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from manta.behaviour.perturbations import parts_of
from manta.errors import InputError
from manta.intervals import wilson_interval

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from manta.texts import Text

NUM_LENGTHS = 4
MOST_VALUES = 20
"""Most slices by a column's values. With more values, numbers are grouped by size; of other values, the rarest share a slice."""
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Slice:
    """Rows that have something in common."""

    group: str
    """Criterion of the slice: `length`, a column or `pattern`."""
    name: str
    num_rows: int
    accuracy: float
    """Share of the rows that are right; for a multilabel task, with all labels right."""
    low: float
    high: float
    """Bounds `low` and `high` of the accuracy's 95% confidence interval."""

    @property
    def title(self) -> str:
        """Name of the slice for use in a sentence."""
        return f"{self.group} {self.name}" if self.group in ("length", "pattern") else f"{self.group} = {self.name}"


def checked_patterns(pairs: Sequence[str]) -> dict[str, re.Pattern[str]]:
    """Return regular expressions by name, from `NAME=REGEX`.

    Raises:
        InputError: one has no name, is not a valid regular expression, or has a name that occurs twice.
    """
    patterns: dict[str, re.Pattern[str]] = {}
    for pair in pairs:
        name, equals, expression = pair.partition("=")
        if not (name and equals and expression):
            raise InputError(f"--slice-pattern {pair}: write it as NAME=REGEX, for example --slice-pattern 'question=\\?$'.")
        if name in patterns:
            raise InputError(f"--slice-pattern {pair}: there are two patterns called {name!r}; give each a name of its own.")
        try:
            patterns[name] = re.compile(expression)
        except re.error as error:
            at = "" if error.pos is None else f" at position {error.pos + 1}"
            raise InputError(
                f"--slice-pattern {name}: {expression!r} is no regular expression: {error.msg}{at}; correct it."
            ) from None
    return patterns


def slices_of(
    texts: Sequence[Text],
    right: Flags,
    *,
    columns: Mapping[str | int, Sequence[Any]],
    patterns: Mapping[str, re.Pattern[str]],
) -> list[Slice]:
    """Return all slices of the rows, in the order of the options. `right` marks the rows with a right answer, `(rows,)`."""
    lengths = [sum(map(len, parts_of(text))) for text in texts]
    slices = _by_size("length", lengths, right, unit=" characters")
    for column, values in columns.items():
        slices += _by_value(str(column), values, right)
    for name, pattern in patterns.items():
        found = np.array([any(pattern.search(part) for part in parts_of(text)) for text in texts], dtype=bool)
        slices.append(_slice("pattern", name, found, right))
    return slices


def worst_slice(slices: Iterable[Slice], *, num_rows: int) -> Slice | None:
    """Return the slice with the lowest upper bound, which is bad beyond chance. None if every slice is empty or has all rows."""
    parts = [part for part in slices if 0 < part.num_rows < num_rows]
    return min(parts, key=lambda part: (part.high, part.accuracy), default=None)


def _slice(group: str, name: str, member: Flags, right: Flags) -> Slice:
    num_rows, num_right = int(member.sum()), int(right[member].sum())
    return Slice(group, name, num_rows, num_right / num_rows if num_rows else 0.0, *wilson_interval(num_right, num_rows))


def _by_size(group: str, values: Sequence[float], right: Flags, *, unit: str = "", among: Flags | None = None) -> list[Slice]:
    """Return slices with about equally many rows. Equal values stay in one slice."""
    sizes = np.asarray(values)
    among = np.ones(len(sizes), dtype=bool) if among is None else among
    ends = np.unique(np.quantile(sizes[among], np.arange(1, NUM_LENGTHS + 1) / NUM_LENGTHS, method="lower"))
    number = np.searchsorted(ends, sizes)
    members = [among & (number == index) for index in range(len(ends))]
    return [
        _slice(group, f"{_span(sizes[member].min(), sizes[member].max())}{unit}", member, right)
        for member in members
        if member.any()
    ]


def _by_value(column: str, values: Sequence[Any], right: Flags) -> list[Slice]:
    names = ["(none)" if value is None or str(value).strip() == "" else str(value) for value in values]
    numbers = np.array([_number(value) for value in values], dtype=np.float64)
    counts = Counter(names)
    missing = np.array([name == "(none)" for name in names], dtype=bool)
    if len(counts) > MOST_VALUES and not np.isnan(numbers[~missing]).any():
        slices = _by_size(column, np.where(missing, 0.0, numbers).tolist(), right, among=~missing)
        return [*slices, _slice(column, "(none)", missing, right)] if missing.any() else slices
    kept = [name for name, _ in counts.most_common(MOST_VALUES if len(counts) <= MOST_VALUES else MOST_VALUES - 1)]
    column_names = np.array(names, dtype=object)
    slices = [_slice(column, name, np.asarray(column_names == name, dtype=bool), right) for name in kept]
    if len(counts) > len(kept):
        rest = ~np.isin(column_names.astype(str), kept)
        slices.append(_slice(column, f"({len(counts) - len(kept)} rarer values)", rest, right))
    return slices


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _span(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g}–{high:g}"
