"""Files that are not what their name says, and texts in encodings that look like Windows-1252."""

from __future__ import annotations

import gzip
import io
import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manta.config import DataConfig
from manta.data.read import read_rows
from manta.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from manta.data.collect import Rows

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


def parquet(table: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


def read(folder: Path, name: str, content: bytes, **settings: Any) -> Rows:
    (folder / name).write_bytes(content)
    return read_rows(str(folder / name), "train", DataConfig.model_validate({"train": name, **settings}))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", POINTER, "a.csv: is a Git LFS pointer, not the file itself; run git lfs pull."),
        ("a.jsonl", POINTER, "a.jsonl: is a Git LFS pointer"),
        ("a.csv.gz", POINTER, "a.csv.gz: is a Git LFS pointer"),
        ("a.parquet", POINTER, "a.parquet: is a Git LFS pointer"),
        ("a.csv", gzip.compress(b"text,label\na,b\n", mtime=0), "a.csv: is compressed with gzip; let its name end in .gz"),
        ("a.csv", b"PK\x03\x04\x14\x00", "a.csv: is a zip archive or an Excel workbook"),
        ("a.tsv", b"\xd0\xcf\x11\xe0\xa1\xb1", "a.tsv: is an Excel workbook; save the sheet as CSV"),
        ("a.json", parquet(pa.table({"text": ["a"]})), "a.json: is a Parquet file; let its name end in .parquet"),
        ("a.csv", b"\n<!DOCTYPE html>\n<html>", "a.csv: is a web page (HTML)"),
    ],
)
def test_a_file_of_another_kind_is_named_as_what_it_is(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, name, content)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Привет, мир", "cp1251"),
        ("Привет, мир", "koi8-r"),
        ("Καλημέρα κόσμε", "cp1253"),
        ("שלום עולם", "cp1255"),
        ("你好世界今天天气", "gbk"),
        ("你好世界今天天氣", "big5"),
        ("Zażółć gęślą jaźń, są żółte łąki", "cp1250"),
        ("kırmızı ağaç, şirket adı", "cp1254"),
    ],
)
def test_letters_of_another_encoding_are_no_windows_1252(tmp_path: Path, text: str, encoding: str) -> None:
    content = f'text,label\n"{text}",x\n'.encode(encoding)
    with pytest.raises(
        InputError, match=r"a\.csv, line 2: byte 0x[0-9a-f]{2} is not UTF-8.*save the file as UTF-8 or set data\.encoding"
    ):
        read(tmp_path, "a.csv", content)
    assert list(read(tmp_path, "a.csv", content, encoding=encoding).texts) == [text]


@pytest.mark.parametrize(
    "text",
    [
        "Größe, Straße, Übung",
        "“Été” créée à Noël, où l’on s’aime… «Ça» va",
        "¿Qué? ¡Sí! niño — mañana",
        "São João não é coração",
        "Blåbærsyltetøy på øl, yöä",
        "Það er gott að sjá þig, ég heiti Ásta",
        "geht´s? 5°C, £5, €10, ½ l, m², ® ©",
    ],
)
def test_western_languages_are_windows_1252(tmp_path: Path, text: str) -> None:
    rows = read(tmp_path, "a.csv", f'text,label\n"{text}",x\n'.encode("cp1252"))
    assert list(rows.texts) == [text]
    assert rows.notes[0].endswith("is read as Windows-1252.")


def test_an_encoding_whose_mark_is_missing_says_which_ones_need_none(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"line 1: the mark of UTF-16 at the start is missing \(without one it is utf-16-le or utf-16-be\)"
    ):
        read(tmp_path, "a.csv", "text,label\na,b\n".encode("utf-16-le"), encoding="utf-16")


def test_a_column_is_found_despite_invisible_signs(tmp_path: Path) -> None:
    rows = read(tmp_path, "a.csv", b"\xef\xbb\xbf\xef\xbb\xbftext,\xe2\x80\x8blabel\na,b\n")
    assert (list(rows.texts), list(rows.labels)) == (["a"], ["b"])
    with pytest.raises(InputError, match=r"known ones are 'one\\ntwo', three"):
        read(tmp_path, "a.csv", b'"one\ntwo",three\na,b\n', text="body", label="topic")


def test_an_object_that_is_null_has_a_null_text(tmp_path: Path) -> None:
    lines = [{"data": {"body": "x"}, "label": "a"}, {"data": None, "label": "b"}]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    assert list(read(tmp_path, "a.jsonl", content, text="data.body").texts) == ["x", None]


@pytest.mark.parametrize("names", [["text", "label", "label"], ["text", "text", "label"]])
def test_two_parquet_columns_of_a_name_are_refused(tmp_path: Path, names: list[str]) -> None:
    content = parquet(pa.Table.from_arrays([pa.array([name + str(i)]) for i, name in enumerate(names)], names=names))
    with pytest.raises(InputError, match=r"a\.parquet: two columns are named '(label|text)'; rename one"):
        read(tmp_path, "a.parquet", content)


def test_a_class_without_a_name_is_the_rows_fault(tmp_path: Path) -> None:
    info = {"info": {"features": {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}}}
    table = pa.table({"text": ["a", "b", "c"], "label": [1, 0, 2]}).replace_schema_metadata({"huggingface": json.dumps(info)})
    with pytest.raises(InputError, match=r"a\.parquet, row 3: the label 2 has no name in the file's list of labels"):
        read(tmp_path, "a.parquet", parquet(table))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("http://127.0.0.1:9/a.csv", "http://127.0.0.1:9/a.csv: cannot be read"),
        ("a\0b.csv", "'a\\x00b.csv': no path or URL holds a null character"),
        ("hf://", "hf://: names no dataset of the hub"),
    ],
)
def test_a_place_that_cannot_be_read_is_one_sentence(source: str, message: str) -> None:
    from manta.data import load_dataset

    with pytest.raises(InputError) as caught:
        load_dataset(DataConfig(train=source))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
