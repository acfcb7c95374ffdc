"""How far a run is: workers write to a small actor, the terminal reads from it and shows bars with an ETA."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray.util.placement_group import PlacementGroup

UPDATE_EVERY_S = 0.5
PLAIN_LINE_EVERY_S = 15.0


@dataclass
class RunProgress:
    """What is known of one run, or one trial."""

    total_steps: int
    done_steps: int = 0
    phase: str = "training"
    history: list[dict[str, Any]] = field(default_factory=list)
    """The metrics of each finished epoch."""
    placement_group: PlacementGroup | None = None
    """What holds the resources of its workers."""


class _Board:
    def __init__(self) -> None:
        self._runs: dict[str, RunProgress] = {}

    def started(self, name: str, total_steps: int, placement_group: PlacementGroup | None) -> None:
        self._runs[name] = RunProgress(total_steps, placement_group=placement_group)

    def update(self, name: str, done_steps: int, phase: str) -> None:
        run = self._runs[name]
        run.done_steps, run.phase = done_steps, phase

    def epoch_done(self, name: str, metrics: dict[str, Any]) -> None:
        self._runs[name].history.append(metrics)

    def snapshot(self) -> dict[str, RunProgress]:
        return self._runs


class Board:
    """Handle of the actor that holds the progress of every run of a job; workers and the driver share it."""

    def __init__(self) -> None:
        self._actor: Any = ray.remote(num_cpus=0)(_Board).remote()

    def started(self, name: str, *, total_steps: int, placement_group: PlacementGroup | None) -> None:
        """Say that a run's workers are up; it is known when this returns."""
        ray.get(self._actor.started.remote(name, total_steps, placement_group))

    def update(self, name: str, *, done_steps: int, phase: str) -> None:
        """Say how far a run is. Does not wait."""
        self._actor.update.remote(name, done_steps, phase)

    def epoch_done(self, name: str, metrics: dict[str, Any]) -> None:
        """Add the metrics of a finished epoch; they are there when this returns."""
        ray.get(self._actor.epoch_done.remote(name, metrics))

    def snapshot(self) -> dict[str, RunProgress]:
        """What is known now, by run name; nothing while the cluster is being stopped."""
        try:
            runs: dict[str, RunProgress] = ray.get(self._actor.snapshot.remote())
        except ray.exceptions.RayError:
            return {}
        return runs


class StepReporter:
    """Rank 0's voice: it says how far the run is, at most twice a second. The other ranks say nothing."""

    def __init__(self, board: Board, name: str, *, num_epochs: int, num_steps: int, rank: int) -> None:
        self._board = board if rank == 0 else None
        self._name = name
        self._done = 0
        self._last = 0.0
        if self._board is not None:
            group = ray.util.get_current_placement_group()
            self._board.started(name, total_steps=num_epochs * num_steps, placement_group=group)

    def step(self, epoch: int) -> None:
        """Count one optimizer step."""
        self._done += 1
        now = time.monotonic()
        if now - self._last >= UPDATE_EVERY_S:
            self._last = now
            self._send(f"epoch {epoch + 1}")

    def evaluating(self, epoch: int) -> None:
        """Say that the epoch's steps are done and the validation rows are next."""
        self._send(f"validating epoch {epoch + 1}")

    def epoch_done(self, metrics: dict[str, Any]) -> None:
        """Pass on an epoch's metrics."""
        if self._board is not None:
            self._board.epoch_done(self._name, metrics)

    def _send(self, phase: str) -> None:
        if self._board is not None:
            self._board.update(self._name, done_steps=self._done, phase=phase)


@contextmanager
def shown_progress(board: Board, console: Console, *, num_epochs: int) -> Iterator[None]:
    """Show the one run on the board while the body runs: a bar in a terminal, a line now and then elsewhere."""
    stop = threading.Event()
    show = _show_bar if console.is_terminal else _show_lines
    thread = threading.Thread(target=show, args=(board, console, num_epochs, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)


def _only_run(board: Board) -> RunProgress | None:
    return next(iter(board.snapshot().values()), None)


def _show_bar(board: Board, console: Console, num_epochs: int, stop: threading.Event) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} steps"))
    with Progress(*columns, TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(), console=console) as bars:
        task: TaskID = bars.add_task("starting workers", total=None)
        printed, stopped = 0, False
        while not stopped:
            stopped = stop.wait(UPDATE_EVERY_S)
            run = _only_run(board)
            if run is None:
                continue
            bars.update(task, description=f"{run.phase} of {num_epochs}", completed=run.done_steps, total=run.total_steps)
            for metrics in run.history[printed:]:
                bars.console.print(epoch_line(metrics, num_epochs))
                printed += 1


def _show_lines(board: Board, console: Console, num_epochs: int, stop: threading.Event) -> None:
    printed, last = 0, 0.0
    started: tuple[float, int] | None = None
    stopped = False
    while not stopped:
        stopped = stop.wait(UPDATE_EVERY_S)
        run = _only_run(board)
        if run is None:
            continue
        now = time.monotonic()
        started = started or (now, run.done_steps)
        for metrics in run.history[printed:]:
            console.print(epoch_line(metrics, num_epochs))
            printed += 1
        if now - last >= PLAIN_LINE_EVERY_S and run.done_steps > started[1]:
            remaining_s = (now - started[0]) / (run.done_steps - started[1]) * (run.total_steps - run.done_steps)
            console.print(f"{run.phase} of {num_epochs}: {run.done_steps}/{run.total_steps} steps, ETA {duration(remaining_s)}")
            last = now


def epoch_line(metrics: dict[str, Any], num_epochs: int) -> str:
    """One finished epoch in a line."""
    return (
        f"epoch {metrics['epoch']}/{num_epochs}: training loss {metrics['train_loss']:.4f}, validation loss {metrics['loss']:.4f}, "
        f"accuracy {metrics['accuracy']:.4f}, macro F1 {metrics['f1_macro']:.4f}, {metrics['examples_per_s']:.0f} examples/s"
    )


def duration(seconds: float) -> str:
    """Seconds as people say them, such as `2 min 05 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def stderr_console() -> Console:
    """The console everything meant for people goes to; stdout is kept for `--json`."""
    return Console(file=sys.stderr, highlight=False, soft_wrap=True)
