from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manta.config import DataConfig
from manta.data.read import read_rows, read_splits
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


@pytest.mark.parametrize("text", ['"quoted" first', '"never closed', '"all of it"', 'two ""', "it's"])
def test_quotes_in_tsv_are_part_of_the_text(read: Callable[..., Rows], text: str) -> None:
    rows = read("rows.tsv", f"text\tlabel\n{text}\ta\nnext\tb\n")
    assert (rows.texts, rows.labels) == ([text, "next"], ["a", "b"])


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
    assert rows.positions == [2, 5]
    assert rows.where(1).endswith("rows.csv, line 5")


def test_positions_of_json_lines_count_blank_ones(read: Callable[..., Rows]) -> None:
    rows = read("rows.jsonl", '{"text": "a", "label": 1}\n\n{"text": "b", "label": 2}\n')
    assert rows.positions == [1, 3]
    assert rows.labels == [1, 2]


def test_positions_of_parquet_are_rows(read: Callable[..., Rows]) -> None:
    assert read("rows.parquet", parquet(text=["a", "b"], label=[1, 2])).where(1).endswith("rows.parquet, row 2")


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85"], ids=["line-separator", "paragraph-separator", "next-line"])
def test_only_line_feeds_end_json_lines(read: Callable[..., Rows], mark: str) -> None:
    text = f"one{mark}two"
    content = json.dumps({"text": text, "label": "a"}, ensure_ascii=False) + "\n"
    assert read("rows.jsonl", content).texts == [text]


@pytest.mark.parametrize("url", ["file://{folder}/rows.csv", "memory://manta-test-read/rows.csv"])
def test_urls_are_read_like_files(tmp_path: Path, url: str) -> None:
    location = url.format(folder=tmp_path)
    with fsspec.open(location, "w") as file:
        file.write(CSV)
    rows = read_rows(location, "train", DataConfig(train=location))
    assert (rows.texts, rows.labels, rows.source) == (TEXTS, LABELS, location)


@pytest.mark.parametrize("validation", ["validation", "valid", "val", "dev"])
@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
def test_a_folder_brings_its_splits(tmp_path: Path, validation: str, scheme: str) -> None:
    folder = f"{scheme}{tmp_path}/{validation}"
    filesystem, root = fsspec.core.url_to_fs(folder)
    filesystem.makedirs(root, exist_ok=True)
    for split, name in (("train", "train.csv"), ("validation", f"{validation}.jsonl"), ("test", "test.tsv"), ("", "notes.txt")):
        content = {".csv": f"text,label\n{split},x\n", ".tsv": f"text\tlabel\n{split}\tx\n"}.get(
            name[-4:], json.dumps({"text": split, "label": "x"})
        )
        filesystem.pipe_file(f"{root}/{name}", content.encode())
    splits = read_splits(DataConfig(train=folder))
    assert {name: rows.texts for name, rows in splits.items()} == {name: [name] for name in ("train", "validation", "test")}


def test_a_named_split_overrules_the_folders(tmp_path: Path) -> None:
    for name in ("train", "test", "other"):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{name},x\n")
    splits = read_splits(DataConfig(train=str(tmp_path), test=str(tmp_path / "other.csv")))
    assert {name: rows.texts for name, rows in splits.items()} == {"train": ["train"], "test": ["other"]}


