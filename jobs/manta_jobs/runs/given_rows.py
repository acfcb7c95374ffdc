"""Rows that a Python program gives: tables in this process's memory, which a run keeps as Parquet files in its folder."""

from __future__ import annotations

import itertools
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

import fsspec

from manta.errors import MantaError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import pyarrow as pa

    from manta.config import ExperimentConfig

MEMORY = "memory://"
ROWS_FOLDER = "rows"
SPLITS = ("train", "validation", "test")
_numbers = itertools.count(1)


@contextmanager
def in_memory(tables: Mapping[str, pa.Table]) -> Iterator[dict[str, str]]:
    """Give each table, by name, a URL that only this process can read while the body runs.

    The messages of known errors name the tables instead of the URLs.
    """
    import pyarrow.parquet as pq

    number = next(_numbers)
    urls = {name: f"{MEMORY}{number}/{name}.parquet" for name in tables}
    try:
        for name, table in tables.items():
            with fsspec.open(urls[name], "wb") as file:
                pq.write_table(table, file)
        yield urls
    except MantaError as error:
        message = str(error)
        for name, url in urls.items():
            message = message.replace(url, f"{name} rows")
        raise type(error)(message) from None
    finally:
        memory = fsspec.filesystem("memory")
        for url in urls.values():
            if memory.exists(url):
                memory.rm(url)


def keep_rows(url: str, path: Path) -> str:
    """Copy rows that are only in memory to `path`, and return where they are. Rows of a file stay where they are."""
    if not url.startswith(MEMORY):
        return url
    path.parent.mkdir(exist_ok=True)
    with fsspec.open(url, "rb") as rows, path.open("wb") as file:
        shutil.copyfileobj(rows, file)
    return str(path)


def with_rows_kept(config: ExperimentConfig, folder: Path) -> ExperimentConfig:
    """Return the config with its rows in files: those that are only in memory are copied into a run's folder."""
    urls = {name: str(getattr(config.data, name) or "") for name in SPLITS}
    kept = {
        f"data.{name}": keep_rows(url, folder / ROWS_FOLDER / f"{name}.parquet")
        for name, url in urls.items()
        if url.startswith(MEMORY)
    }
    return config.with_values(kept) if kept else config
