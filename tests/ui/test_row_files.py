"""Files of rows: what is read from each kind, what is written back, and one sentence for each that cannot be used."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manta_ui import row_files
from manta_ui.row_files import FileProblem, read_rows, write_rows

if TYPE_CHECKING:
    from pathlib import Path

ROWS: list[dict[str, Any]] = [
    {"id": "1", "Message": 'say "hello", twice'},
    {"id": "2", "Message": "first\nsecond"},
    {"id": "3", "Message": "<b>línea</b> \u2028 😀"},
]
ADDED = [{"label": label, "score": 0.5} for label in ("a", "b", "")]


def written(folder: Path, kind: str) -> Path:
    path = folder / f"rows{kind}"
    if kind == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind in (".csv", ".tsv"):
        separator = row_files.DELIMITERS[kind]
        lines = [separator.join(f'"{value}"' for value in (row["id"], row["Message"].replace('"', '""'))) for row in ROWS]
        path.write_text("\ufeff" + "\r\n".join([f"id{separator}Message", *lines, ""]), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", row_files.KINDS)
def test_every_kind_is_read_and_written_back_with_the_answers(tmp_path: Path, kind: str) -> None:
    file = read_rows(written(tmp_path, kind))
    assert file.columns == ("id", "Message")
    assert file.texts("Message") == [(row["Message"],) for row in ROWS]
    assert file.texts("id", "Message")[0] == ("1", ROWS[0]["Message"])
    assert file.likely_columns(2) == ["Message", "id"]
    write_rows(file, tmp_path / f"out{kind}", added=ADDED)
    again = read_rows(tmp_path / f"out{kind}")
    assert again.columns == ("id", "Message", "label", "score")
    assert again.texts("Message", "label", "score") == [
        (row["Message"], extra["label"], "0.5") for row, extra in zip(ROWS, ADDED, strict=True)
    ]


def test_a_column_keeps_its_name_where_an_answers_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\nhello,mine\n")
    write_rows(read_rows(tmp_path / "rows.csv"), tmp_path / "out.csv", added=ADDED[:1])
    assert (tmp_path / "out.csv").read_text() == "text,label,manta_label,score\nhello,mine,a,0.5\n"


def test_a_row_without_the_field_has_no_text(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n\n{"text": null}\n{"other": 3}\n')
    assert read_rows(tmp_path / "rows.jsonl").texts("text") == [("one",), ("",), ("",)]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("rows.xlsx", b"x", "rows.xlsx is none of .csv, .tsv, .jsonl, .ndjson, .parquet; save it as one of them."),
        ("rows.csv", b"", "rows.csv has no rows."),
        ("rows.csv", b"text\n", "rows.csv has no rows."),
        ("rows.csv", b"text,text\na,b\n", "rows.csv, line 1: every column needs a name of its own"),
        ("rows.csv", b"a,b\n1,2\n1\n", "rows.csv, line 3: the first line names 2 columns, this one has 1."),
        ("rows.csv", b'text\n"open\n', "rows.csv, line 2: not valid CSV"),
        ("rows.csv", b"text\nok\n\xff\xfe\n", "rows.csv, line 3: not UTF-8; save the file as UTF-8."),
        ("rows.jsonl", b'{"text": "x"}\n{oops\n', "rows.jsonl, line 2: not valid JSON"),
        ("rows.jsonl", b"[1]\n", "rows.jsonl, line 1: not an object with named fields."),
        ("rows.parquet", b"PAR1 not really", "rows.parquet is not a Parquet file that can be read."),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileProblem) as caught:
        read_rows(tmp_path / name)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_too_many_rows_are_sent_to_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_files, "MOST_ROWS", 2)
    with pytest.raises(FileProblem, match=r"has 3 rows; up to 2 can be classified here, more by manta predict\."):
        read_rows(written(tmp_path, ".csv"))