def test_a_folder_also_serves_for_one_split(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{name},x\n")
    (tmp_path / "single.csv").write_text("text,label\nsingle,x\n")
    splits = read_splits(DataConfig(train=str(tmp_path / "single.csv"), test=str(tmp_path)))
    assert {name: rows.texts for name, rows in splits.items()} == {"train": ["single"], "test": ["test"]}


@pytest.mark.parametrize("sample", ["support", "reviews"])
def test_samples_bring_all_three_splits(sample: str) -> None:
    splits = read_splits(DataConfig(train=f"sample:{sample}"))
    assert list(splits) == ["train", "validation", "test"]
    assert all(len(rows.texts) > 100 for rows in splits.values())


def folder_fault(path: Path, fault: str) -> DataConfig:
    (path / "test.csv").write_text("text,label\na,b\n")
    if fault == "two trains":
        (path / "train.csv").touch()
        (path / "train.tsv").touch()
    if fault == "no validation":
        (path / "train.csv").write_text("text,label\na,b\n")
        return DataConfig(train=str(path), validation=str(path))
    return DataConfig(train=str(path))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no train", "the folder has no train file; expected train.csv, train.tsv"),
        ("two trains", "several files for train (train.csv, train.tsv); name one in data.train"),
        ("no validation", "has no validation rows (it has train, test)"),
    ],
)
def test_folders_that_leave_a_split_open_are_refused(tmp_path: Path, fault: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_splits(folder_fault(tmp_path, fault))
    assert str(tmp_path) in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("sample:suport", "sample:suport: no such sample; did you mean support?"),
        ("sample:zzz", "known ones are support, reviews"),
        ("{folder}/none.csv", "{folder}/none.csv: no such file; check data.train"),
        ("memory://none/none.csv", "memory://none/none.csv: no such file"),
        ("{folder}/rows.xls", "rows.xls: unknown kind of file; data.train must end in .csv, .tsv, .jsonl, .parquet"),
        ("{folder}/none", "unknown kind of file"),
        ("nowhere://rows.csv", "nowhere://rows.csv: not a path or URL that can be read"),
        ("hf://owner/name", "hf://owner/name: the dataset could not be fetched from the hub"),
        ("hf://owner/name:part", "hf://owner/name:part: the dataset could not be fetched from the hub"),
    ],
)
def test_rows_that_cannot_be_found_are_named(tmp_path: Path, location: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_splits(DataConfig(train=location.format(folder=tmp_path)))
    assert message.format(folder=tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "txet,label\na,b\n", "a.csv: no column 'text' (data.text); did you mean txet?"),
        ("a.csv", "text,intent\na,b\n", "a.csv: no column 'label' (data.label); known ones are text, intent"),
        ("a.tsv", "text,label\na,b\n", "a.tsv: no column 'text' (data.text)"),
        ("a.jsonl", JSONL + '{"text": "b", "labels": 1}\n', "a.jsonl, line 4: no field 'label' (data.label); did you mean labels?"),
        ("a.parquet", parquet(texts=["a"], label=[1]), "a.parquet: no column 'text' (data.text); did you mean texts?"),
        ("a.csv", "text,label\na,b\nonly\n", "a.csv, line 3: 1 field where at least 2 are needed"),
        ("a.tsv", "text\tlabel\na\tb\nonly\n", "a.tsv, line 3: 1 field where at least 2 are needed"),
        ("a.csv", 'text,label\na,b\n"c" d,e\n', "a.csv, line 3: not valid CSV"),
        ("a.csv", 'text,label\na,b\n"open,b\nc,d\ne,f\n', "a.csv, line 3: not valid CSV"),
        ("a.csv", b"text,label\na,b\nc\xff,d\n", "a.csv, line 3: byte 0xff is not UTF-8"),
        ("a.csv", b"\xef\xbb\xbftext,label\n\xffa,b\n", "a.csv, line 2: byte 0xff is not UTF-8"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": "\xe4", "label": 1}\n', "a.jsonl, line 2: byte 0xe4 is not UTF-8"),
        ("a.csv", "text,label\na,b\n".encode("utf-16"), "a.csv, line 1: byte 0xff is not UTF-8"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": \n', "a.jsonl, line 2: not valid JSON"),
        ("a.jsonl", '{"text": "a", "label": 1}\n[1]\n', "a.jsonl, line 2: expected an object"),
        ("a.parquet", b"PAR1 is not enough", "a.parquet: not a readable Parquet file"),
        ("a.parquet", parquet(text=["a"] * 50, label=[1] * 50)[:200], "a.parquet: not a readable Parquet file"),
        ("a.parquet", b"", "a.parquet: not a readable Parquet file"),
    ],
    ids=[
        "csv-column", "csv-column-unlike", "tsv-with-commas", "jsonl-field", "parquet-column", "csv-short", "tsv-short",
        "csv-after-quote", "csv-open-quote", "csv-bytes", "csv-bytes-after-bom", "jsonl-bytes", "utf-16", "jsonl-broken",
        "jsonl-list", "parquet-not", "parquet-cut", "parquet-empty",
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


def test_a_folder_named_like_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").mkdir()
    with pytest.raises(InputError, match=r"rows\.csv: the folder has no train file"):
        read_splits(DataConfig(train=str(tmp_path / "rows.csv")))


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


def test_hub_labels_come_by_name_one_or_several(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    kinds = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features(
        {"a": datasets.Value("string"), "b": datasets.Value("string"), "one": kinds, "more": datasets.Sequence(kinds)}
    )
    table = datasets.Dataset.from_dict(
        {"a": ["x", "y", "z"], "b": ["1", "2", "3"], "one": [1, 0, -1], "more": [[1, 0], [], [1]]}, features=features
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table)
    config = DataConfig(train="hf://owner/name", text="a", label="one")
    assert read_rows("hf://owner/name#train", "train", config).labels == ["yes", "no", None]
    rows = read_rows("hf://owner/name#train", "train", DataConfig(train="hf://owner/name", text=("a", "b"), label="more"))
    assert rows.labels == [["yes", "no"], [], ["yes"]]
    assert rows.texts == [("x", "1"), ("y", "2"), ("z", "3")]
