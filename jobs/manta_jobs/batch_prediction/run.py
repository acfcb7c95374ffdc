"""`manta predict` from the command to OUT: check, plan, classify, save each chunk, join.

This process classifies a few thousand rows by itself, sooner than a cluster would have started. For more rows, Ray Data sends
chunks, which are a few numbers each, to a pool of workers with one model each. Workers read the rows themselves and return finished
parts. So no row waits in the object store, and memory use does not grow with the input.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections import Counter
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from manta.console import working
from manta.errors import InputError, RunError
from manta.inference.artifact import MANIFEST_FILE, ModelArtifact
from manta.inference.formats import WEIGHTS_FILE
from manta.registry.models import find_model
from manta.storage.object_store import store
from manta.texts import wrong_kind_sentence
from manta_jobs.batch_prediction.destination import Destination
from manta_jobs.batch_prediction.join import join
from manta_jobs.batch_prediction.locate import locate
from manta_jobs.batch_prediction.partial import PartialOutput, Task, opened
from manta_jobs.batch_prediction.plan import Plan, list_columns_of, make_plan
from manta_jobs.batch_prediction.result import BatchResult
from manta_jobs.batch_prediction.view import shown_rows
from manta_jobs.batch_prediction.workers import core_remarks_in, finished_parts, fit_pool, parts_made_here
from manta_jobs.cluster.connection import connected, needs_no_cluster, present_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from rich.console import Console

MOST_CHUNKS_HERE = 4
"""Most chunks that this process classifies by itself where no cluster is named. Starting Ray takes as long as thousands of rows."""


def predict(
    model: str,
    source: str,
    *,
    out: Path,
    text_columns: Sequence[str] | None = None,
    overwrite: bool,
    console: Console,
    address: str | None = None,
) -> BatchResult:
    """Classify every row of `source` with a registered model (`NAME`, `NAME@VERSION`) or a model folder, and write OUT.

    `text_columns` are those of the training unless given. An interrupted attempt is resumed. `overwrite` replaces an existing OUT.

    Raises:
        InputError: the model, the input or OUT is not valid; nothing was written.
        RunError: the input changed or broke while it was read, a worker failed, or the disk is full. Finished rows are kept.
    """
    started = time.monotonic()
    destination = Destination(out.expanduser().absolute())
    with working(console, f"Looking up {model}"):
        artifact, version = find_model(model)
    text_columns = text_columns or trained_columns(artifact)
    _check_columns(artifact, text_columns, model=model)
    kind, files = locate(source)
    destination.check(source, files, overwrite=overwrite)
    task = Task(
        files=files,
        text_columns=tuple(text_columns),
        model_sha256=_manifest_sha256(artifact),
        model_version=model_version(artifact, version),
    )

    def plan() -> Plan:
        with working(console, f"Reading {source}"):
            return make_plan(kind, files, text_columns=text_columns, list_columns=list_columns_of(artifact.manifest))

    with opened(destination.partial, task, make_plan=plan, start_again=overwrite) as partial:
        for note in partial.plan.source.notes:
            console.print(note, markup=False)
        num_resumed = sum(counts.num_rows for counts in partial.finished.values())
        rows_per_s = None
        if destination.is_in_place:
            shutil.rmtree(partial.path)
        else:
            with _resumable(partial, console):
                rows_per_s = _classify(partial, artifact, task, console=console, address=address)
                if locate(source)[1] != files:
                    raise InputError(f"{source}: changed while it was read; start again with --overwrite.")
                with working(console, f"Writing {destination.path}"):
                    joined = join(partial, destination.kind(kind), as_folder=destination.is_folder)
                    partial.put_in_place(joined, destination.path)
    finished = partial.finished.values()
    return BatchResult(
        out=destination.path,
        num_rows=partial.plan.num_rows,
        num_resumed=num_resumed,
        num_errors=sum(counts.num_errors for counts in finished),
        num_uncertain=sum(counts.num_uncertain for counts in finished),
        num_out_of_scope=sum(counts.num_out_of_scope for counts in finished),
        labels=sum((Counter(counts.labels) for counts in finished), Counter[str]()),
        error_column=partial.plan.source.added_columns["error"],
        rows_per_s=rows_per_s,
        wall_s=time.monotonic() - started,
        model_version=task.model_version,
        artifact=artifact.path,
    )


def model_version(artifact: ModelArtifact, version: int | None) -> str:
    """Return the model's version: `NAME@VERSION` if it is registered.

    For a folder, return `NAME@sha256:` and the first 12 digits of the manifest's hash.
    """
    return f"{artifact.manifest.name}@{version if version is not None else 'sha256:' + _manifest_sha256(artifact)[:12]}"


def _manifest_sha256(artifact: ModelArtifact) -> str:
    return hashlib.sha256((artifact.path / MANIFEST_FILE).read_bytes()).hexdigest()


@contextmanager
def _resumable(partial: PartialOutput, console: Console) -> Iterator[None]:
    """Say what is kept and how to resume, if the body is interrupted or fails."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(f"Stopping. {_kept(partial)}")
        raise
    except OSError as error:
        raise RunError(f"{partial.path}: cannot be written ({error.strerror or error}). {_kept(partial)}") from error
    except RunError as error:
        raise RunError(f"{error} {_kept(partial)}") from error


