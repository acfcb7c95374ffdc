from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manta.errors import InputError
from manta_jobs.runs.given_rows import in_memory, keep_rows


def fault_in(table: pa.Table, urls: dict[str, str]) -> None:
    with in_memory({"train": table}) as given:
        urls |= given
        assert fsspec.filesystem("memory").exists(given["train"])
        raise InputError(f"{given['train']}, row 2: no good.")


def test_a_table_can_be_read_inside_the_body_and_messages_name_it() -> None:
    urls: dict[str, str] = {}
    with pytest.raises(InputError, match=r"^train rows, row 2: no good\.$"):
        fault_in(pa.table({"text": ["a"]}), urls)
    assert not fsspec.filesystem("memory").exists(urls["train"])


def test_only_rows_in_memory_are_copied(tmp_path: Path) -> None:
    with in_memory({"train": pa.table({"text": ["a"]})}) as urls:
        kept = keep_rows(urls["train"], tmp_path / "rows" / "train.parquet")
    assert pq.read_table(kept).to_pydict() == {"text": ["a"]}
    assert keep_rows("desk.csv", tmp_path / "other.parquet") == "desk.csv"
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]
