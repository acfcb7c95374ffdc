"""Measurements that need the model itself: logits, latency and behaviour tests, on one node of the cluster."""

from __future__ import annotations

import time
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from manta.cluster.gpus import hide_unassigned_gpus
from manta.console import STATUS_LINES
from manta.inference.artifact import ModelArtifact
from manta.storage.object_store import fetch, store
from manta_jobs.cluster.connection import OneNode
from manta_jobs.training.progress import UPDATE_EVERY_S, Board, Countdown, RunProgress

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from rich.console import Console

    from manta.behaviour.run import Suite, SuiteResult
    from manta.inference.predictor import Predictor
    from manta.labels import Floats
    from manta.texts import Text

NUM_WARM_UPS = 3
MOST_SINGLE_TEXTS = 200
MOST_SINGLE_S = 10.0
SHOWN_AFTER_S = 3.0
RUN = "evaluation"


@dataclass(frozen=True)
class Latency:
    """Speed of the answers, including tokenization."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    """Percentiles (50, 90, 99) of single texts, one after another."""
    num_texts: int
    """Number of single texts that were timed."""
    rows_per_s: float
    """Throughput of all rows at once, in batches."""
    device: str
    num_threads: int


@dataclass(frozen=True)
class Measurement:
    """Measurements that the cluster returned."""

    logits: Floats
    latency: Latency
    behaviour: SuiteResult | None
    out_of_scope: float | None = None
    """Share of the rows that are out of scope; None if the model has no scope."""


def measure_on_cluster(artifact: ModelArtifact, texts: Sequence[Text], *, suite: Suite | None, console: Console) -> Measurement:
    """Compute every row and every behaviour test on one node, with a GPU if there is any, and show progress."""
    node = OneNode()
    store(artifact.path)
    board = Board()
    board.started(RUN, RunProgress(len(texts), phase="rows"), after_step=0)
    result = node.start(_measure, artifact.path, texts, suite, node.num_threads, board)
    show = _show_bar if console.is_terminal else _show_lines
    show(result, board, console)
    return result.result()


def _measure(path: Path, texts: Sequence[Text], suite: Suite | None, num_threads: int, board: Board) -> Measurement:
    """Measure in this process, as the task on the cluster."""
    import torch

    from manta.behaviour.run import run_suite
    from manta.inference.predictor import Predictor

    hide_unassigned_gpus()
    torch.set_num_threads(num_threads)
    predictor = Predictor(ModelArtifact.load(fetch(path)))
    _warm_up(predictor, texts)
    report = _Report(board)
    started = time.perf_counter()
    outputs = predictor.outputs(texts, on_rows_done=report.rows_done)
    rows_per_s = len(texts) / (time.perf_counter() - started)
    board.update(RUN, done_steps=len(texts), phase="single texts")
    latency = _latency(predictor, texts, rows_per_s=rows_per_s, num_threads=num_threads)
    board.update(RUN, done_steps=len(texts), phase="behaviour tests")
    behaviour = None if suite is None else run_suite(suite, predictor, texts=texts)
    scope = predictor.artifact.manifest.scope
    out_of_scope = None if scope is None else float(scope.is_out(outputs[:, -1]).mean())
    return Measurement(outputs[:, : len(predictor.labels.names)], latency, behaviour, out_of_scope)


class _Report:
    """Sends the number of finished rows to the board, at most twice per screen update."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._done, self._last = 0, time.monotonic()

    def rows_done(self, count: int) -> None:
        self._done += count
        if time.monotonic() - self._last >= UPDATE_EVERY_S / 2:
            self._last = time.monotonic()
            self._board.update(RUN, done_steps=self._done, phase="rows")


def _warm_up(predictor: Predictor, texts: Sequence[Text]) -> None:
    for text in texts[:NUM_WARM_UPS]:
        predictor.logits([text])


def _latency(predictor: Predictor, texts: Sequence[Text], *, rows_per_s: float, num_threads: int) -> Latency:
    """Time single texts, taken evenly from all of them, for at most ten seconds."""
    picked = np.unique(np.linspace(0, len(texts) - 1, MOST_SINGLE_TEXTS).astype(int))
    order = np.random.default_rng(0).permutation(picked)  # so that the time limit does not favor the first rows
    until, times = time.perf_counter() + MOST_SINGLE_S, []
    for row in order:
        started = time.perf_counter()
        predictor.predict([texts[row]])
        times.append(1e3 * (time.perf_counter() - started))
        if time.perf_counter() > until:
            break
    p50, p90, p99 = (float(value) for value in np.percentile(times, [50, 90, 99]))
    return Latency(p50, p90, p99, len(times), rows_per_s, _device_name(predictor.device), num_threads)


def _device_name(device: torch.device) -> str:
    """Return the model name of the GPU or CPU."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "CPU"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")


def _waits(result: Future[Measurement]) -> bool:
    return not wait([result], timeout=UPDATE_EVERY_S).done


def _show_bar(result: Future[Measurement], board: Board, console: Console) -> None:
    columns = (TextColumn("Evaluating {task.description}"), BarColumn(), TextColumn("{task.completed:,}/{task.total:,}"))
    until = time.monotonic() + SHOWN_AFTER_S
    while _waits(result):
        if time.monotonic() > until:
            break
    else:
        return
    with Progress(*columns, TextColumn("ETA"), TimeRemainingColumn(), console=console, transient=True) as bars:
        bar = bars.add_task("rows", total=board.snapshot()[RUN].total_steps)
        while _waits(result):
            run = board.snapshot().get(RUN)
            if run is not None:
                bars.update(bar, description=run.phase, completed=run.done_steps)


def _show_lines(result: Future[Measurement], board: Board, console: Console) -> None:
    started, countdown = time.monotonic(), Countdown()
    while _waits(result):
        run = board.snapshot().get(RUN)
        if run is None:
            continue
        eta = countdown.phrase(done=run.done_steps, left=run.total_steps - run.done_steps, now=time.monotonic())
        if STATUS_LINES.is_due(since=started):
            rows = f" {run.done_steps:,}/{run.total_steps:,}, {eta}" if run.phase == "rows" and run.done_steps else " …"
            console.print(f"Evaluating {run.phase}:{rows}")
