"""`Coded`: the values of many rows of which few are different, such as labels. A row is a number of four bytes."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt

from manta.data.stored import RowSequence
from manta.labels import LabelSpace, RowLabels, Targets, names_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
S = TypeVar("S")
Codes = npt.NDArray[np.int32]


class Coded(RowSequence[T]):
    """Values of rows by code, as in Arrow's dictionary encoding. 1, 1.0 and True are different values."""

    def __init__(self, codes: Codes, values: list[T]) -> None:
        """Take the code of each row `(rows,)` and the values, which are different and in the order of their first rows."""
        self.codes, self.values = codes, values

    @classmethod
    def of(cls, rows: Sequence[T]) -> Coded[T]:
        """Return the rows in this form."""
        if isinstance(rows, Coded):
            return rows
        coder: Coder[T] = Coder()
        coder.extend(rows)
        return coder.coded()

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[T]:
        return (self.values[code] for code in self.codes)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Coded[T]: ...

    def __getitem__(self, index: int | slice) -> T | Coded[T]:
        return Coded(self.codes[index], self.values) if isinstance(index, slice) else self.values[self.codes[index]]

    def take(self, indices: npt.NDArray[np.int64]) -> Coded[T]:
        """Return the rows at `indices`, in their order, and only the values that they have."""
        codes = self.codes[indices]
        found, first = np.unique(codes, return_index=True)
        kept = found[np.argsort(first)]
        new = np.zeros(len(self.values), dtype=np.int32)
        new[kept] = np.arange(len(kept))
        return Coded(new[codes], [self.values[code] for code in kept.tolist()])

    def counts(self) -> dict[T, int]:
        """Return the number of rows of each value, in the order of the first rows."""
        return dict(zip(self.values, np.bincount(self.codes, minlength=len(self.values)).tolist(), strict=True))

    def first(self, codes: Sequence[int]) -> int | None:
        """Return the first row that has one of the codes; None if there is none."""
        rows = [int(np.argmax(self.codes == code)) for code in codes]
        return min(rows, default=None)

    def map(self, function: Callable[[T], S]) -> Coded[S]:
        """Return the rows with another value for each value. Equal ones get one code."""
        coder: Coder[S] = Coder()
        coder.extend(map(function, self.values))
        new = coder.coded()
        return Coded(self.codes if len(new.values) == len(self.values) else new.codes[self.codes], new.values)


class Coder(Generic[T]):
    """Builder of a column of codes: each distinct value is stored once, and rows are added as they are read."""

    def __init__(self) -> None:
        self._codes = array("i")
        self._values: list[T] = []
        self._code_of: dict[Any, int] = {}

    def extend(self, values: Iterable[T]) -> None:
        """Add the values of the next rows."""
        code_of, add = self._code_of, self._codes.append
        for value in values:
            key: Any = value if type(value) is str else (type(value), repr(value))
            code = code_of.get(key)
            if code is None:
                code = code_of[key] = len(self._values)
                self._values.append(value)
            add(code)

    def coded(self) -> Coded[T]:
        """Return all rows."""
        return Coded(np.frombuffer(self._codes, dtype=np.int32) if self._codes else np.empty(0, dtype=np.int32), self._values)


def label_counts(labels: Coded[RowLabels]) -> Counter[str]:
    """Return the number of rows of each label, in the order of their first rows."""
    counts: Counter[str] = Counter()
    for row, count in labels.counts().items():
        counts.update(dict.fromkeys(names_of(row), count))
    return counts


def encoded(labels: Coded[RowLabels], space: LabelSpace) -> Targets:
    """Convert label names as `LabelSpace.encode` does.

    Raises:
        KeyError: a name is not in the label space.
    """
    return space.encode(labels.values)[labels.codes]
