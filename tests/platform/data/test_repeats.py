from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from manta.data import repeats
from manta.data.repeats import conflicts, num_shared

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from manta.data.repeats import Hashes


def by_dictionary(texts: list[str], codes: list[int], form: Callable[[str], str]) -> list[tuple[int, int]]:
    """Each row that has another code than the first row with its text."""
    first: dict[str, int] = {}
    return [(other, row) for row, text in enumerate(texts) if codes[other := first.setdefault(form(text), row)] != codes[row]]


@pytest.fixture(params=["own hashes", "few hashes", "one hash"])
def hashes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hashes of texts, or such that very many texts share one."""
    monkeypatch.setattr(repeats, "PART_ROWS", 7)
    monkeypatch.setattr(repeats, "BLOCK_ROWS", 10)
    num_hashes = {"few hashes": 5, "one hash": 1}.get(request.param)
    if num_hashes is not None:
        own: Callable[..., Hashes] = repeats._hashes
        monkeypatch.setattr(repeats, "_hashes", lambda *arguments: own(*arguments) % num_hashes)


@pytest.mark.parametrize("num_texts", [5, 60, 1000])
@pytest.mark.parametrize("most", [1, 5])
def test_the_same_conflicts_are_found_as_by_comparing_all_texts(hashes: None, num_texts: int, most: int) -> None:
    rng = np.random.default_rng(num_texts)
    for num_codes in (1, 2, 3):
        texts = ["Aa"[number % 2] * (number + 1) for number in rng.integers(0, num_texts, 100).tolist()]
        codes = rng.integers(0, num_codes, 100).astype(np.int32)
        for form in (None, str.lower):
            expected = by_dictionary(texts, codes.tolist(), form or str)
            assert conflicts(texts, codes, most=most, form=form) == (len(expected), expected[:most])


def test_no_rows_conflict() -> None:
    assert conflicts([], np.empty(0, dtype=np.int32), most=1) == (0, [])


def test_shared_texts_are_counted_once(hashes: None) -> None:
    rng = np.random.default_rng(0)
    splits: dict[str, Sequence[str]] = {name: [str(number) for number in rng.integers(0, 80, 60)] for name in ("a", "b", "c")}
    splits["none"] = ["x", "y", "y"]
    expected = {
        (left, right): len({*splits[left]} & {*splits[right]})
        for left, right in (("a", "b"), ("a", "c"), ("a", "none"), ("b", "c"), ("b", "none"), ("c", "none"))
    }
    assert num_shared(splits) == expected
    assert expected["a", "b"] > 7
