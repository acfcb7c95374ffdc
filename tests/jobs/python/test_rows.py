"""Rows of each kind of table, and what is said of those that cannot be read."""

from __future__ import annotations

from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pytest

from manta.errors import InputError
from manta_jobs.python.rows import as_table, texts_of

TEXTS, LABELS = ["late parcel", "wrong invoice", "no login"], ["delivery", "billing", "account"]
COLUMNS = {"id": [7, 8, 9], "text": TEXTS, "label": LABELS}


def of_datasets() -> datasets.Dataset:
    """A dataset from which a selection left rows out."""
    more = {name: ["x" if name != "id" else 0, *values] for name, values in COLUMNS.items()}
    return datasets.Dataset.from_dict(more).select([1, 2, 3])


TABLES = {
    "pandas": pd.DataFrame(COLUMNS, index=[4, 5, 6]),
    "pyarrow": pa.table(COLUMNS),
    "datasets": of_datasets(),
    "dicts": [dict(zip(COLUMNS, row, strict=True)) for row in zip(*COLUMNS.values(), strict=True)],
}


@pytest.mark.parametrize("kind", TABLES)
def test_every_kind_of_table_gives_the_same_columns(kind: str) -> None:
    table = as_table(TABLES[kind], columns=["text", "label"], what="train rows")
    assert table.to_pydict() == {"text": TEXTS, "label": LABELS}
    assert texts_of(TABLES[kind], columns=["text"], num_texts=1) == TEXTS
    assert texts_of(TABLES[kind], columns=["text", "label"], num_texts=2) == list(zip(TEXTS, LABELS, strict=True))


def test_class_labels_of_datasets_keep_their_names() -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    table = as_table(rows, columns=["text", "label"], what="train rows")
    assert b'"names": ["no", "yes"]' in table.schema.metadata[b"huggingface"]


def test_a_dotted_name_keeps_its_outer_column_and_a_position_keeps_all() -> None:
    rows = [{"data": {"body": "late parcel"}, "label": "delivery", "id": 7}]
    assert as_table(rows, columns=["data.body", "label"], what="train rows").column_names == ["data", "label"]
    assert texts_of(rows, columns=["data.body"], num_texts=1) == ["late parcel"]
    assert as_table(rows, columns=[0, 1], what="train rows").column_names == ["data", "label", "id"]


@pytest.mark.parametrize(
    "texts",
    [pd.Series(TEXTS), pa.chunked_array([TEXTS]), of_datasets()["text"], tuple(TEXTS), (text for text in TEXTS)],
    ids=["series", "arrow", "datasets", "tuple", "generator"],
)
def test_any_sequence_of_texts_is_one(texts: Any) -> None:
    assert texts_of(texts, columns=["text"], num_texts=1) == TEXTS


def test_pairs_may_be_lists_and_nothing_has_no_texts() -> None:
    assert texts_of([["a", "b"], ("c", "d")], columns=["text"], num_texts=2) == [("a", "b"), ("c", "d")]
    assert texts_of([], columns=["text"], num_texts=1) == []
    assert texts_of(pd.DataFrame(COLUMNS)[:0], columns=["text"], num_texts=1) == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (pd.DataFrame({"txt": TEXTS, "label": LABELS}), "train rows: no column 'text'; did you mean txt?"),
        (
            pd.DataFrame({"text": [1, "a"], "label": ["x", "y"]}),
            "train rows: a column cannot be read .* give all its values one",
        ),
        ([], "train rows: there are none"),
        (TEXTS, "train rows: cannot be read from a value of type list; give a pandas or Polars DataFrame"),
        (5, "train rows: cannot be read from a value of type int"),
    ],
)
def test_what_is_no_table_of_rows_is_one_sentence(rows: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_table(rows, columns=["text", "label"], what="train rows")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("late parcel", r"put a single one into a list: model\.predict\(\[text\]\)"),
        (["late parcel", None], "text 2 of 2 is missing"),
        ([" "], "text 1 of 1 is empty"),
        ([("late", 5)], "text 1 of 1 is of type int, not a string"),
        (pd.DataFrame({"txt": TEXTS}), "the rows to predict: no column 'text'; did you mean txt?"),
    ],
)
def test_what_cannot_be_predicted_is_one_sentence(texts: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        texts_of(texts, columns=["text"], num_texts=1)
