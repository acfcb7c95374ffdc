"""The names that labels get when rows are read: their usual spelling (`data.normalize_labels`), then that of `data.labels`.

Labels that already have their new names keep them, so that feedback, decisions and rows of later are read with the same map.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from manta.config import nearest
from manta.config.label_names import fault_of
from manta.data.coded import label_counts
from manta.data.look_alikes import folded
from manta.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from manta.config import DataConfig
    from manta.data.coded import Coded
    from manta.data.collect import Rows
    from manta.labels import RowLabels

MOST_SHOWN = 10


class Naming:
    """New names of labels."""

    def __init__(self, config: DataConfig, usual: dict[str, str] | None) -> None:
        """Take the usual spelling of each label by its `folded` name if spellings are merged, else None.

        Raises:
            InputError: spellings that are merged get different names.
        """
        self._key = str if usual is None else folded
        self._given = config.labels or {}
        fault = fault_of(self._given, self._key)
        if fault:
            raise InputError(f"{fault}.")
        self._new = {self._key(old): new for old, new in self._given.items()}
        written = {self._key(new): new for new in self._new.values() if new is not None}
        self._spelled = written if usual is None else usual | written

    def of(self, label: RowLabels) -> RowLabels:
        """Return the new label of a row, or its several new labels. A single label that `data.labels` leaves out stays for now."""
        if isinstance(label, str):
            return self._of_name(label)
        return tuple(sorted({self._of_name(name) for name in label if not self.leaves_out(name)}))

    def _of_name(self, name: str) -> str:
        key = self._key(name)
        new = self._new.get(key)
        return self._spelled.get(key, name) if new is None else new

    def leaves_out(self, label: RowLabels) -> bool:
        """Tell whether rows of this label are left out. Rows of several labels, or of none, are not."""
        return isinstance(label, str) and self._new.get(self._key(label), "") is None

    def check_fits(self, splits: Iterable[Coded[RowLabels]], *, separator: str | None) -> None:
        """Refuse an old name that no row has, and a new name that looks like several labels of a row.

        Raises:
            InputError: the message names the nearest label.
        """
        for new in self._new.values():
            if separator is not None and separator in (new or ""):
                raise InputError(f"data.labels: {new!r} holds data.label_separator {separator!r}; a label gets one new name.")
        names = list(dict.fromkeys(name for labels in splits for name in label_counts(labels)))
        known = {self._key(name) for name in names}
        for old in self._given:
            if self._key(old) not in known:
                raise InputError(f"data.labels: no row has the label {old!r}; {nearest(old, names)}")

    def without_left_out(self, rows: Rows, labels: Coded[RowLabels]) -> tuple[Rows, Coded[RowLabels]]:
        """Return the rows and labels without those whose label is left out.

        Raises:
            InputError: no row is left.
        """
        codes = [code for code, label in enumerate(labels.values) if self.leaves_out(label)]
        if not codes:
            return rows, labels
        kept = np.flatnonzero(~np.isin(labels.codes, codes))
        if not len(kept):
            raise InputError(f"data.labels leaves out every row of {rows.source}; keep one of their labels.")
        return rows.take(kept), labels.take(kept)

    def check_rest(self, rows: Rows, labels: Coded[RowLabels]) -> None:
        """Refuse training rows with fewer than two labels, if `data.labels` may be the reason.

        Raises:
            InputError: the message names the label that is left.
        """
        left = list(label_counts(labels))
        if self._given and len(left) < 2:
            shown = f"only the label {left[0]!r}" if left else "no label"
            raise InputError(f"data.labels leaves {shown} in {rows.source}; a classifier needs at least two.")

    def sentences(self, given: Sequence[Coded[RowLabels]], decided: Sequence[Coded[RowLabels]]) -> list[str]:
        """Return one sentence with the number of rows of each old name; none if no row has one.

        `given` are the labels of the files. `decided` are those after `of` and the decisions, which may keep rows in.
        """
        renamed, left_out = self._counts(given), self._counts(decided)
        said = []
        for old, new in self._given.items():
            key = self._key(old)
            if new is not None and new != old:
                said += [f"{_rows(renamed[key])} of {old!r} count{'s' * (renamed[key] == 1)} as {new!r}"] * (renamed[key] > 0)
            elif new is None and left_out[key]:
                said.append(f"{_rows(left_out[key])} of {old!r} left out")
            elif new is None and renamed[key]:  # several labels a row, or all rows have another label by decisions
                said.append(f"{old!r} left out of {_rows(renamed[key])}, which stay")
        more = [f"{len(said) - MOST_SHOWN:,} more names"] if len(said) > MOST_SHOWN else []
        return [f"labels: {'; '.join([*said[:MOST_SHOWN], *more])}."] if said else []

    def _counts(self, splits: Sequence[Coded[RowLabels]]) -> Counter[str]:
        counts: Counter[str] = Counter()
        for labels in splits:
            for name, count in label_counts(labels).items():
                counts[self._key(name)] += count
        return counts


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"
