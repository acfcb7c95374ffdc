from __future__ import annotations

import gzip
import io
import json
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from manta.config import DataConfig
from manta.data.read import read_rows
from manta.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from manta.data.read import Rows

ROWS = [("my parcel is late", "delivery"), ("charged twice, again", "billing"), ('he said "no"', "delivery")]
TEXTS = [text for text, _ in ROWS]
LABELS = [label for _, label in ROWS]

CSV = 'text,label\nmy parcel is late,delivery\n"charged twice, again",billing\n"he said ""no""",delivery\n'
TSV = 'text\tlabel\nmy parcel is late\tdelivery\ncharged twice, again\tbilling\nhe said "no"\tdelivery\n'
JSONL = "".join(json.dumps({"id": 1, "text": text, "label": label}) + "\n" for text, label in ROWS)


def parquet(**columns: list[Any]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Rows]:
    """Read a file of the given content."""

    def rows(name: str, content: str | bytes, **settings: Any) -> Rows:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_rows(str(path), "train", DataConfig(train=str(path), **settings))

    return rows


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", CSV),
        ("rows.csv", CSV.replace("\n", "\r\n")),
        ("rows.csv", b"\xef\xbb\xbf" + CSV.encode()),
        ("rows.CSV", CSV),
        ("rows.tsv", TSV),
        ("rows.jsonl", JSONL),
        ("rows.jsonl", JSONL.replace("\n", "\n\n")),
        ("rows.ndjson", JSONL),
        ("rows.parquet", parquet(label=LABELS, id=[1, 2, 3], text=TEXTS)),
    ],
    ids=["csv", "csv-crlf", "csv-bom", "csv-capital", "tsv", "jsonl", "jsonl-blank-lines", "ndjson", "parquet"],
)
def test_every_format_gives_the_same_rows(read: Callable[..., Rows], name: str, content: str | bytes) -> None:
    rows = read(name, content)
    assert (rows.texts, rows.labels) == (TEXTS, LABELS)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ('"all of it"', "all of it"),
        ('"he said ""no"""', 'he said "no"'),
        ('"two\tfields\nand lines"', "two\tfields\nand lines"),
        ('"quoted" first', "quoted first"),
        ('two ""', 'two ""'),
        ("it's", "it's"),
    ],
)
def test_quotes_in_tsv_are_read_as_pandas_does(read: Callable[..., Rows], field: str, text: str) -> None:
    content = f'text\t"label"\n{field}\t"a"\nnext\tb\n'
    rows = read("rows.tsv", content)
    assert (rows.texts, rows.labels) == ([text, "next"], ["a", "b"])
    frame = pd.read_csv(io.StringIO(content), sep="\t")
    assert (list(frame["text"]), list(frame["label"])) == (rows.texts, rows.labels)


def test_the_columns_may_have_other_names_and_places(read: Callable[..., Rows]) -> None:
    rows = read("rows.csv", "intent,id,message\nbilling,1,a card\n", text="message", label="intent")
    assert (rows.texts, rows.labels) == (["a card"], ["billing"])


@pytest.mark.parametrize(("name", "mark"), [("rows.csv", ","), ("rows.tsv", "\t")])
def test_without_a_header_columns_go_by_position(read: Callable[..., Rows], name: str, mark: str) -> None:
    rows = read(name, f"billing{mark}7{mark}a card\n", header=False, text=2, label=0)
    assert (rows.texts, rows.labels, rows.where(0)[-6:]) == (["a card"], ["billing"], "line 1")


def test_with_a_header_columns_may_still_go_by_position(read: Callable[..., Rows]) -> None:
    assert read("rows.csv", CSV, text=0, label=1).texts == TEXTS


def test_positions_are_lines_of_the_file_also_after_texts_with_line_breaks(read: Callable[..., Rows]) -> None:
    rows = read("rows.csv", 'text,label\n"one\ntwo",a\n\nthree,b\n')
    assert rows.texts == ["one\ntwo", "three"]
    assert list(rows.positions) == [2, 5]
    assert rows.where(1).endswith("rows.csv, line 5")


def test_positions_of_json_lines_count_blank_ones(read: Callable[..., Rows]) -> None:
    rows = read("rows.jsonl", '{"text": "a", "label": 1}\n\n{"text": "b", "label": 2}\n')
    assert list(rows.positions) == [1, 3]
    assert rows.labels == [1, 2]


