"""Files of rows: what is read from each kind, what is written back, and one sentence for each that cannot be used."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manta_ui.classify import row_files
from manta_ui.classify.row_files import FileProblem, read_rows, write_rows

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
        separator = "," if kind == ".csv" else "\t"
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
        ("rows.xlsx", b"x", "rows.xlsx is none of .csv, .tsv, .jsonl, .parquet, .ndjson, .json (or .gz after text)"),
        ("rows.csv", b"", "rows.csv has no rows."),
        ("rows.csv", b"text\n", "rows.csv has no rows."),
        ("rows.csv", b"text,text\na,b\n", "rows.csv, line 1: two columns are named 'text'; rename one."),
        ("rows.csv", b"a,b\n1\n2\n", "rows.csv, line 2: 1 field where the header has 2; check the delimiters."),
        (
            "rows.csv",
            b"label,text\nx,one, two\n",
            "rows.csv, line 2: 3 fields where the header has 2; quote a field that holds a comma",
        ),
        ("rows.csv", b'text\n"open\n', "rows.csv, line 2: not valid CSV"),
        ("rows.csv", b"text\nok\n\xff\x81\n", "rows.csv, line 3: byte 0xff is not UTF-8; save the file as UTF-8."),
        ("rows.csv.gz", b"\x1f\x8bno", "rows.csv.gz cannot be read (not a complete gzip file"),
        ("rows.jsonl", b"{oops\n", "rows.jsonl, line 1: not valid JSON"),
        ("rows.jsonl", b"[1]\n", "rows.jsonl, line 1: expected an object"),
        ("rows.jsonl", b'{"text": ' + b"[" * 100_000, "rows.jsonl, line 1: not usable JSON (more than 64 brackets"),
        ("rows.json", b'[{"text": "x"}', "rows.json: the array is not closed"),
        ("rows.jsonl", b"{}\n", "rows.jsonl has no columns."),
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
    for kind in row_files.KINDS:
        found = "3" if kind == ".parquet" else "more than 2"
        with pytest.raises(FileProblem, match=rf"has {found} rows; up to 2 can be classified here, more by manta predict\."):
            read_rows(written(tmp_path, kind))


def peak_mb(path: Path) -> float:
    """Megabytes that a process takes at most while it refuses a file, beyond those of its imports."""
    program = (
        "import resource, sys, pathlib, pyarrow.parquet\n"
        "from manta_ui.classify.row_files import FileProblem, read_rows\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: read_rows(pathlib.Path(sys.argv[1]))\n"
        "except FileProblem as problem: print(problem, file=sys.stderr)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert "use manta predict" in done.stderr or "more by manta predict" in done.stderr
    return float(done.stdout) / 1024


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv", "texts.parquet", "line.csv.gz"])
def test_a_small_file_of_much_is_refused_before_it_takes_the_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "rows.parquet":
        pq.write_table(pa.table({"text": pa.array(["a"] * 3_000_000).dictionary_encode()}), path)
    elif name == "texts.parquet":
        texts = pa.DictionaryArray.from_arrays(pa.array([0] * 40_000, pa.int32()), ["x" * 500_000])
        pq.write_table(pa.table({"text": texts}), path, store_schema=False)
    elif name == "rows.csv":
        path.write_bytes(b"text\n" + b"a\n" * 5_000_000)
    else:
        path.write_bytes(gzip.compress(b"text\n" + b"a" * 1_000_000_000, 1))
    assert path.stat().st_size < 11_000_000
    assert peak_mb(path) < {"texts.parquet": 700, "line.csv.gz": 1100}.get(name, 60)


def test_equal_texts_of_a_dictionary_take_memory_once(tmp_path: Path) -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array([0, 1, None] * 10_000, pa.int32()), ["x" * 500_000, "y"])
    pq.write_table(pa.table({"text": texts}), tmp_path / "rows.parquet")
    found = read_rows(tmp_path / "rows.parquet").texts("text")
    assert (found[1], found[2], len(found[0][0])) == (("y",), ("",), 500_000)
    assert len({id(text) for (text,) in found}) < 300  # each batch of rows has its own


def test_types_of_parquet_come_back_as_they_were(tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": ["a", None],
            "map": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int8())),
            "big": pa.array([2**64 - 1, 0], pa.uint64()),
            "small": pa.array([1, -1], pa.int8()),
            "half": pa.array([0.1, 0.2], pa.float32()),
            "when": pa.array([1, 2], pa.timestamp("ns")),
            "at": pa.array([1, 2], pa.time64("ns")),
            "raw": pa.array([b"\xff", b""]),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    file = read_rows(tmp_path / "in.parquet")
    assert file.texts("text") == [("a",), ("",)]
    assert file.texts("big", "small") == [(str(2**64 - 1), "1"), ("0", "-1")]
    for column in ("map", "when", "at", "raw"):
        assert len(file.texts(column)) == 2
    write_rows(file, tmp_path / "out.parquet", added=[{"label": "x", "problem": None}] * 2)
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.select(table.column_names).equals(table)
    assert out.schema.field("problem").type == pa.string()


def test_a_row_that_cannot_be_read_says_why_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    deep = '{"text": ' + "[" * 100_000
    path.write_text(f'{{"text": "one"}}\n{deep}\n{{"text": "a", "text": "b"}}\n{{"text": "\\ud83d"}}\n{"1" * 101}\n')
    file = read_rows(path)
    assert file.num_rows == 5
    assert file.faults == {
        1: "line 2: not usable JSON (more than 64 brackets within each other)",
        2: "line 3: the key 'text' stands twice in one object; remove one",
        4: "line 5: not usable JSON (a number has more than 100 digits; if it is a text, quote it)",
    }
    assert file.texts("text") == [("one",), ("",), ("",), ("\ud83d",), ("",)]
    write_rows(file, tmp_path / "out.jsonl", added=[{"label": "ü"}] * 5)
    assert [json.loads(line).get("text") for line in (tmp_path / "out.jsonl").open()] == ["one", None, None, "\ud83d", None]

    (tmp_path / "rows.csv").write_text("label,text\nx,fine\nx,one, two\nx\n")
    file = read_rows(tmp_path / "rows.csv")
    assert file.faults[1].startswith("line 3: 3 fields where the header has 2; quote a field that holds a comma")
    assert file.faults[2] == "line 4: 1 field where the header has 2; check the delimiters"
    write_rows(file, tmp_path / "out.csv", added=[{"answer": "a"}] * 3)
    assert (tmp_path / "out.csv").read_text() == "label,text,answer\nx,fine,a\nx,one,a\nx,,a\n"


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("rows.csv", b"text;label\none;a\n", "rows.csv is read with semicolons between the fields."),
        ("rows.csv", b"sep=;\ntext;label\none;a\n", "rows.csv is read with semicolons between the fields."),
        ("rows.csv", "text\tlabel\none\ta\n".encode("utf-16"), "rows.csv is read as UTF-16 and with tabs between the fields."),
        ("rows.csv", b"text,label,\xfc\none,a,\n", "rows.csv is read as Windows-1252."),
        ("rows.csv.gz", gzip.compress(b"text,label\none,a\n", mtime=0), ""),
        ("rows.json", b'[{"text": "one", "label": "a"}]', ""),
        ("rows.tsv", b'"text"\t"label"\n"one"\t"a"\n', ""),
    ],
)
def test_files_that_people_have_are_read(tmp_path: Path, name: str, content: bytes, note: str) -> None:
    (tmp_path / name).write_bytes(content)
    file = read_rows(tmp_path / name)
    assert (file.texts("text", "label"), file.note, file.stem) == ([("one", "a")], note, "rows")
    write_rows(file, tmp_path / f"out{file.kind}", added=ADDED[:1])
    assert read_rows(tmp_path / f"out{file.kind}").texts("text") == [("one",)]


def test_a_text_with_semicolons_is_no_table_of_them(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("what; people say\nhello\nyes; indeed\n")
    file = read_rows(tmp_path / "rows.csv")
    assert (file.columns, file.faults, file.note) == (("what; people say",), {}, "")


def test_fields_inside_objects_can_be_chosen(tmp_path: Path) -> None:
    rows = [{"id": 1, "data": {"body": "one", "n": 2}}]
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for name in ("rows.jsonl", "rows.parquet"):
        file = read_rows(tmp_path / name)
        assert file.text_columns == ["id", "data", "data.body", "data.n"]
        assert file.likely_columns(1) == ["data.body"]
        assert file.texts("data.body") == [("one",)]
