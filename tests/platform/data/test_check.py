from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manta.config import DataConfig
from manta.data import load_dataset
from manta.data.check import check_classes, check_conflicts, check_known, checked_labels, overlap_warnings
from manta.data.read import Rows
from manta.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

GOOD = [(f"text {number}", "ab"[number % 2]) for number in range(10)]


def rows(*pairs: tuple[Any, Any]) -> Rows:
    texts, labels = [text for text, _ in pairs], [label for _, label in pairs]
    return Rows("dev.csv", "line", texts, labels, list(range(2, len(pairs) + 2)))


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("a", "a"),
        (" a b ", "a b"),
        ("3", "3"),
        (3, "3"),
        (-1, "-1"),
        (3.0, "3"),
        (0, "0"),
        ("1.5", "1.5"),
        (True, "true"),
        (False, "false"),
        ({"name": " billing ", "id": 3}, "billing"),
        ({"name": 3}, "3"),
        (Decimal("3.0"), "3"),
    ],
)
def test_words_and_integers_are_labels(label: Any, name: str) -> None:
    assert checked_labels(rows(("text", label))) == [name]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the text is empty"),
        (" \t\n", "the text is empty"),
        ("\u200b\ufeff\x00\u3164\ufe0f", "the text is empty"),
        (None, "the text is missing"),
        (float("nan"), "the text is missing"),
        (3, "int, not a string"),
        (["a"], "list, not a string"),
        ("\ud800 half a pair", "the text"),
    ],
    ids=["empty", "blank", "unseen", "missing", "not-a-number", "number", "list", "lone-surrogate"],
)
def test_texts_that_cannot_be_read_are_refused_with_the_line(text: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        checked_labels(rows(("fine", "a"), (text, "a")))
    assert str(caught.value).startswith("dev.csv, line 3: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("", "the label is missing"),
        ("  ", "the label is missing"),
        (None, "the label is missing"),
        (float("nan"), "the label is missing"),
        (1.5, "1.5 is not a word or an integer"),
        (float("inf"), "inf is not a word or an integer"),
        (1e300, "1e+300 is not a word or an integer"),
        ({"id": 3}, "{'id': 3} is not a word or an integer"),
        ("\ud83d", "'\\ud83d' is not a word or an integer"),
        ("\u200b\u2060", "the label is missing"),
        ([1], r"[1] is not a word or an integer (lists of labels need model.task multilabel)"),
    ],
)
def test_labels_that_are_none_are_refused_with_the_line(label: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        checked_labels(rows(("fine", "a"), ("text", label)))
    assert str(caught.value).startswith(f"dev.csv, line 3: {message}")


def test_no_rows_are_refused() -> None:
    with pytest.raises(InputError, match=r"^dev\.csv: no rows"):
        checked_labels(rows())


def test_one_class_is_refused() -> None:
    with pytest.raises(InputError, match=r"^dev\.csv: every row has the label 'a'"):
        check_classes(rows(("x", "a"), ("y", "a")), ["a", "a"])


def test_a_class_of_one_row_is_refused_with_its_line() -> None:
    with pytest.raises(InputError, match=r"^dev\.csv, line 4: the only row with the label 'b'"):
        check_classes(rows(("x", "a"), ("y", "a"), ("z", "b")), ["a", "a", "b"])
    assert check_classes(rows(("x", "a"), ("z", "b")), ["a", "b"]) == []


def test_an_unknown_label_is_refused_with_its_line_and_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"^dev\.csv, line 3: the label 'c' never occurs .*\(they have a, b\)"):
        check_known(rows(("x", "a"), ("y", "c")), ["a", "c"], {"b", "a"})


def test_a_long_list_of_known_labels_is_cut() -> None:
    with pytest.raises(InputError, match=r"a, b, c, d, e, f, g, h and 2 more"):
        check_known(rows(("x", "z")), ["z"], set("abcdefghij"))


def test_one_text_under_two_labels_is_refused_with_both_lines() -> None:
    with pytest.raises(InputError, match=r"^dev\.csv, line 4: the same text has the label 'b' here and 'a' at line 2"):
        check_conflicts(rows(("x", "a"), ("y", "b"), ("x", "b")), ["a", "b", "b"])


def test_one_text_twice_under_one_label_is_no_conflict() -> None:
    check_conflicts(rows(("x", "a"), ("x", "a")), ["a", "a"])


