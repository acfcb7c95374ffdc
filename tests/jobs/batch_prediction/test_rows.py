"""`manta predict`: each row once, in order, with all its columns and the model's answer."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manta.console import people_console
from manta.errors import InputError
from manta.inference.artifact import ModelArtifact
from manta.inference.artifact_writing import with_calibration, with_scope
from manta.inference.predictor import Predictor
from manta.inference.scope import References, Scope
from manta_jobs.batch_prediction import predict
from manta_jobs.batch_prediction.classify import MOST_CHARACTERS, Classifier
from manta_jobs.batch_prediction.destination import Destination
from manta_jobs.batch_prediction.locate import locate
from manta_jobs.batch_prediction.view import show_predicted

from .predictions import ADDED, NUM_ROWS, VERSION, input_rows, plan_of, predict_here, rows_in, texts_of, write_rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


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
