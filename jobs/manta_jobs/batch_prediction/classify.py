"""The work of one worker: read a chunk, classify its texts, and return its rows with the answers."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from manta.cluster.gpus import hide_unassigned_gpus
from manta.errors import MantaError
from manta.inference.artifact import ModelArtifact
from manta.inference.predictor import Predictor
from manta.rows.json_rows import json_line
from manta.storage.object_store import fetch, url_of
from manta.texts import text_fault
from manta_jobs.batch_prediction.locate import InputFile
from manta_jobs.batch_prediction.plan import Chunk, Source
from manta_jobs.batch_prediction.read import ChunkReader, InputRows

if TYPE_CHECKING:
    import pyarrow as pa

    from manta.inference.predictor import Prediction
    from manta.inference.scope import UncertainReason
    from manta.texts import Text

MOST_CHARACTERS = 1_000_000
"""Most characters of a text that is classified.

A longer one is probably a file in a cell. Tokenizing it would take minutes to keep a few hundred tokens.
"""


class ChunkCounts(BaseModel):
    """Counts for one finished chunk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    chunk: int
    num_rows: int
    num_errors: int
    num_uncertain: int
    num_out_of_scope: int
    """Number of the uncertain rows that are unlike all training rows."""
    labels: dict[str, int]
    """Rows by most probable label."""
    num_bytes: int
    """Size of the part."""
    seconds: float
    """Time to read, classify and pack the chunk."""


@dataclass(frozen=True)
class AnswerColumns:
    """The added columns, with one value per row; None where there is no answer."""

    label: list[str | None]
    labels: list[list[str] | None]
    """All labels of a row; for multilabel models."""
    label_set: list[list[str] | None]
    """The label set of a row, most probable label first (`Prediction.label_set`); for models with label sets."""
    score: list[float | None]
    uncertain: list[bool | None]
    uncertain_reason: list[UncertainReason | None]
    """Also None where the answer is not uncertain."""
    error: list[str | None]


@dataclass(frozen=True)
class Classifier:
    """A loaded model that answers the rows of chunks."""

    source: Source
    predictor: Predictor
    model_version: str
    _reader: ChunkReader = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_reader", ChunkReader(self.source))

    def part(self, chunk: Chunk) -> tuple[bytes, ChunkCounts]:
        """Return the chunk's rows with their answers, packed as an Arrow stream, or as JSON lines if the input is JSON lines.

        Raises:
            RunError: the chunk cannot be read.
        """
        started = time.perf_counter()
        rows = self._reader.read(chunk)
        answers = answer(rows, self.predictor, self.source.text_columns)
        added = self._added(answers)
        content = _json_lines(rows.values, added) if isinstance(rows.values, list) else _arrow(rows.values, added)
        counts = ChunkCounts(
            chunk=chunk.number,
            num_rows=chunk.num_rows,
            num_errors=sum(error is not None for error in answers.error),
            num_uncertain=sum(bool(value) for value in answers.uncertain),
            num_out_of_scope=answers.uncertain_reason.count("out_of_scope"),
            labels=dict(Counter(label for label in answers.label if label is not None)),
            num_bytes=len(content),
            seconds=time.perf_counter() - started,
        )
        return content, counts

    def _added(self, answers: AnswerColumns) -> pa.Table:
        import pyarrow as pa

        columns = {
            "label": pa.array(answers.label, pa.string()),
            "labels": pa.array(answers.labels, pa.list_(pa.string())),
            "label_set": pa.array(answers.label_set, pa.list_(pa.string())),
            "score": pa.array(answers.score, pa.float64()),
            "uncertain": pa.array(answers.uncertain, pa.bool_()),
            "uncertain_reason": pa.array(answers.uncertain_reason, pa.string()),
            "model_version": pa.array([self.model_version] * len(answers.label), pa.string()),
            "error": pa.array(answers.error, pa.string()),
        }
        return pa.table({shown: columns[name] for name, shown in self.source.added_columns.items()})


class ChunkWorker:
    """Worker that Ray Data starts on each GPU or group of cores. It reads the rows itself: only finished parts go through Ray."""

    def __init__(self, source: Source, artifact: Path, model_version: str, num_threads: int) -> None:
        import torch

        hide_unassigned_gpus()
        torch.set_num_threads(num_threads)
        self._failure = ""
        try:
            source = source.model_copy(update={"files": tuple(map(_on_this_node, source.files))})
            self._classifier = Classifier(source, Predictor(ModelArtifact.load(fetch(artifact))), model_version)
        except MantaError as error:  # Ray would restart a failing worker again and again
            self._failure = f"{error} (Is its folder shared by all nodes?)"

    def __call__(self, chunks: pa.Table) -> pa.Table:
        """Return the part of one chunk as `content`, `counts` (JSON) and `failure` (an error message, or empty).

        The chunk comes as JSON in the column `item`.
        """
        import pyarrow as pa

        content, counts, failure = b"", "", self._failure
        if not failure:
            try:
                content, found = self._classifier.part(Chunk.model_validate_json(chunks.column("item")[0].as_py()))
                counts = found.model_dump_json()
            except MantaError as error:
                failure = str(error)
        return pa.table({"content": pa.array([content], pa.large_binary()), "counts": [counts], "failure": [failure]})


def _on_this_node(file: InputFile) -> InputFile:
    """Return the file, fetched to this node if a submitted job has put it into an object store."""
    path = Path(file.url)
    return file.model_copy(update={"url": str(fetch(path))}) if url_of(path) else file


def answer(rows: InputRows, predictor: Predictor, text_columns: tuple[str, ...]) -> AnswerColumns:
    """Return the model's answer for each valid text and an error for each other row. Equal texts are computed once."""
    errors = [fault or _fault(text, text_columns) for text, fault in zip(rows.texts, rows.faults, strict=True)]
    texts: list[Text] = list(dict.fromkeys(text for text, error in zip(rows.texts, errors, strict=True) if error is None))
    found: dict[Text, Prediction] = dict(zip(texts, predictor.predict(texts), strict=True))
    predictions = [found[text] if error is None else None for text, error in zip(rows.texts, errors, strict=True)]
    return AnswerColumns(
        label=[None if item is None else item.label for item in predictions],
        labels=[None if item is None else list(item.labels) for item in predictions],
        label_set=[None if item is None or item.label_set is None else list(item.label_set) for item in predictions],
        score=[None if item is None else item.score for item in predictions],
        uncertain=[None if item is None else item.uncertain for item in predictions],
        uncertain_reason=[None if item is None else item.uncertain_reason for item in predictions],
        error=errors,
    )


def _fault(text: Any, columns: tuple[str, ...]) -> str | None:
    """Return the reason why a text or a pair cannot be classified; None if it can."""
    for column, part in zip(columns, text if len(columns) == 2 else (text,), strict=True):
        fault = text_fault(part)
        if fault is None and len(part) > MOST_CHARACTERS:
            fault = f"has {len(part):,} characters, more than {MOST_CHARACTERS:,}"
        if fault is not None:
            return f"the text in column {column!r} {fault}" if len(columns) == 2 else f"the text {fault}"
    return None


def _arrow(table: pa.Table, added: pa.Table) -> bytes:
    import pyarrow as pa

    for field_, column in zip(added.schema, added.columns, strict=True):
        table = table.append_column(field_, column)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _json_lines(rows: list[dict[str, Any]], added: pa.Table) -> bytes:
    return b"".join(json_line(row | extra) for row, extra in zip(rows, added.to_pylist(), strict=True))