def test_overlaps_are_counted_once_per_text_for_each_pair() -> None:
    warnings = overlap_warnings({"train": ["a", "b", "c", "c"], "validation": ["c"], "test": ["a", "b", "b", "d"]})
    assert [warning.split(":")[0] for warning in warnings] == [
        "1 text is in both train and validation",
        "2 texts are in both train and test",
    ]
    assert overlap_warnings({"train": ["a"], "validation": ["b"], "test": ["c"]}) == []


def written(folder: Path, name: str, pairs: list[tuple[Any, Any]]) -> str:
    path = folder / name
    if name.endswith(".csv"):
        path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in pairs))
    elif name.endswith(".tsv"):
        path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in pairs))
    elif name.endswith(".jsonl"):
        path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in pairs))
    else:
        pq.write_table(pa.table({"text": [text for text, _ in pairs], "label": [label for _, label in pairs]}), path)
    return str(path)


PLACES = [("train.csv", "line 12"), ("train.tsv", "line 12"), ("train.jsonl", "line 11"), ("train.parquet", "row 11")]


@pytest.mark.parametrize(("name", "place"), PLACES)
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((" ", "a"), "the text is empty"),
        (("new", ""), "the label is missing"),
        (("new", "c"), "the only row with the label 'c'"),
        (("text 0", "b"), "the same text has the label 'b' here and 'a' at"),
    ],
    ids=["empty-text", "no-label", "single-row", "conflict"],
)
def test_a_bad_training_row_is_refused_with_file_and_place(
    tmp_path: Path, name: str, place: str, row: tuple[Any, Any], message: str
) -> None:
    location = written(tmp_path, name, [*GOOD, row])
    with pytest.raises(InputError) as caught:
        load_dataset(DataConfig(train=location))
    assert str(caught.value).startswith(f"{location}, {place}: {message}")


@pytest.mark.parametrize(
    ("row", "message"),
    [((7, "a"), "the text is of type int"), ((None, "a"), "the text is missing"), (("new", None), "the label is missing")],
    ids=["number", "null-text", "null-label"],
)
def test_a_bad_json_value_is_refused_with_file_and_line(tmp_path: Path, row: tuple[Any, Any], message: str) -> None:
    location = written(tmp_path, "train.jsonl", [*GOOD, row])
    with pytest.raises(InputError) as caught:
        load_dataset(DataConfig(train=location))
    assert str(caught.value).startswith(f"{location}, line 11: {message}")


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize(
    ("name", "pairs", "message"),
    [
        ("held.csv", [("new", "a"), ("newer", "c")], ", line 3: the label 'c' never occurs in the training rows"),
        ("held.jsonl", [("new", "a"), ("", "a")], ", line 2: the text is empty"),
        ("held.parquet", [("new", "a"), ("new", "b")], ", row 2: the same text has the label 'b' here and 'a' at row 1"),
        ("held.csv", [], ": no rows"),
        ("held.jsonl", [], ": no rows"),
        ("held.parquet", [], ": no rows"),
    ],
)
def test_held_out_rows_are_checked_too(tmp_path: Path, split: str, name: str, pairs: list[Any], message: str) -> None:
    held = written(tmp_path, name, pairs)
    with pytest.raises(InputError) as caught:
        load_dataset(DataConfig.model_validate({"train": written(tmp_path, "train.csv", GOOD), split: held}))
    assert str(caught.value).startswith(held + message)


@pytest.mark.parametrize(("pairs", "message"), [([], "no rows"), ([("a", "x"), ("b", "x")], "every row has the label 'x'")])
@pytest.mark.parametrize("name", ["train.csv", "train.jsonl", "train.parquet"])
def test_too_little_to_train_on_is_refused(tmp_path: Path, name: str, pairs: list[Any], message: str) -> None:
    location = written(tmp_path, name, pairs)
    with pytest.raises(InputError) as caught:
        load_dataset(DataConfig(train=location))
    assert str(caught.value).startswith(f"{location}: {message}")