def test_positions_of_parquet_are_rows(read: Callable[..., Rows]) -> None:
    assert read("rows.parquet", parquet(text=["a", "b"], label=[1, 2])).where(1).endswith("rows.parquet, row 2")


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85"], ids=["line-separator", "paragraph-separator", "next-line"])
def test_only_line_feeds_end_json_lines(read: Callable[..., Rows], mark: str) -> None:
    text = f"one{mark}two"
    content = json.dumps({"text": text, "label": "a"}, ensure_ascii=False) + "\n"
    assert read("rows.jsonl", content).texts == [text]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "txet,label\na,b\n", "a.csv: no column 'text' (data.text); did you mean txet?"),
        ("a.csv", "text,intent\na,b\n", "a.csv: no column 'label' (data.label); known ones are text, intent"),
        ("a.csv", "", "a.csv: no rows; its first line must name the columns."),
        ("a.csv", "text^label\na^b\n", "text^label; if another sign is between the fields, set data.delimiter"),
        ("a.tsv", "text,label\na,b\n", "a.tsv: no column 'text' (data.text)"),
        ("a.jsonl", JSONL + '{"text": "b", "labels": 1}\n', "a.jsonl, line 4: no field 'label' (data.label); did you mean labels?"),
        ("a.parquet", parquet(texts=["a"], label=[1]), "a.parquet: no column 'text' (data.text); did you mean texts?"),
        ("a.csv", "text,label\na,b\nonly\n", "a.csv, line 3: 1 field where at least 2 are needed"),
        ("a.tsv", "text\tlabel\na\tb\nonly\n", "a.tsv, line 3: 1 field where at least 2 are needed"),
        ("a.csv", 'text,label\na,b\n"c" d,e\n', "a.csv, line 3: not valid CSV"),
        ("a.csv", 'text,label\na,b\n"open,b\nc,d\ne,f\n', "a.csv, line 3: not valid CSV"),
        ("a.csv", b"text,label\na,b\nc\x81,d\n", "a.csv, line 3: byte 0x81 is not UTF-8; save the file as UTF-8 or"),
        ("a.csv", b"\xef\xbb\xbftext,label\n\xffa\x81,b\n", "a.csv, line 2: byte 0xff is not UTF-8"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": "\x9d", "label": 1}\n', "a.jsonl, line 2: byte 0x9d is not UTF-8"),
        ("a.csv", "text,label\nü,b\n".encode() + b"\xfc,b\n" * 9, "a.csv, line 3: byte 0xfc is not UTF-8, but other bytes"),
        ("a.csv", "text,label\na,b\n".encode("utf-16-le"), "a.csv: looks like UTF-16 (utf-16-le) without its"),
        ("a.csv", "text,label\na,b\n".encode("utf-16")[:-1], "a.csv, line 2: byte 0x0a is not UTF-16; save"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": \n', "a.jsonl, line 2: not valid JSON"),
        ("a.jsonl", '{"text": "a", "label": 1}\n[1]\n', "a.jsonl, line 2: expected an object"),
        ("a.parquet", b"PAR1 is not enough", "a.parquet: not a readable Parquet file"),
        ("a.parquet", parquet(text=["a"] * 50, label=[1] * 50)[:200], "a.parquet: not a readable Parquet file"),
        ("a.parquet", b"", "a.parquet: not a readable Parquet file"),
    ],
    ids=[
        "csv-column", "csv-column-unlike", "csv-empty", "csv-delimiter", "tsv-with-commas",
        "jsonl-field", "parquet-column", "csv-short", "tsv-short",
        "csv-after-quote", "csv-open-quote", "csv-bytes", "csv-bytes-after-bom", "jsonl-bytes", "mixed", "utf-16-unmarked",
        "utf-16-cut", "jsonl-broken", "jsonl-list", "parquet-not", "parquet-cut", "parquet-empty",
    ],
)  # fmt: skip
def test_a_faulty_file_is_refused_with_the_place(read: Callable[..., Rows], name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(name, content)
    assert message in str(caught.value)


@pytest.mark.parametrize("settings", [{"text": 0, "label": 2}, {"text": -1, "label": 0}], ids=["beyond", "negative"])
@pytest.mark.parametrize("header", [True, False])
def test_positions_outside_the_columns_are_refused(read: Callable[..., Rows], settings: dict[str, int], header: bool) -> None:
    with pytest.raises(InputError, match=r"a\.csv: data\.(text|label) is column -?\d, but the columns run from 0 to 1"):
        read("a.csv", "text,label\na,b\n", header=header, **settings)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25])
