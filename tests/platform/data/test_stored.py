from __future__ import annotations

import pickle
import resource
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from manta.data import stored
from manta.data.stored import BatchWriter, StoredRows, taken, with_added
from manta.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZES = (3, 1, 5, 2)
TEXTS = [f"text {number} ü" for number in range(sum(SIZES))]
PAIRS = [(text, text[::-1]) for text in TEXTS]


@pytest.fixture(params=["in memory", "in a file"])
def writer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> BatchWriter:
    """A writer of four batches, of which three are in a file if any is: they are large from the second one on."""
    if request.param == "in a file":
        monkeypatch.setattr(stored, "MOST_BYTES_IN_MEMORY", 100)
    monkeypatch.setattr(stored, "CHUNK_ROWS", 4)
    found, start = BatchWriter(), 0
    for size in SIZES:
        rows = range(start, start + size)
        columns = {"first": [TEXTS[row] for row in rows], "second": [PAIRS[row][1] for row in rows], "position": list(rows)}
        found.write(pa.record_batch({name: pa.array(values) for name, values in columns.items()}))
        start += size
    return found


def test_rows_come_back_in_any_order(writer: BatchWriter) -> None:
    batches = writer.finished()
    texts: StoredRows[str] = StoredRows(batches, ["first"])
    assert texts == TEXTS
    assert StoredRows(batches, ["first", "second"]) == PAIRS
    assert list(StoredRows(batches, ["position"])) == list(range(11))
    assert (texts[0], texts[-1], texts[np.int64(4)], texts[2:5], texts[::-3]) == (
        TEXTS[0], TEXTS[-1], TEXTS[4], TEXTS[2:5], TEXTS[::-3],
    )  # fmt: skip
    assert (texts[3:3], texts[20:], len(texts)) == ([], [], 11)
    for place in (11, -12):
        with pytest.raises(IndexError, match=f"row {place} of 11"):
            texts[place]
    rows = np.array([10, 0, 3, 3, 4, 9])
    some = texts.take(rows)
    assert some == [TEXTS[row] for row in rows]
    assert some.take(np.array([5, 1])) == [TEXTS[9], TEXTS[0]]
    assert (some[2:4], some[-1], len(some.take(np.array([], dtype=np.int64)))) == ([TEXTS[3]] * 2, TEXTS[9], 0)
    assert texts != TEXTS[:-1]
    assert texts != [*TEXTS[:-1], "other"]


def test_rows_are_sent_to_other_processes_themselves(writer: BatchWriter) -> None:
    pairs: StoredRows[tuple[str, str]] = StoredRows(writer.finished(), ["first", "second"], np.array([7, 2]))
    sent = pickle.dumps(pairs)
    assert pickle.loads(sent) == [PAIRS[7], PAIRS[2]]  # noqa: S301
    assert TEXTS[3].encode() not in sent  # nor the rows beside them


def test_further_rows_follow_stored_ones(writer: BatchWriter) -> None:
    batches = writer.finished()
    some: StoredRows[str] = StoredRows(batches, ["first"], np.array([1, 0]))
    both = with_added(some, ["new", "newer"])
    assert both == [TEXTS[1], TEXTS[0], "new", "newer"]
    assert with_added(both, ["last"])[3:] == ["newer", "last"]
    assert with_added(some, []) == some
    assert with_added(StoredRows(batches, ["first", "second"]), [("a", "b")])[-2:] == [PAIRS[-1], ("a", "b")]
    assert with_added(["a"], ["b"]) == taken(["b", "x", "a"], np.array([2, 0])) == ["a", "b"]


def test_no_rows_are_none() -> None:
    nothing: StoredRows[str] = StoredRows(BatchWriter().finished(), ["first"])
    assert (len(nothing), list(nothing), bool(nothing)) == (0, [], False)


@contextmanager
def small_files() -> Iterator[None]:
    """No file of this process may grow beyond a kilobyte, as on a disk that is full. That includes the test runner's output."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "MOST_BYTES_IN_MEMORY", 100)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    writer = BatchWriter()
    large = pa.record_batch({"text": pa.array(["a text of some length"] * 10_000)})
    with pytest.raises(RunError) as caught, small_files():
        writer.write(large)
    assert str(caught.value).startswith(f"{tmp_path}: no room for the rows (")
    assert str(caught.value).endswith("; free some, or name another folder in TMPDIR.")
    assert list(tmp_path.iterdir()) == []