def pairs(*triples: tuple[Any, Any, Any]) -> Rows:
    texts, labels = [(first, second) for first, second, _ in triples], [label for *_, label in triples]
    return Rows("dev.csv", "line", texts, labels, list(range(2, len(triples) + 2)), ("premise", 3))


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("", "b"), "the text in column 'premise' is empty"),
        (("a", " "), "the text in column 3 is empty"),
        (("a", None), "the text in column 3 is missing"),
        ((1, "b"), "the text in column 'premise' is of type int, not a string"),
        (("a", "\ud800 half"), "the text in column 3 holds half of a surrogate pair"),
    ],
)
def test_a_faulty_text_of_a_pair_is_named_with_its_column(pair: tuple[Any, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        checked_labels(pairs(("fine", "fine", "x"), (*pair, "x")))
    assert str(caught.value).startswith(f"dev.csv, line 3: {message}")


def test_pairs_conflict_only_where_both_texts_are_the_same() -> None:
    check_conflicts(pairs(("a", "b", "x"), ("a", "c", "y"), ("b", "a", "y")), ["x", "y", "y"])
    with pytest.raises(InputError, match=r"line 4: the same pair of texts has the label 'y' here and 'x' at line 2"):
        check_conflicts(pairs(("a", "b", "x"), ("a", "c", "y"), ("a", "b", "y")), ["x", "y", "y"])


def test_pairs_in_two_splits_are_counted() -> None:
    warnings = overlap_warnings({"train": [("a", "b"), ("a", "c")], "test": [("a", "b"), ("b", "a")]})
    assert warnings == ["1 text pair is in both train and test: test scores will look better than they are."]


@pytest.mark.parametrize(
    ("label", "names"),
    [
        ("a", ("a",)),
        ("b | a", ("a", "b")),
        ("a|a", ("a",)),
        ("", ()),
        ("  ", ()),
        (None, ()),
        ([], ()),
        (["b", "a", "b"], ("a", "b")),
        ([2, 10], ("10", "2")),
        (["a|b"], ("a|b",)),
        (7, ("7",)),
    ],
)
def test_several_labels_stand_between_separators_or_in_a_list(label: Any, names: tuple[str, ...]) -> None:
    assert checked_labels(rows(("text", label)), separator="|") == [names]


def test_another_separator_can_be_chosen() -> None:
    assert checked_labels(rows(("text", "a, b|c")), separator=",") == [("a", "b|c")]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("a||b", "one of the labels is missing in 'a||b'"),
        ("a|", "one of the labels is missing in 'a|'"),
        (["a", None], "one of the labels is missing in ['a', None]"),
        (["a", 1.5], "1.5 is not a word or an integer in ['a', 1.5]"),
        (["a", ["b"]], "['b'] is not a word or an integer"),
        (["a", {}], "{} is not a word or an integer"),
    ],
)
def test_a_faulty_one_of_several_labels_is_refused_with_the_line(label: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        checked_labels(rows(("fine", "a"), ("text", label)), separator="|")
    assert str(caught.value).startswith(f"dev.csv, line 3: {message}")


def test_a_label_of_one_row_among_several_is_a_warning() -> None:
    assert check_classes(rows(*[("x", "")] * 3), [("a", "b"), ("a",), ()]) == [
        "the label b has one training row only: too few to learn from, and none to evaluate on."
    ]
    assert check_classes(rows(*[("x", "")] * 2), [("a", "b"), ("a", "b")]) == []
    (warning,) = check_classes(rows(("x", "")), [("a", "b")])
    assert warning.startswith("2 labels (a, b) have one training row only")


@pytest.mark.parametrize(("labels", "message"), [([(), ()], "no row has a label"), ([("a",), ()], "the only label is 'a'")])
def test_fewer_than_two_labels_among_several_are_refused(labels: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"^dev\.csv: {message}; a multilabel classifier needs at least two"):
        check_classes(rows(*[("x", "")] * 2), labels)


def test_an_unknown_one_of_several_labels_is_refused_with_its_line() -> None:
    with pytest.raises(InputError, match=r"line 3: the label 'c' never occurs"):
        check_known(rows(("x", "a"), ("y", "a|c")), [("a",), ("a", "c")], {"a", "b"})


def test_one_text_with_other_labels_is_refused_in_words() -> None:
    check_conflicts(rows(("x", ""), ("x", "")), [("a", "b"), ("a", "b")])
    with pytest.raises(InputError, match=r"line 3: the same text has no label here and 'a', 'b' at line 2"):
        check_conflicts(rows(("x", ""), ("x", "")), [("a", "b"), ()])
    with pytest.raises(InputError, match=r"line 3: the same text has the labels 'a', 'b' here and none at line 2"):
        check_conflicts(rows(("x", ""), ("x", "")), [(), ("a", "b")])
