"""Texts of many rows are never Python objects all at once, and how they are stored changes nothing."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manta.config import DataConfig
from manta.data import collect, load_dataset, stored
from manta.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

NUM_ROWS = 40_000
WIDTH = 100


def rows(folder: Path, ending: str, *, num_rows: int = NUM_ROWS) -> str:
    path = folder / f"train.{ending}"
    texts = [f"{number:06d} {number % 7} ".ljust(WIDTH, "x") for number in range(num_rows)]
    labels = ["abc"[number % 3] for number in range(num_rows)]
    if ending == "parquet":
        pq.write_table(pa.table({"text": texts, "label": labels}), path)
    elif ending == "csv":
        path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in zip(texts, labels, strict=True)))
    else:
        lines = (f'{{"text": "{text}", "label": "{label}"}}\n' for text, label in zip(texts, labels, strict=True))
        path.write_text("".join(lines))
    return str(path)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_reading_checking_and_splitting_holds_few_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    monkeypatch.setattr(stored, "MOST_BYTES_IN_MEMORY", 2**20)
    config = DataConfig(train=rows(tmp_path, ending))
    (tmp_path / "few").mkdir()
    load_dataset(DataConfig(train=rows(tmp_path / "few", ending, num_rows=600)))  # what is imported and compiled once
    in_arrow = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        data = load_dataset(config)
        digest = data.content_hash
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(data.num_rows.values()) == NUM_ROWS
    assert digest == data.content_hash
    assert peak < NUM_ROWS * WIDTH  # the texts as Python strings take 1.5 times as much
    assert pa.total_allocated_bytes() - in_arrow < NUM_ROWS * WIDTH / 4


HASHES = {
    "text": "91a5e3983d27b540844e250cadc99084d969f0a412869c92f3a1c38e6933f302",
    "pair": "de5c74bbedaef5fba112ffb2a643a512a3eda4959194009998995ef5dcf15b70",
    "multilabel": "ba87e51f2af039dbcb1500004f17f90fa03c575679628fd08fc365900d0325cd",
}
"""The content hashes of version 0.1, by which it recognizes the rows of an interrupted run."""


@pytest.mark.parametrize("in_file", [False, True], ids=["in-memory", "in-a-file"])
@pytest.mark.parametrize("kind", list(HASHES))
def test_rows_have_the_hash_that_they_always_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, in_file: bool) -> None:
    if in_file:
        monkeypatch.setattr(stored, "MOST_BYTES_IN_MEMORY", 100)
        monkeypatch.setattr(stored, "CHUNK_ROWS", 3)
        monkeypatch.setattr(collect, "CHUNK_ROWS", 7)
    path = tmp_path / "t.csv"
    path.write_text("left,right,label\n" + "".join(f"text {i},more {i % 7},{'abc'[i % 3]}\n" for i in range(60)))
    config = DataConfig(train=str(path), text=("left", "right") if kind == "pair" else "left")
    data = load_dataset(config, task="multilabel" if kind == "multilabel" else "auto")
    assert data.content_hash == HASHES[kind]


@pytest.mark.parametrize(("fault", "message"), [
    ('{"text": 7, "label": "a"}', "line 21: the text is of type int, not a string"),
    ('{"text": "\\ud83d", "label": "a"}', "line 21: the text holds half of a surrogate pair"),
    ('{"text": null, "label": "a"}', "line 21: the text is missing"),
    ('{"text": "", "label": 1.5}', "line 21: the text is empty"),
    ('{"text": "b", "label": 1.5}', "line 21: 1.5 is not a word or an integer"),
])  # fmt: skip
def test_the_first_of_many_faults_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, message: str) -> None:
    monkeypatch.setattr(collect, "CHUNK_ROWS", 8)
    path = tmp_path / "train.jsonl"
    good = [f'{{"text": "text {number}", "label": "{"ab"[number % 2]}"}}' for number in range(20)]
    later = ['{"text": null, "label": null}', '{"text": ["x"], "label": {}}']
    path.write_text("\n".join([*good, fault, *good, *later]))
    with pytest.raises(InputError, match=message):
        load_dataset(DataConfig(train=str(path)))


def test_long_texts_are_stored_before_a_chunk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "CHUNK_CHARACTERS", 10 * WIDTH)
    monkeypatch.setattr(stored, "MOST_BYTES_IN_MEMORY", 0)
    sizes: list[int] = []
    write = stored.BatchWriter.write
    monkeypatch.setattr(stored.BatchWriter, "write", lambda self, batch: (sizes.append(batch.num_rows), write(self, batch))[1])
    data = load_dataset(DataConfig(train=rows(tmp_path, "csv", num_rows=600)))
    assert max(sizes) == 11
    assert sum(map(len, (data.train, data.validation, data.test))) == 600
