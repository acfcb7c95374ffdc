"""Predictions without a cluster: the product's own steps, one chunk after another in this process."""

from __future__ import annotations

import csv
import json
import random
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from manta_jobs.batch_prediction.classify import Classifier
from manta_jobs.batch_prediction.destination import Destination
from manta_jobs.batch_prediction.join import join
from manta_jobs.batch_prediction.locate import locate
from manta_jobs.batch_prediction.partial import Task, opened
from manta_jobs.batch_prediction.plan import Plan, list_columns_of, make_plan

if TYPE_CHECKING:
    from pathlib import Path

    from manta.inference.predictor import Predictor

VERSION = "desk@1"
WORDS = "parcel courier late charged invoice card password login email the my is please".split()
NUM_ROWS = 50
ADDED = ["label", "score", "uncertain", "uncertain_reason", "model_version", "error"]


def plan_of(source: Path | str, *, text: tuple[str, ...] = ("text",), list_columns: tuple[str, ...] = ()) -> Plan:
    kind, files = locate(str(source))
    return make_plan(kind, files, text_columns=text, list_columns=list_columns)


def predict_here(
    source: Path | str,
    out: Path,
    predictor: Predictor,
    *,
    text: tuple[str, ...] = ("text",),
    stop_after: int | None = None,
    start_again: bool = False,
    model: str = "0" * 64,
) -> list[int]:
    """Classify the pending chunks, all or so many, and write OUT if none is left; the numbers of those classified."""
    kind, files = locate(str(source))
    destination = Destination(out)
    task = Task(files=files, text_columns=text, model_sha256=model, model_version=VERSION)

    def plan() -> Plan:
        return make_plan(kind, files, text_columns=text, list_columns=list_columns_of(predictor.artifact.manifest))

    with opened(destination.partial, task, make_plan=plan, start_again=start_again) as partial:
        classifier = Classifier(partial.plan.source, predictor, VERSION)
        numbers = partial.pending[:stop_after]
        for number in numbers:
            partial.add(*classifier.part(partial.plan.chunks[number]))
        if not partial.pending:
            partial.put_in_place(join(partial, destination.kind(kind), as_folder=destination.is_folder), out)
    return numbers


def rows_in(path: Path) -> list[dict[str, Any]]:
    """The rows of an output file, or of all files of an output folder."""
    if path.is_dir():
        return [row for file in sorted(path.iterdir()) for row in rows_in(file)]
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def texts_of(count: int) -> list[str]:
    generator = random.Random(0)
    return [" ".join(generator.choices(WORDS, k=generator.randint(1, 12))) for _ in range(count)]


def input_rows(count: int = NUM_ROWS) -> list[dict[str, Any]]:
    """Rows with a field that has all that makes CSV hard."""
    return [
        {"id": str(number), "note": f'line 1\nline "{number}", ü,\r\nend' if number % 3 else "", "text": text}
        for number, text in enumerate(texts_of(count))
    ]


def write_rows(path: Path, rows: list[dict[str, Any]], *, row_group_size: int = 17) -> Path:
    """Rows as a file of the kind that its ending names; TSV without the field it cannot hold."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group_size)
    elif path.suffix == ".jsonl":
        path.write_text("\ufeff" + "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    elif path.suffix == ".tsv":
        path.write_text("id\ttext\r\n" + "".join(f"{row['id']}\t{row['text']}\r\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path