def test_a_parquet_file_with_flipped_bytes_is_refused(read: Callable[..., Rows], share: float) -> None:
    content = bytearray(parquet(text=[f"row {number}" for number in range(100)], label=["a", "b"] * 50))
    start = int(len(content) * share)
    content[start : start + 8] = bytes(byte ^ 0xFF for byte in content[start : start + 8])
    with pytest.raises(InputError, match=r"a\.parquet: not a readable Parquet file"):
        read("a.parquet", bytes(content))


def test_a_parquet_text_that_is_not_utf8_is_refused(read: Callable[..., Rows]) -> None:
    sink = io.BytesIO()
    texts = pa.array([b"fine", b"Gr\xfc\xdfe"]).view(pa.string())
    pq.write_table(pa.table({"text": texts, "label": ["a", "b"]}), sink)
    with pytest.raises(InputError, match=r"a\.parquet"):
        read("a.parquet", sink.getvalue())


PAIR_ROWS = {"premise": ["a man, asleep", "two dogs"], "hypothesis": ["he sleeps", "no dogs"], "label": ["yes", "no"]}
PAIRS = [("a man, asleep", "he sleeps"), ("two dogs", "no dogs")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", 'premise,hypothesis,label\n"a man, asleep",he sleeps,yes\ntwo dogs,no dogs,no\n'),
        ("rows.tsv", "label\tpremise\thypothesis\nyes\ta man, asleep\the sleeps\nno\ttwo dogs\tno dogs\n"),
        ("rows.jsonl", "".join(json.dumps({key: column[i] for key, column in PAIR_ROWS.items()}) + "\n" for i in range(2))),
        ("rows.parquet", parquet(**PAIR_ROWS)),
    ],
    ids=["csv", "tsv", "jsonl", "parquet"],
)
def test_every_format_gives_text_pairs(read: Callable[..., Rows], name: str, content: str | bytes) -> None:
    rows = read(name, content, text=("premise", "hypothesis"))
    assert (rows.texts, rows.labels, rows.pair_columns) == (PAIRS, ["yes", "no"], ("premise", "hypothesis"))
    swapped = read(name, content, text=("hypothesis", "premise"))
    assert swapped.texts == [pair[::-1] for pair in PAIRS]


def test_text_pairs_go_by_position_without_a_header(read: Callable[..., Rows]) -> None:
    rows = read("rows.csv", "x,1,y\n", header=False, text=(2, 0), label=1)
    assert (rows.texts, rows.labels) == ([("y", "x")], ["1"])


