"""`manta predict`: the files that people have, with odd signs, columns and types."""

from __future__ import annotations

import csv
import gzip
import io
import json
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manta.errors import InputError
from manta.inference.predictor import Predictor
from manta_jobs.batch_prediction.classify import Classifier

from .predictions import VERSION, plan_of, predict_here, rows_in, texts_of, write_rows

if TYPE_CHECKING:
    from pathlib import Path


ODD_TEXTS = ["my parcel is late, again", "Größe; of the card", 'he said "hello"', "two\nlines", *texts_of(16)]


def odd_content(name: str) -> bytes:
    """The same rows as a file of a kind that people have."""
    sign = {"semicolon": ";", "sep": ";", "tab": "\t", "tsv": "\t", "bar": "|"}.get(name.partition(".")[0], ",")
    rows = [{"id": number, "text": text} for number, text in enumerate(ODD_TEXTS)]
    if "json" in name:
        rows = [{"id": row["id"], "data": {"body": row["text"]}} for row in rows]
        text = "".join(json.dumps(row) + "\n" for row in rows) if ".jsonl" in name else json.dumps(rows, indent=2)
    else:
        sink = io.StringIO()
        writer = csv.writer(sink, delimiter=sign, lineterminator="\r\n")
        writer.writerow(["id", " text"])
        writer.writerows([row["id"], row["text"]] for row in rows)
        text = ("sep=;\r\n" if name.startswith("sep") else "") + sink.getvalue()
    encoding = {"utf-16": "utf-16", "cp1252": "cp1252"}.get(name.partition(".")[0], "utf-8")
    return gzip.compress(text.encode(encoding)) if name.endswith(".gz") else text.encode(encoding)


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("semicolon.csv", "with semicolons between the fields"),
        ("sep.csv", "with semicolons between the fields"),
        ("tab.csv", "with tabs between the fields"),
        ("bar.csv", "with vertical bars between the fields"),
        ("tsv.tsv", None),
        ("utf-16.csv", "as UTF-16"),
        ("cp1252.csv", "as Windows-1252"),
        ("plain.csv.gz", None),
        ("utf-16.csv.gz", "as UTF-16"),
        ("array.json", None),
        ("array.json.gz", None),
        ("lines.jsonl.gz", None),
    ],
)
@pytest.mark.parametrize("order", [1, -1], ids=["forwards", "backwards"])
def test_files_that_people_have_are_read(
    name: str, note: str | None, order: int, predictor: Predictor, small_chunks: None, tmp_path: Path
) -> None:
    path, column = tmp_path / name, "data.body" if "json" in name else "text"
    path.write_bytes(odd_content(name))
    plan = plan_of(path, text=(column,))
    assert list(plan.source.notes) == ([] if note is None else [f"{path} is read {note}."])
    assert len(plan.chunks) == 3
    classifier = Classifier(plan.source, predictor, VERSION)
    read = {chunk.number: classifier._reader.read(chunk) for chunk in plan.chunks[::order]}
    assert [text for number in range(3) for text in read[number].texts] == ODD_TEXTS
    assert {fault for rows in read.values() for fault in rows.faults} == {None}
    predict_here(path, tmp_path / "out.jsonl", predictor, text=(column,))
    rows = rows_in(tmp_path / "out.jsonl")
    assert [row["label"] for row in rows] == [prediction.label for prediction in predictor.predict(ODD_TEXTS)]
    assert [int(row["id"]) for row in rows] == list(range(20))


def test_a_dotted_name_is_a_column_inside_a_structure(predictor: Predictor, tmp_path: Path) -> None:
    rows = [{"data": {"body": "my card", "n": 1}}, {"data": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    predict_here(tmp_path / "in.parquet", tmp_path / "out.parquet", predictor, text=("data.body",))
    answers = rows_in(tmp_path / "out.parquet")
    assert [row["error"] for row in answers] == [None, "the text is missing"]
    assert answers[0]["data"] == {"body": "my card", "n": 1}
    with pytest.raises(InputError, match=r"no column 'data\.bdy' \(--text\); did you mean data\.body\?"):
        plan_of(tmp_path / "in.parquet", text=("data.bdy",))


def test_a_csv_row_with_other_fields_than_the_header_is_kept_and_not_classified(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text('text,id\n"two\nlines",1\nmy card\n\nmy parcel,3,4\nmy card,5\n')
    predict_here(path, tmp_path / "out.csv", predictor)
    rows = rows_in(tmp_path / "out.csv")
    assert [(row["text"], row["id"]) for row in rows] == [
        ("two\nlines", "1"),
        ("my card", ""),
        ("my parcel", "3"),
        ("my card", "5"),
    ]
    wrong = [
        f"{path}, line 4: 1 field where the header has 2; check the delimiters",
        f'{path}, line 6: 3 fields where the header has 2; quote a field that holds a comma, such as "one, two"',
    ]
    assert [row["error"] for row in rows] == ["", *wrong, ""]


def test_a_column_without_a_name_and_lone_carriage_returns_come_back_in_csv(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text(",text\n" + "".join(f'{number},"my\rcard {number}"\n' for number in range(12)), newline="")
    predict_here(path, tmp_path / "out.csv", predictor)
    rows = rows_in(tmp_path / "out.csv")
    assert [(row[""], row["text"]) for row in rows] == [(str(number), f"my\rcard {number}") for number in range(12)]


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_bytes_that_are_not_utf8_are_their_rows_fault(predictor: Predictor, tmp_path: Path, ending: str) -> None:
    texts = pa.array([b"my card", b"\xff\xfe", b"my parcel"]).view(pa.string())
    pq.write_table(pa.table({"text": texts, "note": texts}), tmp_path / "in.parquet")
    predict_here(tmp_path / "in.parquet", tmp_path / f"out.{ending}", predictor)
    errors = [row["error"] or None for row in rows_in(tmp_path / f"out.{ending}")]
    assert errors == [None, "the text holds bytes that are not UTF-8", None]


def test_columns_of_json_have_a_type_where_their_values_agree(predictor: Predictor, small_chunks: None, tmp_path: Path) -> None:
    rows = [
        {"text": text, "number": row, "mixed": row, "list": [row], "half": 2**60 + 1 if row < 7 else 1}
        for row, text in enumerate(texts_of(20))
    ]
    rows[15] |= {"mixed": "fifteen", "list": [], "half": 0.5, "late": True}
    rows[16] |= {"number": None, "empty": {}, "huge": 10**30}
    write_rows(tmp_path / "in.jsonl", rows)
    predict_here(tmp_path / "in.jsonl", tmp_path / "out.parquet", predictor)
    table = pq.read_table(tmp_path / "out.parquet")
    found = {name: table.schema.field(name).type for name in ("number", "mixed", "list", "half", "late", "empty", "huge")}
    assert found == {
        "number": pa.int64(),
        "mixed": pa.string(),
        "list": pa.list_(pa.int64()),
        "half": pa.float64(),
        "late": pa.bool_(),
        "empty": pa.string(),
        "huge": pa.string(),
    }
    back = table.to_pylist()
    assert [row["number"] for row in back] == [row["number"] for row in rows]
    assert [json.loads(row["mixed"]) for row in back] == [row["mixed"] for row in rows]
    assert [row["half"] for row in back[6:8]] == [float(2**60 + 1), 1.0]
    assert (back[16]["huge"], back[15]["late"], back[14]["late"]) == (str(10**30), True, None)
