from __future__ import annotations

from typing import Any

import pytest

from manta.data.coded import Coded, encoded, label_counts
from manta.labels import LabelSpace


def test_values_are_numbered_in_the_order_of_their_first_rows() -> None:
    rows = Coded.of(["b", "a", "b", "c"])
    assert (rows.values, rows.codes.tolist(), rows.counts()) == (["b", "a", "c"], [0, 1, 0, 2], {"b": 2, "a": 1, "c": 1})
    assert rows == ["b", "a", "b", "c"]
    assert (rows[1], rows[-1], rows[1:3], len(rows)) == ("a", "c", ["a", "b"], 4)
    assert rows != ["b", "a", "b"]
    assert Coded.of(rows) is rows


@pytest.mark.parametrize(
    "values", [[1, 1.0, True, "1"], [None, "None", float("nan")], [["a", 1], ["a", True], ("a", 1)], [{"n": 1}, {}]]
)
def test_values_of_other_types_are_other_values(values: list[Any]) -> None:
    rows = Coded.of([*values, *values])
    assert rows.codes.tolist() == [*range(len(values))] * 2
    assert list(map(type, rows)) == list(map(type, values)) * 2


def test_equal_values_of_a_mapping_get_one_code() -> None:
    rows = Coded.of(["b", "A", "a", "B"])
    assert rows.map(str.lower).codes.tolist() == [0, 1, 1, 0]
    assert rows.map(str.lower).values == ["b", "a"]
    assert rows.map(str.swapcase) == ["B", "a", "A", "b"]


def test_the_first_row_with_one_of_the_codes_is_found() -> None:
    rows = Coded.of(["b", "a", "c", "a"])
    assert (rows.first([2, 1]), rows.first([2]), rows.first([])) == (1, 2, None)


def test_no_rows_are_none() -> None:
    assert (len(Coded.of([])), Coded.of([]).counts(), Coded.of([]).map(str)) == (0, {}, [])


def test_labels_are_counted_and_encoded_by_row() -> None:
    several = Coded.of([("b", "a"), (), ("b",), ("b", "a")])
    assert list(label_counts(several).items()) == [("b", 3), ("a", 2)]
    assert encoded(several, LabelSpace(("a", "b"), "multilabel")).tolist() == [[1, 1], [0, 0], [0, 1], [1, 1]]
    assert encoded(Coded.of(["y", "x", "y"]), LabelSpace(("x", "y"), "binary")).tolist() == [1, 0, 1]
    with pytest.raises(KeyError):
        encoded(Coded.of(["z"]), LabelSpace(("x", "y"), "binary"))
