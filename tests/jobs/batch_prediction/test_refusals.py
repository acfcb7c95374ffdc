"""`manta predict`, refused: one sentence, and nothing is left or lost."""

from __future__ import annotations

import gzip
import random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manta.console import people_console
from manta.errors import InputError, RunError
from manta.inference.predictor import Predictor
from manta_jobs.batch_prediction import predict
from manta_jobs.batch_prediction.classify import Classifier
from manta_jobs.batch_prediction.destination import Destination
from manta_jobs.batch_prediction.locate import locate
from manta_jobs.batch_prediction.run import trained_columns

from .predictions import VERSION, input_rows, plan_of, predict_here, rows_in, write_rows

if TYPE_CHECKING:
    from pathlib import Path


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
    ("trained", "columns"),
    [("message", ["message"]), (["subject", "body"], ["subject", "body"]), (2, ["text"]), (None, ["text"])],
)
def test_rows_are_read_from_the_columns_of_the_training(trained: Any, columns: list[str]) -> None:
    config = {} if trained is None else {"data": {"text": trained}}
    assert trained_columns(SimpleNamespace(manifest=SimpleNamespace(config=config))) == columns  # type: ignore[arg-type]


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
