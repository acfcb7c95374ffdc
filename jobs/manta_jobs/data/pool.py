"""Rows to be labeled: the pool that they are chosen from, and the file of chosen rows that people fill in.

The file has the columns text (of pairs first and second), label, suggested, probability and margin, then those of the pool. So
`data.feedback` reads it. Choosing again keeps the rows that have a label, and replaces the others.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manta.data.check import is_missing
from manta.errors import InputError
from manta.label_check.decisions import text_hash
from manta.rows.delimited import csv_writer
from manta.storage.folders import disk_errors, write_atomically
from manta.texts import text_fault
from manta_jobs.batch_prediction.join import csv_cell
from manta_jobs.batch_prediction.locate import locate
from manta_jobs.batch_prediction.plan import make_plan
from manta_jobs.batch_prediction.read import ChunkReader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from manta.texts import Text

ADDED = ("label", "suggested", "probability", "margin")
PREFIX = "pool_"
"""Prefix of a pool's columns that have the name of an added one."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Pool:
    """Rows with a text."""

    source: str
    columns: tuple[str, ...]
    text_columns: tuple[str, ...]
    rows: list[Row]
    """All columns of each row."""
    texts: list[Text]
    faults: tuple[str, ...]
    """Why rows were left out, each with its place."""
    notes: tuple[str, ...]
    """Sentences on how the file is read, if not as its name promises."""


def read_pool(source: str, text_columns: Sequence[str]) -> Pool:
    """Read a file, or a folder of files, of CSV, TSV, JSON or Parquet. Rows without a text are left out.

    Raises:
        InputError: it is missing or broken, lacks a text column, or no row has a text.
    """
    kind, files = locate(source)
    plan = make_plan(kind, files, text_columns=text_columns, list_columns=())
    reader = ChunkReader(plan.source)
    rows: list[Row] = []
    texts: list[Text] = []
    faults: list[str] = []
    num_before = 0
    for chunk in plan.chunks:
        read = reader.read(chunk)
        values = read.values if isinstance(read.values, list) else read.values.to_pylist()
        for index, (row, text, fault) in enumerate(zip(values, read.texts, read.faults, strict=True), start=num_before + 1):
            wrong = fault or _fault(text, source, index)
            if wrong:
                faults.append(wrong)
            else:
                rows.append(row)
                texts.append(text)
        num_before += len(read.texts)
    if not rows:
        raise InputError(f"{source}: no row has a text ({faults[0]}); give a pool with texts to label.")
    return Pool(source, plan.source.columns, plan.source.text_columns, rows, texts, tuple(faults), plan.source.notes)


def _fault(text: Any, source: str, index: int) -> str | None:
    parts = text if isinstance(text, tuple) else (text,)
    fault = next((fault for part in parts if (fault := text_fault(part))), None)
    return fault and f"{source}, row {index}: the text {fault}"


@dataclass(frozen=True)
class Chosen:
    """The content of a file of chosen rows."""

    columns: tuple[str, ...]
    rows: list[Row]

    def write(self, path: Path) -> None:
        """Write the file, completely or not at all."""
        content = io.StringIO()
        writer = csv_writer(content)
        writer.writerow(self.columns)
        writer.writerows([csv_cell(row.get(name)) for name in self.columns] for row in self.rows)
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content.getvalue())


def read_chosen(path: Path, *, is_pair: bool, decided: Mapping[str, str]) -> Chosen:
    """Return the rows of a file of chosen rows that have a label; none if there is no file yet.

    `decided` are the labels that people gave to texts without one, by the text's hash.

    Raises:
        InputError: the file is another one, or has a broken row.
    """
    if path.suffix.lower() != ".csv":
        raise InputError(f"--out {path} must end in .csv.")
    if not path.exists():
        return Chosen((), [])
    try:
        found = read_pool(str(path), text_names(is_pair=is_pair))
    except InputError as error:
        raise InputError(f"--out {path} exists already and cannot be continued: {error}") from None
    if not set(ADDED) <= set(found.columns):
        raise InputError(f"--out {path} exists already and is no file of chosen rows; name another file.")
    if found.faults:
        raise InputError(f"{found.faults[0]}; fix or remove the row.")
    for row, text in zip(found.rows, found.texts, strict=True):
        if is_missing(row["label"]):
            row["label"] = decided.get(text_hash(text), "")
    return Chosen(found.columns, [row for row in found.rows if not is_missing(row["label"])])


def text_names(*, is_pair: bool) -> tuple[str, ...]:
    """Return the columns of a file of chosen rows that hold the texts, as `data.feedback` expects them."""
    return ("first", "second") if is_pair else ("text",)


def chosen_rows(pool: Pool, indices: Sequence[int], added: Sequence[Row], *, kept: Chosen) -> Chosen:
    """Return the `kept` rows and, below them, those of the pool at `indices`, each with its `added` columns."""
    names = text_names(is_pair=len(pool.text_columns) == 2)
    taken = {*names, *ADDED}
    own = {name: PREFIX + name if name in taken else name for name in pool.columns if name not in pool.text_columns}
    rows = []
    for index, extra in zip(indices, added, strict=True):
        text = pool.texts[index]
        texts = dict(zip(names, (text,) if isinstance(text, str) else text, strict=True))
        rows.append(texts | extra | {new: pool.rows[index].get(name) for name, new in own.items()})
    columns = tuple(dict.fromkeys([*names, *ADDED, *own.values(), *kept.columns]))
    return Chosen(columns, [*kept.rows, *rows])