def test_a_missing_second_column_is_refused_by_name(read: Callable[..., Rows]) -> None:
    with pytest.raises(InputError, match=r"a\.csv: no column 'hypotesis' \(data\.text\); did you mean hypothesis"):
        read("a.csv", "premise,hypothesis,label\na,b,c\n", text=("premise", "hypotesis"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", '{"text": "a", "label": ["x", "y"]}\n{"text": "b", "label": []}\n'),
        ("rows.parquet", parquet(text=["a", "b"], label=[["x", "y"], []])),
    ],
    ids=["jsonl", "parquet"],
)
def test_labels_may_come_as_lists(read: Callable[..., Rows], name: str, content: str | bytes) -> None:
    assert read(name, content).labels == [["x", "y"], []]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "label,text\nx,Hi, my invoice\n", 'line 2: 3 fields where the header has 2; quote a field that holds a comma'),
        ("a.csv", "text,label\nfine,x\nHello team, my invoice,x\n", "line 3: 3 fields where the header has 2; quote"),
        ("a.csv", "text;label\nfine; I think;x\n", "line 2: 3 fields where the header has 2; quote a field that holds a semicolon"),
        ("a.tsv", "label\ttext\nx\tone\ttwo\n", "line 2: 3 fields where the header has 2; quote a field that holds a tab"),
        ("a.csv", 'text,label\n"two\nlines",x\na,b,c\n', "line 4: 3 fields"),
        ("a.csv", "text,label,label\na,b,c\n", "line 1: two columns are named 'label'; rename one."),
        ("a.csv", "text,other,label, label \na,b,c,d\n", "line 1: two columns are named 'label'; rename one."),
        ("a.tsv", "text\tlabel\ttext\na\tb\tc\n", "line 1: two columns are named 'text'; rename one."),
        ("a.csv", "sep=;\ntext;text;label\na;b;c\n", "line 2: two columns are named 'text'; rename one."),
        ("a.jsonl", '{"text": "a", "label": "x"}\n{"text": "a", "text": "b"}\n', "line 2: the key 'text' stands twice in one"),
        ("a.jsonl", '{"text": "a", "label": {"name": "x", "name": "y"}}\n', "line 1: the key 'name' stands twice in one"),
        ("a.jsonl", '{"text": "a", "label": ' + "1" * 101 + "}\n", "line 1: not usable JSON (a number has more than 100 digits"),
        ("a.jsonl", '{"text": "a", "label": "x", "more": ' + "[" * 100_000 + "}\n", "line 1: not usable JSON (more than 64"),
        ("a.jsonl", '{"text": "a", "label": ' + '{"a":' * 80 + "1" + "}" * 81 + "\n", "line 1: not usable JSON (more than 64"),
        ("a.json", '[{"text": "a", "label": "x"},\n {"text": "b", "text": "c"}]', "line 2: the key 'text' stands twice"),
        ("a.json", '[\n{"text": "a", "label": "x"},\n 7]', "line 3: expected an object such as"),
        ("a.json", '[{"text": "a", "label": "x"}, {"text": "b"', "a.json, line 1: not valid JSON"),
        ("a.json", '[{"text": "a", "label": "x"}, ', "a.json: the array is not closed"),
        ("a.json", '[{"text": "a", "label": "x"}] {}', "a.json: something follows the array"),
        ("a.json", '{"data": [\n{"text": "a", "label": "x"}]}', "line 1: not valid JSON"),
        ("a.json", '{\n"text": "a"\n}', "column 1); write each object on one line, or all as one array."),
        ("a.json", '[{"text": "a", "label": "x"},\n]', "a.json, line 1: a comma follows the last object of the array; remove it"),
        ("a.jsonl", '[{"text": "a", "label": "x"}]', "an array of objects belongs into a file that ends in"),
        ("a.csv", 'text,label\na, "b, c"\n', "line 2: 3 fields where the header has 2; a quote must be the"),
        ("a.csv", 'text,label\n"say \\"yes\\", now",b\n', 'line 2: not valid CSV (text follows a closing quote; write'),
        ("a.csv", "text,,label,,x\na,,b,,\n", "line 1: two columns have no name; give each one."),
        ("a.csv.gz", gzip.compress(CSV.encode() * 100, mtime=0)[:60], "a.csv.gz: cannot be read (not a complete gzip file"),
        ("a.csv.gz", CSV, "a.csv.gz: cannot be read (Not a gzipped file"),
    ],
)  # fmt: skip
def test_what_would_lose_or_mix_up_fields_is_refused(
    read: Callable[..., Rows], name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        read(name, content)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500


def test_empty_fields_at_the_end_of_a_row_lose_nothing(read: Callable[..., Rows]) -> None:
    for header in ("text,label", "text,label,", "text,label,,"):
        assert read("a.csv", f"{header}\na,x\nb,y,\nc,x,,\n").texts == ["a", "b", "c"]


@pytest.mark.parametrize(("row", "fields"), [("a,b,c,d", 4), ("a,b", 2)])
def test_without_a_header_every_row_has_the_fields_of_the_first(read: Callable[..., Rows], row: str, fields: int) -> None:
    with pytest.raises(InputError, match=rf"line 2: {fields} fields where "):
        read("a.csv", f"x,y,z\n{row}\n", header=False, text=0, label=1)


ODD = "text;label\nGröße, é;delivery\nsecond;billing\n"


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("a.csv", ODD, "with semicolons between the fields"),
        ("a.csv", ODD.replace(";", "\t"), "with tabs between the fields"),
        ("a.csv", ODD.replace(";", "|"), "with vertical bars between the fields"),
        ("a.csv", "sep=;\r\n" + ODD, "with semicolons between the fields"),
        ("a.csv", "sep=,\n" + ODD.replace("ße,", "ße").replace(";", ","), "with commas between the fields"),
        ("a.csv", ODD.encode("utf-16"), "as UTF-16 and with semicolons between the fields"),
        ("a.tsv", b"\xfe\xff" + ODD.replace(";", "\t").encode("utf-16-be"), "as UTF-16"),
        ("a.csv", ODD.encode("cp1252"), "as Windows-1252 and with semicolons between the fields"),
        ("a.csv.gz", gzip.compress(ODD.encode("utf-16"), mtime=0), "as UTF-16 and with semicolons between the fields"),
        ("a.csv", " text ; label\n" + ODD.partition("\n")[2], "with semicolons between the fields"),
    ],
    ids=["semicolon", "tab", "bar", "sep-line", "sep-comma", "utf-16", "utf-16-be", "cp1252", "gzip-utf-16", "blanks"],
)  # fmt: skip
def test_files_that_people_have_are_read_and_it_is_said_how(
    read: Callable[..., Rows], name: str, content: str | bytes, note: str | None
) -> None:
    rows = read(name, content)
    assert [text.replace(",", "") for text in rows.texts] == ["Größe é", "second"]
    assert rows.labels == ["delivery", "billing"]
    assert [line.partition(f"{name} is read ")[2] for line in rows.notes] == ([] if note is None else [f"{note}."])


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json"])
def test_gzipped_text_is_read_like_text(read: Callable[..., Rows], name: str) -> None:
    content = {"a.csv": CSV, "a.tsv": TSV.replace('he said "no"', '"he said ""no"""'), "a.jsonl": JSONL}.get(name) or json.dumps(
        [{"text": text, "label": label} for text, label in ROWS], indent=1
    )
    for rows in (read(name, content), read(f"{name}.gz", gzip.compress(content.encode(), mtime=0))):
        assert (rows.texts, rows.labels, rows.notes) == (TEXTS, LABELS, ())
    assert list(rows.positions) == [*{"a.jsonl": (1, 2, 3), "a.json": (2, 6, 10)}.get(name, (2, 3, 4))]


