"""`manta predict`: each row once, in order, with all its columns; what cannot be classified says why."""

# ruff: noqa: F811  # fixtures that are imported and asked for
from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import json
import random
import shutil
import threading
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manta.console import people_console
from manta.errors import InputError, RunError
from manta.inference.artifact import ModelArtifact, with_calibration, with_scope
from manta.inference.predictor import Predictor
from manta.inference.scope import References, Scope
from manta_jobs.batch_prediction import predict
from manta_jobs.batch_prediction.classify import MOST_CHARACTERS, Classifier
from manta_jobs.batch_prediction.destination import Destination
from manta_jobs.batch_prediction.locate import locate
from manta_jobs.batch_prediction.view import show_predicted
from manta_jobs.batch_prediction.workers import Pool, fit_pool

from ...platform.conftest import calibration, finished, make_artifact, one_thread  # noqa: F401  # fixtures
from ..conftest import ran_without_cluster
from .predictions import VERSION, plan_of, predict_here, rows_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WORDS = "parcel courier late charged invoice card password login email the my is please".split()
NUM_ROWS = 50
ADDED = ["label", "score", "uncertain", "uncertain_reason", "model_version", "error"]


@pytest.fixture(scope="module")
def predictor(finished: dict[str, Any], one_thread: None) -> Predictor:
    return Predictor(finished["multiclass"].artifact, device="cpu")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 7 rows, groups of 2 chunks: files of some rows have several of each."""
    monkeypatch.setattr("manta_jobs.batch_prediction.plan.CHUNK_ROWS", 7)
    monkeypatch.setattr("manta_jobs.batch_prediction.read.CHUNK_ROWS", 7)
    monkeypatch.setattr("manta_jobs.batch_prediction.join.GROUP_CHUNKS", 2)


def texts_of(count: int) -> list[str]:
    generator = random.Random(0)
    return [" ".join(generator.choices(WORDS, k=generator.randint(1, 12))) for _ in range(count)]


def input_rows(count: int = NUM_ROWS) -> list[dict[str, Any]]:
    """Rows with a field that has all that makes CSV hard."""
    return [
        {"id": str(number), "note": f'line 1\nline "{number}", ü,\r\nend' if number % 3 else "", "text": text}
        for number, text in enumerate(texts_of(count))
    ]


def write_rows(path: Path, rows: list[dict[str, Any]], *, row_group_size: int = 17) -> Path:
    """Rows as a file of the kind that its ending names; TSV without the field it cannot hold."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group_size)
    elif path.suffix == ".jsonl":
        path.write_text("\ufeff" + "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    elif path.suffix == ".tsv":
        path.write_text("id\ttext\r\n" + "".join(f"{row['id']}\t{row['text']}\r\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("out", ["out.csv", "out.jsonl", "out.parquet", "folder"])
@pytest.mark.parametrize("source", ["in.csv", "in.tsv", "in.jsonl", "in.parquet"])
def test_every_row_comes_once_in_order_with_its_columns_and_the_models_answer(
    source: str, out: str, predictor: Predictor, small_chunks: None, tmp_path: Path
) -> None:
    rows = input_rows()
    path = write_rows(tmp_path / source, rows)
    columns = ["id", "text"] if source == "in.tsv" else ["id", "note", "text"]
    numbers = predict_here(path, tmp_path / out, predictor)
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= NUM_ROWS / 7
    answers = rows_in(tmp_path / out)
    assert [{name: row[name] for name in columns} for row in answers] == [{name: row[name] for name in columns} for row in rows]
    assert list(answers[0]) == [*columns, *ADDED]
    wanted = predictor.predict([row["text"] for row in rows])
    assert [row["label"] for row in answers] == [prediction.label for prediction in wanted]
    assert [float(row["score"]) for row in answers] == pytest.approx([prediction.score for prediction in wanted], abs=1e-6)
    assert {row["model_version"] for row in answers} == {VERSION}
    assert {row["error"] or None for row in answers} == {None}
    assert not (tmp_path / f"{out}.partial").exists()
    if out == "folder":
        assert len(list((tmp_path / out).iterdir())) == -(-len(numbers) // 2)


def test_parquet_keeps_its_types_and_nulls(predictor: Predictor, small_chunks: None, tmp_path: Path) -> None:
    texts = texts_of(20)
    day = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    table = pa.table(
        {
            "number": pa.array([None if row % 3 == 0 else row for row in range(20)], pa.int32()),
            "text": pa.array([None if row == 4 else text for row, text in enumerate(texts)]).dictionary_encode(),
            "when": pa.array([day] * 20, pa.timestamp("us", tz="UTC")),
            "price": pa.array([Decimal("1.10")] * 20, pa.decimal128(9, 2)),
            "bytes": pa.array([b"\x00\xff"] * 20),
            "nested": pa.array([{"a": [1, None]}] * 20),
            "nan": pa.array([float("nan")] * 20),
        }
    ).replace_schema_metadata({"owner": "desk"})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=9)
    predict_here(tmp_path / "in.parquet", tmp_path / "out.parquet", predictor)
    result = pq.read_table(tmp_path / "out.parquet")
    source = pq.read_table(tmp_path / "in.parquet")
    assert result.select(source.schema.names).drop_columns("nan").equals(source.drop_columns("nan"))
    assert result.schema.field("number").type == pa.int32()
    assert result.schema.metadata[b"owner"] == b"desk"
    assert [result.schema.field(name).type for name in ADDED] == [pa.string(), pa.float64(), pa.bool_(), *[pa.string()] * 3]
    assert result.column("label")[4].as_py() is None
    assert result.column("error")[4].as_py() == "the text is missing"
    assert result.column("error").null_count == 19

    predict_here(tmp_path / "in.parquet", tmp_path / "out.jsonl", predictor)
    row = rows_in(tmp_path / "out.jsonl")[1]
    assert (row["number"], row["nan"], row["price"], row["bytes"], row["nested"]) == (1, None, "1.10", "AP8=", {"a": [1, None]})
    assert dt.datetime.fromisoformat(row["when"]) == day
    predict_here(tmp_path / "in.parquet", tmp_path / "out.csv", predictor)
    row = rows_in(tmp_path / "out.csv")[0]
    uncertain = str(result.column("uncertain")[0].as_py()).lower()
    assert (row["number"], row["nested"], row["uncertain"], row["error"]) == ("", '{"a": [1, null]}', uncertain, "")


def test_a_row_that_cannot_be_classified_says_why_and_the_others_go_on(predictor: Predictor, tmp_path: Path) -> None:
    lines = [
        '{"id": 1, "text": "my parcel"}',
        '{"id": 2, "text": null}',
        '{"id": 3, "text": 7}',
        '{"id": 4, "text": " \\t"}',
        '{"id": 5, "text": "\\ud83d"}',
        '{"id": 6}',
        '{"id": 7, "text": ',
        '["text"]',
        "1" * 101,
        json.dumps({"id": 10, "text": "x" * (MOST_CHARACTERS + 1)}),
        '{"id": 11, "text": "my card"}',
        '{"id": 12, "text": "my card", "id": 13}',
        '{"id": 13, "text": "\\u200b\\u0000"}',
        '{"id": 14, "text": NaN}',
        '{"text": "my card", "deep": ' + "[" * 100_000,
        '{"text": "my card", "deep": ' + "[" * 100 + "]" * 100 + "}",
        '{"text": "my card", "\\ud83d": 1}',
        '{"id": 18, "text": "my card", "other": "\\ud83d"}',
    ]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(lines))
    predict_here(path, tmp_path / "out.jsonl", predictor)
    rows = rows_in(tmp_path / "out.jsonl")
    errors = [row["error"] for row in rows]
    assert [row["label"] is None for row in rows] == [error is not None for error in errors]
    assert errors[1:5] == [
        "the text is missing",
        "the text is of type int, not a string",
        "the text is empty",
        "the text holds half of a surrogate pair, which is no character",
    ]
    assert errors[5] == f"{path}, line 6: no field 'text'"
    assert errors[6].startswith(f"{path}, line 7: not valid JSON (Expecting value")
    assert errors[7] == f'{path}, line 8: expected an object such as {{"text": "…"}}'
    assert errors[8].startswith(f"{path}, line 9: not usable JSON (a number has more than 100 digits")
    assert errors[9] == "the text has 1,000,001 characters, more than 1,000,000"
    assert errors[11:17] == [
        f"{path}, line 12: the key 'id' stands twice in one object; remove one",
        "the text is empty",
        "the text is missing",
        f"{path}, line 15: not usable JSON (more than 64 brackets within each other)",
        f"{path}, line 16: not usable JSON (more than 64 brackets within each other)",
        f"{path}, line 17: a key holds half of a surrogate pair, which is no character",
    ]
    assert (errors[0], errors[10], errors[17]) == (None, None, None)
    assert [row.get("id") for row in rows] == [1, 2, 3, 4, 5, 6, *[None] * 3, 10, 11, None, 13, 14, *[None] * 3, 18]
    assert rows[4]["text"] == "\ud83d"
    for kind in ("csv", "parquet"):
        predict_here(path, tmp_path / f"out.{kind}", predictor)
        assert [row["error"] or None for row in rows_in(tmp_path / f"out.{kind}")] == errors


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


@pytest.mark.parametrize("out", ["out.csv", "out.jsonl", "out.parquet"])
def test_a_multilabel_model_adds_all_labels(out: str, finished: dict[str, Any], tmp_path: Path) -> None:
    predictor = Predictor(finished["multilabel"].artifact, device="cpu")
    path = write_rows(tmp_path / "in.csv", input_rows(8))
    predict_here(path, tmp_path / out, predictor)
    rows = rows_in(tmp_path / out)
    wanted = [prediction.labels for prediction in predictor.predict(texts_of(8))]
    assert {len(labels) for labels in wanted} != {1}
    found = [tuple(name for name in row["labels"].split("|") if name) if out == "out.csv" else tuple(row["labels"]) for row in rows]
    assert found == wanted
    assert list(rows[0]) == ["id", "note", "text", "label", "labels", *ADDED[1:]]


@pytest.mark.parametrize("out", ["out.csv", "out.jsonl", "out.parquet"])
def test_a_model_with_label_sets_adds_them(
    out: str, finished: dict[str, Any], calibration: Callable[..., Any], tmp_path: Path
) -> None:
    copy = ModelArtifact.load(shutil.copytree(finished["multiclass"].artifact.path, tmp_path / "model"))
    predictor = Predictor(with_calibration(copy, calibration(set_coverage=0.95, set_above=0.3)), device="cpu")
    predict_here(write_rows(tmp_path / "in.csv", input_rows(20)), tmp_path / out, predictor)
    rows = rows_in(tmp_path / out)
    wanted = [prediction.label_set for prediction in predictor.predict(texts_of(20))]
    assert {len(labels or ()) for labels in wanted} > {1}
    found = [tuple(row["label_set"].split("|")) if out == "out.csv" else tuple(row["label_set"]) for row in rows]
    assert found == wanted
    assert list(rows[0]) == ["id", "note", "text", "label", "label_set", *ADDED[1:]]


def test_rows_out_of_scope_are_counted(finished: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = ModelArtifact.load(shutil.copytree(finished["multiclass"].artifact.path, tmp_path / "model"))
    hidden = json.loads((copy.path / "config.json").read_text())["hidden_size"]
    scope = Scope(loss=0.02, beyond=-1.0, num_rows=99, num_references=1)  # every distance is above it
    with_scope(copy, scope, References(np.ones((1, hidden), dtype=np.float32)))
    path = write_rows(tmp_path / "in.csv", input_rows(20))
    result = predict(
        str(copy.path), str(path), out=tmp_path / "out.csv", text_columns=["text"], overwrite=False, console=people_console()
    )
    assert (result.num_uncertain, result.num_out_of_scope, result.to_dict()["out_of_scope"]) == (20, 20, 20)
    show_predicted(result, people_console())
    assert "of these out of scope │ 20 (unlike all training rows)" in " ".join(capsys.readouterr().err.split())


def test_pairs_read_two_columns_and_name_the_faulty_one(finished: dict[str, Any], tmp_path: Path) -> None:
    predictor = Predictor(finished["pairs"].artifact, device="cpu")
    rows = [{"a": "my parcel", "b": "is late"}, {"a": "my parcel", "b": " "}, {"a": "is late", "b": "my parcel"}]
    predict_here(write_rows(tmp_path / "in.csv", rows), tmp_path / "out.jsonl", predictor, text=("a", "b"))
    answers = rows_in(tmp_path / "out.jsonl")
    first, last = predictor.predict([("my parcel", "is late"), ("is late", "my parcel")])
    assert [answers[0]["score"], answers[2]["score"]] == pytest.approx([first.score, last.score], abs=1e-6)
    assert answers[1]["error"] == "the text in column 'b' is empty"


def test_added_columns_make_way_for_those_of_the_input(predictor: Predictor, tmp_path: Path) -> None:
    rows = [{"text": "my card", "label": "billing"}]
    predict_here(write_rows(tmp_path / "in.csv", rows), tmp_path / "once.csv", predictor)
    (row,) = rows_in(tmp_path / "once.csv")
    assert list(row) == ["text", "label", *(f"predicted_{name}" for name in ADDED)]
    assert (row["label"], row["predicted_label"]) == ("billing", predictor.predict(["my card"])[0].label)
    with pytest.raises(InputError, match="has a column 'predicted_label', which manta predict would add; rename it"):
        plan_of(tmp_path / "once.csv")


def test_equal_texts_of_a_chunk_are_computed_once(predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": text} for text in ["my card", "my parcel", "", "my card"] * 5]
    plan = plan_of(write_rows(tmp_path / "in.parquet", rows, row_group_size=100))
    computed: list[Any] = []
    whole = predictor.predict
    monkeypatch.setattr(predictor, "predict", lambda texts: [computed.extend(texts), whole(texts)][1])
    _, counts = Classifier(plan.source, predictor, VERSION).part(plan.chunks[0])
    assert computed == ["my card", "my parcel"]
    assert (counts.num_rows, counts.num_errors, sum(counts.labels.values())) == (20, 5, 15)


def test_files_of_a_folder_follow_each_other_by_name(predictor: Predictor, small_chunks: None, tmp_path: Path) -> None:
    folder, rows = tmp_path / "in", input_rows(30)
    folder.mkdir()
    write_rows(folder / "b.csv", rows[10:])
    write_rows(folder / "a.csv", rows[:10])
    (folder / "_SUCCESS").touch()
    predict_here(folder, tmp_path / "out.jsonl", predictor)
    assert [row["id"] for row in rows_in(tmp_path / "out.jsonl")] == [row["id"] for row in rows]
    with pytest.raises(InputError, match="lies in the folder that is read"):
        Destination(folder / "out.csv").check(str(folder), locate(str(folder))[1], overwrite=True)


def test_an_interrupted_prediction_goes_on(predictor: Predictor, small_chunks: None, tmp_path: Path) -> None:
    path, out = write_rows(tmp_path / "in.csv", input_rows()), tmp_path / "out.csv"
    partial = tmp_path / "out.csv.partial"
    assert predict_here(path, out, predictor, stop_after=3) == [0, 1, 2]
    assert not out.exists()
    # What kills can leave: a part without its line, a line cut short, a part cut short, a file of another name.
    journal = partial / "chunks.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    part = partial / "parts" / "0000000.arrow"
    part.write_bytes(part.read_bytes()[:-8])
    (partial / "parts" / "0000005.new").write_bytes(b"half")
    assert predict_here(path, out, predictor, stop_after=1) == [0]
    assert predict_here(path, out, predictor) == [2, 3, 4, 5, 6, 7]
    assert [row["id"] for row in rows_in(out)] == [str(number) for number in range(NUM_ROWS)]
    assert not partial.exists()


def test_a_folder_of_ones_own_is_not_taken_for_a_begun_prediction(predictor: Predictor, tmp_path: Path) -> None:
    mine = tmp_path / "out.csv.partial" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(InputError, match=r"out\.csv\.partial: not a folder of manta predict"):
        predict_here(write_rows(tmp_path / "in.csv", input_rows()), tmp_path / "out.csv", predictor)
    assert [path.name for path in mine.parent.iterdir()] == ["notes.txt"]


def test_a_changed_input_or_model_is_refused_until_one_starts_again(
    predictor: Predictor, small_chunks: None, tmp_path: Path
) -> None:
    path, out = write_rows(tmp_path / "in.csv", input_rows()), tmp_path / "out.csv"
    predict_here(path, out, predictor, stop_after=3)
    with pytest.raises(InputError, match=r"was begun with another model \(desk@1\); .* --overwrite starts again"):
        predict_here(path, out, predictor, model="1" * 64)
    with pytest.raises(InputError, match=r"was begun with --text text; give the same one"):
        predict_here(path, out, predictor, text=("note",))
    write_rows(path, input_rows(NUM_ROWS + 1))
    with pytest.raises(InputError, match=r"was begun with another input \(.*in\.csv has changed since\)"):
        predict_here(path, out, predictor)
    assert predict_here(path, out, predictor, start_again=True)[:3] == [0, 1, 2]
    assert len(rows_in(out)) == NUM_ROWS + 1


def test_one_process_at_a_time_writes_an_output(predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = write_rows(tmp_path / "in.csv", input_rows(3)), tmp_path / "out.csv"
    inner: list[str] = []

    def meanwhile(texts: Any) -> Any:
        with pytest.raises(InputError, match="another manta predict is writing there") as caught:
            predict_here(path, out, predictor)
        inner.append(str(caught.value))
        return Predictor.predict(predictor, texts)

    monkeypatch.setattr(predictor, "predict", meanwhile)
    predict_here(path, out, predictor)
    assert len(inner) == 1
    assert len(rows_in(out)) == 3


def test_an_attempt_that_was_killed_before_it_tidied_up_is_finished(
    predictor: Predictor,
    finished: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, out = write_rows(tmp_path / "in.csv", input_rows(3)), tmp_path / "out.csv"
    model = str(finished["multiclass"].artifact.path)
    destination = Destination(out)
    with monkeypatch.context() as patch:
        patch.setattr("manta_jobs.batch_prediction.partial.shutil.rmtree", lambda path, **_: None)
        predict_here(path, out, predictor)
    assert destination.partial.exists()
    assert destination.is_in_place
    destination.check(str(path), locate(str(path))[1], overwrite=False)
    write_rows(tmp_path / "other.csv", input_rows(2)).replace(out)
    assert not destination.is_in_place
    with pytest.raises(InputError, match=r"out\.csv: is there already"):
        predict(model, str(path), out=out, text_columns=["text"], overwrite=False, console=people_console())


def broken(folder: Path, name: str) -> Path:
    """An input with one fault."""
    path = folder / name.partition(":")[0]
    contents = {
        "cut.parquet": b"PAR1 and no more",
        "bytes.csv": b"text\n\xfc\x81\n",
        "bytes.jsonl": b'{"text": "ok"}\n{"text": "\xfc\x81"}\n',
        "rows.jsonl": b"[1]\n{oops\n",
        "cut.json": b'[{"text": "ok"}, ',
        "cut.csv.gz": gzip.compress(random.randbytes(1000))[:500],
        "quote.csv": b'text\nfine\n"never closed\nfine\n',
        "column.csv": b"texts\nfine\n",
        "twice.csv": b"text,text\na,b\n",
        "header.csv": b"text\n",
        "nothing.csv": b"",
        "nothing.jsonl": b"\n",
        "book.xlsx": b"",
    }
    if name in contents:
        path.write_bytes(contents[name])
    elif name == "number.parquet":
        pq.write_table(pa.table({"text": [1, 2]}), path)
    elif name.startswith("folder"):
        path.mkdir()
        (path / "a.csv").write_text("text\nfine\n")
        other = {"folder:kinds": "b.jsonl", "folder:columns": "b.csv", "folder:nested": "b/c.csv"}[name]
        (path / other).parent.mkdir(exist_ok=True)
        (path / other).write_text("words,text\nfine,x\n")
    return path


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cut.parquet", "cut.parquet: not a readable Parquet file"),
        ("bytes.csv", "bytes.csv, line 2: byte 0xfc is not UTF-8; save the file as UTF-8."),
        ("bytes.jsonl", "bytes.jsonl, line 2: byte 0xfc is not UTF-8; save the file as UTF-8."),
        (
            "rows.jsonl",
            "an array of objects belongs into a file that ends in .json; no row of the file can be read.",
        ),
        ("cut.json", "cut.json: the array is not closed; the file is cut, or a quote or bracket is missing."),
        ("cut.csv.gz", "cut.csv.gz: cannot be read (not a complete gzip file"),
        ("quote.csv", "quote.csv, line 3: not valid CSV (a quote is opened and never closed); check the quotes."),
        ("column.csv", "column.csv: no column 'text' (--text); did you mean texts?"),
        ("twice.csv", "twice.csv, line 1: two columns are named 'text'; rename one."),
        ("header.csv", "header.csv: no rows"),
        ("nothing.csv", "nothing.csv: empty; its first line must name the columns."),
        ("nothing.jsonl", "nothing.jsonl: no rows"),
        ("book.xlsx", "book.xlsx: unknown kind of file; expected one that ends in .csv"),
        ("number.parquet", "number.parquet: the column 'text' is of type int64, not text; choose another --text."),
        ("folder:kinds", "folder: holds files of several kinds (csv, jsonl)"),
        ("folder:columns", "b.csv: its columns (words, text) are not those of"),
        ("folder:nested", "folder: holds the folder b"),
        ("missing.csv", "missing.csv: no such file or folder; check INPUT."),
        ("s4://bucket/in.csv", "s4://bucket/in.csv: not a path or URL that can be read"),
    ],
)
def test_a_broken_input_is_one_sentence_and_leaves_nothing(
    name: str,
    sentence: str,
    finished: dict[str, Any],
    tmp_path: Path,
) -> None:
    source = name if "//" in name else str(broken(tmp_path, name))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError) as caught:
        predict(
            str(finished["binary"].artifact.path),
            source,
            out=tmp_path / "out.csv",
            text_columns=["text"],
            overwrite=False,
            console=people_console(),
        )
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("out", "overwrite", "sentence"),
    [
        ("old.csv", False, "old.csv: is there already; choose another --out, or give --overwrite to replace it."),
        ("out.xlsx", False, "out.xlsx: must end in .csv, .jsonl, .parquet"),
        ("no/such/out.csv", False, "no/such: no such folder; make it or change --out."),
        ("in.csv", True, "in.csv: is the input; change --out."),
        ("documents", True, "documents: holds other files than those of manta predict; change --out."),
        ("dir.csv", True, "dir.csv: is a folder, but the output is a file; change --out."),
        ("file", True, "file: is a file, but the output is a folder; change --out."),
    ],
)
def test_an_output_that_would_cost_something_is_refused(out: str, overwrite: bool, sentence: str, tmp_path: Path) -> None:
    for name in ("old.csv", "file"):
        (tmp_path / name).touch()
    for name in ("documents", "dir.csv"):
        (tmp_path / name).mkdir()
    (tmp_path / "documents" / "letter.txt").touch()
    source = str(write_rows(tmp_path / "in.csv", input_rows(2)))
    with pytest.raises(InputError) as caught:
        Destination(tmp_path / out).check(source, locate(source)[1], overwrite=overwrite)
    assert sentence in str(caught.value)


def test_an_older_output_is_replaced_when_asked(predictor: Predictor, small_chunks: None, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.csv", input_rows(20))
    for name in ("out.csv", "folder"):
        predict_here(source, tmp_path / name, predictor)
    write_rows(source, input_rows(5))
    for name in ("out.csv", "folder"):
        Destination(tmp_path / name).check(str(source), locate(str(source))[1], overwrite=True)
        predict_here(source, tmp_path / name, predictor, start_again=True)
        assert len(rows_in(tmp_path / name)) == 5


def test_a_file_that_is_cut_short_meanwhile_is_named(predictor: Predictor, small_chunks: None, tmp_path: Path) -> None:
    for name in ("in.csv", "in.jsonl", "in.parquet"):
        path = write_rows(tmp_path / name, input_rows())
        plan = plan_of(path)
        path.write_bytes(path.read_bytes()[:300])
        with pytest.raises(RunError, match=rf"{name}: cannot be read (from line|in row group)"):
            Classifier(plan.source, predictor, VERSION).part(plan.chunks[-1])


class RangeServer(BaseHTTPRequestHandler):
    """Sends a file's bytes; parts of it only if it is told to."""

    content = b""
    sends_parts = True

    def do_HEAD(self) -> None:
        self._headers(len(self.content))

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        body = self.content
        if asked and self.sends_parts:
            first, last = asked.removeprefix("bytes=").split("-")
            body = body[int(first) : int(last) + 1 if last else None]
        self._headers(len(body))
        self.wfile.write(body)

    def _headers(self, length: int) -> None:
        self.send_response(206 if self.headers.get("Range") and self.sends_parts else 200)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", '"1"')
        if self.sends_parts:
            self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def web() -> Iterator[Callable[..., str]]:
    """Serve bytes under a name; with `sends_parts=False` as simple servers do."""
    server = HTTPServer(("127.0.0.1", 0), RangeServer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def serve(content: bytes, name: str, *, sends_parts: bool = True) -> str:
        RangeServer.content, RangeServer.sends_parts = content, sends_parts
        return f"http://127.0.0.1:{server.server_address[1]}/{name}"

    yield serve
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl", "in.parquet"])
def test_a_url_is_read_in_parts(
    name: str, web: Callable[..., str], predictor: Predictor, small_chunks: None, tmp_path: Path
) -> None:
    content = write_rows(tmp_path / name, input_rows()).read_bytes()
    url = web(content, name)
    assert locate(url)[1][0].signs["ETag"] == '"1"'
    predict_here(url, tmp_path / "out.jsonl", predictor)
    assert [row["id"] for row in rows_in(tmp_path / "out.jsonl")] == [str(number) for number in range(NUM_ROWS)]
    with pytest.raises(InputError, match=r"cannot be read in parts \(.*\); download it and give the file"):
        locate(web(content, name, sends_parts=False))


NODE = {"CPU": 8.0, "memory": 64e9}


@pytest.mark.parametrize(
    ("nodes", "num_chunks", "weights_bytes", "pool"),
    [
        ([NODE], 100, 90e6, Pool(8, 1, 0)),
        ([NODE], 1, 90e6, Pool(1, 8, 0)),
        ([NODE], 3, 90e6, Pool(3, 2, 0)),
        ([NODE], 100, 2e9, Pool(4, 2, 0)),  # 32 GB for workers of 5 GB each: no more than six
        ([NODE], 100, 200e9, Pool(1, 8, 0)),
        ([NODE, {"CPU": 4.0}, {}], 100, 90e6, Pool(12, 1, 0)),
        ([NODE, NODE | {"GPU": 2.0}], 100, 90e6, Pool(2, 1, 1)),
        ([NODE | {"GPU": 4.0}], 1, 90e6, Pool(1, 1, 1)),
    ],
)
def test_workers_are_one_a_gpu_or_one_a_core_if_they_fit(
    nodes: list[dict[str, float]], num_chunks: int, weights_bytes: float, pool: Pool
) -> None:
    assert fit_pool(nodes, num_chunks=num_chunks, weights_bytes=int(weights_bytes)) == pool


def test_csv_goes_to_json_lines_over_ray(
    ray_cluster: None, predictor: Predictor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = input_rows(40)
    rows[7]["text"] = " "
    source, out = write_rows(tmp_path / "in.csv", rows), tmp_path / "out.jsonl"
    model = predictor.artifact
    result = predict(str(model.path), str(source), out=out, text_columns=["text"], overwrite=False, console=people_console())
    answers = rows_in(out)
    assert [row["id"] for row in answers] == [row["id"] for row in rows]
    assert [row["error"] for row in answers if row["error"]] == ["the text is empty"]
    good = [row for row in answers if row["error"] is None]
    wanted = predictor.predict([row["text"] for row in good])
    assert [row["score"] for row in good] == pytest.approx([prediction.score for prediction in wanted], abs=1e-6)
    assert (result.num_rows, result.num_errors, sum(result.labels.values())) == (40, 1, 39)
    assert result.model_version.startswith("desk@sha256:")
    said = capfd.readouterr()
    assert said.out == ""
    assert "core_worker" not in said.err


def test_chunks_of_parquet_are_shared_among_workers(
    ray_cluster: None, predictor: Predictor, small_chunks: None, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.parquet", input_rows(14))  # one row group, two chunks
    out = tmp_path / "out.parquet"
    predict_here(source, tmp_path / "alone.parquet", predictor)
    result = predict(
        str(predictor.artifact.path), str(source), out=out, text_columns=["text"], overwrite=False, console=people_console()
    )
    assert result.num_rows == 14
    there, here = pq.read_table(out), pq.read_table(tmp_path / "alone.parquet")
    assert there.schema.equals(here.schema)
    assert there.drop_columns(["model_version", "score"]).equals(here.drop_columns(["model_version", "score"]))
    assert there.column("score").to_pylist() == pytest.approx(here.column("score").to_pylist(), abs=1e-6)


def test_few_rows_need_no_cluster(predictor: Predictor, tmp_path: Path) -> None:
    source, out = write_rows(tmp_path / "in.csv", input_rows(20)), tmp_path / "out.csv"
    arguments = (str(predictor.artifact.path), str(source), "--out", str(out))
    ran_without_cluster("-m", "manta.cli", "predict", *arguments, folder=tmp_path)
    wanted = predictor.predict([row["text"] for row in input_rows(20)])
    answers = rows_in(out)
    assert [row["label"] for row in answers] == [prediction.label for prediction in wanted]
    assert [float(row["score"]) for row in answers] == pytest.approx([prediction.score for prediction in wanted], abs=1e-6)