def _classify(
    partial: PartialOutput, artifact: ModelArtifact, task: Task, *, console: Console, address: str | None
) -> float | None:
    pending = partial.pending
    num_done = sum(counts.num_rows for counts in partial.finished.values())
    num_rows = partial.plan.num_rows
    if num_done:
        console.print(f"Going on with {partial.path}: {num_done:,} of {num_rows:,} rows are done.")
    if not pending:
        return None
    began: float | None = None
    weights_bytes = (artifact.path / WEIGHTS_FILE).stat().st_size
    is_here = len(pending) <= MOST_CHUNKS_HERE and needs_no_cluster(address, num_workers=1)
    with (
        nullcontext() if is_here else connected(address, num_workers=1),
        core_remarks_in(partial.path / "ray.log"),
        shown_rows(console, num_done=num_done, num_rows=num_rows) as advance,
    ):
        store(artifact.path)
        pool = fit_pool(present_cluster().nodes, num_chunks=1 if is_here else len(pending), weights_bytes=weights_bytes)
        parts = parts_made_here if is_here else finished_parts
        for content, counts in parts(partial, pool, artifact=artifact.path, model_version=task.model_version):
            began = began or time.monotonic() - counts.seconds
            partial.add(content, counts)
            advance(counts.num_rows)
        seconds = time.monotonic() - (began or 0.0)
    if partial.pending:
        raise RunError(f"{len(partial.pending)} chunks did not come back from the cluster.")
    return (num_rows - num_done) / seconds


def _kept(partial: PartialOutput) -> str:
    num_done = sum(counts.num_rows for counts in partial.finished.values())
    return f"{num_done:,} of {partial.plan.num_rows:,} rows are kept in {partial.path}; the same command goes on from there."


def trained_columns(artifact: ModelArtifact) -> list[str]:
    """Return the text columns of the training rows; `text` if they had positions instead of names, or nothing is known of them."""
    own = artifact.manifest.config.get("data", {}).get("text", "text")
    columns = own if isinstance(own, list) else [own]
    return [name for name in columns if isinstance(name, str)] or ["text"]


def _check_columns(artifact: ModelArtifact, text_columns: Sequence[str], *, model: str) -> None:
    num_texts = artifact.manifest.num_texts
    if len(text_columns) != num_texts:
        times = "once" if num_texts == 1 else "twice, a column each"
        raise InputError(f"{model}: {wrong_kind_sentence(num_texts)}: give --text {times}.")
    if len(set(text_columns)) < len(text_columns):
        raise InputError(f"--text {text_columns[0]} is given twice; a pair has two columns.")