def test_a_comma_is_not_doubted_where_it_gives_the_columns(read: Callable[..., Rows]) -> None:
    rows = read("a.csv", "text,label,a;b\none; two,x,\n")
    assert (rows.texts, rows.labels, rows.notes) == (["one; two"], ["x"], ())


def test_delimiter_and_encoding_can_be_given(read: Callable[..., Rows]) -> None:
    rows = read("a.tsv", "text^label\nfür^x\n".encode("latin-1"), delimiter="^", encoding="latin-1")
    assert (rows.texts, rows.labels) == (["für"], ["x"])
    with pytest.raises(InputError, match=r"a\.csv, line 2: byte 0xfc is not ascii; save the file as UTF-8 or set data\.encoding"):
        read("a.csv", "text,label\nfür,x\n".encode("latin-1"), encoding="ascii")


@pytest.mark.parametrize("setting", [{"delimiter": "ab"}, {"delimiter": '"'}, {"encoding": "klingon"}, {"encoding": "idna"}])
def test_a_delimiter_or_encoding_that_is_none_is_refused(setting: dict[str, str]) -> None:
    (name,) = setting
    with pytest.raises(ValidationError, match=rf"data\.{name} is "):
        DataConfig.model_validate({"train": "a.csv", **setting})


def test_a_dotted_name_is_a_field_of_an_inner_object(read: Callable[..., Rows]) -> None:
    rows = [{"data": {"body": text}, "tag": {"name": label, "id": 1}} for text, label in ROWS]
    settings = {"text": "data.body", "label": "tag.name"}
    for name, content in (
        ("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows)),
        ("a.json", json.dumps(rows)),
        ("a.parquet", parquet(data=[row["data"] for row in rows], tag=[row["tag"] for row in rows])),
    ):
        found = read(name, content, **settings)
        assert (found.texts, found.labels) == (TEXTS, LABELS)
        with pytest.raises(InputError, match=r"no (field|column) 'data\.bdy' \(data\.text\); did you mean data\.body\?"):
            read(name, content, text="data.bdy", label="tag.name")


def test_class_labels_in_parquet_come_by_name(tmp_path: Path) -> None:
    import datasets

    kinds = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": kinds, "more": datasets.Sequence(kinds), "in": {"one": kinds}}
    )
    rows = {"text": ["x", "y", "z"], "label": [1, 0, -1], "more": [[1, 0], [], [1]], "in": [{"one": 0}, {"one": 1}, {"one": 0}]}
    path = str(tmp_path / "a.parquet")
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    wanted = {"label": ["yes", "no", None], "more": [["yes", "no"], [], ["yes"]], "in.one": ["no", "yes", "no"]}
    for column, labels in wanted.items():
        assert read_rows(path, "train", DataConfig(train=path, label=column)).labels == labels
