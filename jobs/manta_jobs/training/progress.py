"""Progress of a run: workers write it to a small actor; the terminal reads it and shows bars with an ETA."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from manta.console import STATUS_LINES, duration
from manta_jobs.cluster.shared_actor import SharedActor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manta_jobs.training.checkpoints import TrainingState

UPDATE_EVERY_S = 1.0
MUCH_LATER, LATER_S = 1.2, 10.0
"""An estimate of the end is replaced by a later one if the time left grows by this factor and as many seconds."""
MUCH_MORE = 1.02
"""Growth of the work that counts as a reason for a later end."""


@dataclass
class RunProgress:
    """Progress of one run or one trial."""

    total_steps: int
    done_steps: int = 0
    phase: str = "starting"
    num_workers: int = 1
    micro_batch_size: int = 0
    """Rows that a worker computes at a time; 0 before the workers have started."""
    unit: str = "steps"
    """The unit of `total_steps`."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """The metrics of each finished epoch."""
    messages: list[str] = field(default_factory=list)
    """Notices for the user, such as that a worker was lost."""


@dataclass(frozen=True)
class Part:
    """One training within a run: a fold of its cross-validation, or the final training that gives the model."""

    name: str = ""
    """Prefix of the phase that is shown; empty for the final training."""
    num_steps_before: int = 0
    """Optimizer steps of the earlier parts."""
    num_steps: int = 0
    """Optimizer steps of all parts."""


class _Board:
    def __init__(self) -> None:
        self._runs: dict[str, RunProgress] = {}
        self._steps: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._limits: dict[str, int] = {}
        self._wanted: set[str] = set()

    def started(self, name: str, run: RunProgress, after_step: int) -> None:
        before = self._runs.get(name)
        run.messages = before.messages if before else []
        self._runs[name] = run
        self._wanted.discard(name)
        self._steps[name] = [step for step in self._steps[name] if step["step"] <= after_step]

    def update(self, name: str, done_steps: int, phase: str, step: dict[str, Any] | None) -> None:
        run = self._runs[name]
        run.done_steps, run.phase = done_steps, phase
        if step is not None:
            self._steps[name].append(step)

    def epoch_done(self, name: str, metrics: dict[str, Any]) -> None:
        self._runs[name].history.append(metrics)

    def say(self, name: str, message: str) -> None:
        self._runs.setdefault(name, RunProgress(0)).messages.append(message)

    def limit_micro_batch(self, name: str, rows: int) -> None:
        self._limits[name] = rows

    def micro_batch_limit(self, name: str) -> int | None:
        return self._limits.get(name)

    def want_checkpoint(self, name: str) -> None:
        self._wanted.add(name)

    def is_checkpoint_wanted(self, name: str) -> bool:
        return name in self._wanted

    def checkpoint_done(self, name: str) -> None:
        self._wanted.discard(name)

    def micro_batch_size(self, name: str) -> int:
        return self._runs[name].micro_batch_size if name in self._runs else 0

    def steps_after(self, name: str, step: int) -> list[dict[str, Any]]:
        return [record for record in self._steps[name] if record["step"] > step]

    def snapshot(self) -> dict[str, RunProgress]:
        return self._runs


class Board(SharedActor):
    """Handle of the actor that holds the progress of every run of a job."""

    def __init__(self) -> None:
        super().__init__(_Board)

    def started(self, name: str, run: RunProgress, *, after_step: int) -> None:
        """Record that a run's workers have started, or restarted, and continue after an optimizer step.

        Records of later steps are dropped. The board is up to date when this returns.
        """
        self.ask("started", name, run, after_step)

    def update(self, name: str, *, done_steps: int, phase: str, step: dict[str, Any] | None = None) -> None:
        """Record the progress of a run, with the record of a step if there is one. Does not wait."""
        self.tell("update", name, done_steps, phase, step)

    def epoch_done(self, name: str, metrics: dict[str, Any]) -> None:
        """Add the metrics of a finished epoch. They are stored when this returns."""
        self.ask("epoch_done", name, metrics)

    def say(self, name: str, message: str) -> None:
        """Add a message for the user about a run."""
        self.ask("say", name, message)

    def limit_micro_batch(self, name: str, rows: int) -> None:
        """Limit the micro-batch of the run's workers to `rows` rows, from their next start on."""
        self.ask("limit_micro_batch", name, rows)

    def micro_batch_limit(self, name: str) -> int | None:
        """Return the limit that `limit_micro_batch` set; None without one."""
        limit: int | None = self.ask("micro_batch_limit", name)
        return limit

    def want_checkpoint(self, name: str) -> None:
        """Ask a run's workers for a checkpoint at their next look."""
        self.ask("want_checkpoint", name)

    def is_checkpoint_wanted(self, name: str) -> bool:
        """Tell whether a run's workers should save, and have not yet."""
        return bool(self.ask("is_checkpoint_wanted", name))

    def checkpoint_done(self, name: str) -> None:
        """Record that a wanted checkpoint is on disk."""
        self.ask("checkpoint_done", name)

    def micro_batch_size(self, name: str) -> int:
        """Return the rows that each worker of a run computes at a time; 0 before they have started."""
        rows: int = self.ask("micro_batch_size", name)
        return rows

    def steps_after(self, name: str, step: int) -> list[dict[str, Any]]:
        """Return the records of all steps after `step`; empty while the cluster is being stopped."""
        steps: list[dict[str, Any]] = self.ask_or([], "steps_after", name, step)
        return steps

    def history(self, name: str) -> list[dict[str, Any]]:
        """Return the metrics of a run's finished epochs; empty before its workers have started."""
        run = self.snapshot().get(name)
        return run.history if run else []

    def snapshot(self) -> dict[str, RunProgress]:
        """Return the current progress by run name; empty while the cluster is being stopped."""
        runs: dict[str, RunProgress] = self.ask_or({}, "snapshot")
        return runs


class StepReporter:
    """Reporter of a training's progress to the board. Only rank 0 reports; the other ranks send nothing."""

    def __init__(
        self,
        board: Board,
        name: str,
        *,
        state: TrainingState,
        num_steps: int,
        part: Part,
        num_epochs: int,
        rank: int,
        world_size: int,
        micro_batch_size: int,
    ) -> None:
        self._board = board if rank == 0 else None
        self._name, self._part = name, part
        self._steps_per_epoch = num_steps / num_epochs
        self._last = (time.monotonic(), state.step)
        if self._board is not None:
            done = part.num_steps_before + state.step
            run = RunProgress(
                part.num_steps, done, num_workers=world_size, micro_batch_size=micro_batch_size, history=list(state.history)
            )
            self._board.started(name, run, after_step=state.step)

    def step(self, state: TrainingState, *, loss: float | None, learning_rate: float, grad_norm: float, batch_size: int) -> None:
        """Record an optimizer step: the mean loss since the last record, and the speed.

        If all steps since then were skipped, `loss` is None, and only the position is recorded.
        """
        now = time.monotonic()
        seconds, steps = now - self._last[0], state.step - self._last[1]
        self._last = (now, state.step)
        record = {
            "step": state.step,
            "epoch": state.step / self._steps_per_epoch,
            "loss": loss,
            "learning_rate": learning_rate,
            "grad_norm": grad_norm if math.isfinite(grad_norm) else None,
            "skipped_steps": state.skipped_steps,
            "examples_per_s": steps * batch_size / max(seconds, 1e-9),
        }
        self._send(state, f"epoch {state.epoch + 1}", None if loss is None else record)

    def evaluating(self, state: TrainingState) -> None:
        """Record that the epoch's steps are done and validation begins."""
        self._send(state, f"validating epoch {state.epoch + 1}")

    def epoch_done(self, metrics: dict[str, Any]) -> None:
        """Pass on an epoch's metrics, except those of a fold."""
        self._last = (time.monotonic(), self._last[1])
        if self._board is not None and not self._part.name:
            self._board.epoch_done(self._name, metrics)

    def _send(self, state: TrainingState, phase: str, record: dict[str, Any] | None = None) -> None:
        if self._board is not None:
            done = self._part.num_steps_before + state.step
            self._board.update(self._name, done_steps=done, phase=self._part.name + phase, step=None if self._part.name else record)


@contextmanager
def shown_progress(board: Board, console: Console, *, num_epochs: int) -> Iterator[None]:
    """Show the single run on the board while the body runs: as a bar in a terminal, else as a line now and then."""
    stop = threading.Event()
    show = _show_bar if console.is_terminal else _show_lines
    thread = threading.Thread(target=show, args=(board, console, num_epochs, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)


class Countdown:
    """Estimate of the time left, from the work done so far in any unit. It counts down; where it has to rise, it says why."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None
        """Time and work done at the first call, or at the last restart."""
        self._ends = math.inf
        self._total = 0.0
        self._reason = ""

    def phrase(self, *, done: float, left: float, now: float, most_s: float | None = None) -> str:
        """Return the estimate at time `now`, such as `ETA 2 min 05 s`. `most_s` is the time left until a limit."""
        if left <= 0:
            return "all steps are done"
        if self._first is None or done < self._first[1]:
            self._first, self._ends = (now, done), math.inf
        passed, new = now - self._first[0], done - self._first[1]
        if new <= 0 or passed <= 0:
            return "ETA after the first steps"
        remaining = left / new * passed
        self._keep(now + (remaining if most_s is None else min(remaining, max(0.0, most_s))), now=now, total=done + left)
        return f"ETA {duration(max(0.0, self._ends - now))}{self._reason}"

    def _keep(self, ends: float, *, now: float, total: float) -> None:
        """Take an earlier end. Take a later one only if it is much later, with the reason."""
        if ends <= self._ends:
            self._ends, self._reason = ends, ""
        elif ends - now > MUCH_LATER * max(0.0, self._ends - now) + LATER_S:
            why = "more is left than expected" if total > MUCH_MORE * self._total else "steps take longer than before"
            self._ends, self._reason = ends, f" (later than said: {why})"
        else:
            return
        self._total = total


class News:
    """New lines about a run: each finished epoch once, and messages."""

    def __init__(self, num_epochs: int) -> None:
        self._num_epochs = num_epochs
        self._epoch, self._messages = 0, 0

    def since_last(self, run: RunProgress) -> list[str]:
        """Return the lines that are new since the last call."""
        lines = [f"[yellow]{message}[/]" for message in run.messages[self._messages :]]
        self._messages = len(run.messages)
        new = [metrics for metrics in run.history if metrics["epoch"] > self._epoch]
        self._epoch += len(new)
        return lines + [epoch_line(metrics, self._num_epochs) for metrics in new]


def _only_run(board: Board) -> RunProgress | None:
    return next(iter(board.snapshot().values()), None)


def _show_bar(board: Board, console: Console, num_epochs: int, stop: threading.Event) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[steps]}"), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[eta]}"), console=console) as bars:
        task: TaskID = bars.add_task("starting workers", total=None, steps="", eta="")
        news, countdown, stopped = News(num_epochs), Countdown(), False
        while not stopped:
            stopped = stop.wait(UPDATE_EVERY_S)
            run = _only_run(board)
            if run is None:
                continue
            if run.total_steps:
                bars.update(
                    task,
                    description=phase_phrase(run, num_epochs),
                    completed=run.done_steps,
                    total=run.total_steps,
                    steps=steps_phrase(run),
                    eta=_eta(run, countdown),
                )
            for line in news.since_last(run):
                bars.console.print(line)


def _show_lines(board: Board, console: Console, num_epochs: int, stop: threading.Event) -> None:
    news, countdown, started = News(num_epochs), Countdown(), time.monotonic()
    stopped = False
    while not stopped:
        stopped = stop.wait(UPDATE_EVERY_S)
        run = _only_run(board)
        said = "Starting workers …"
        if run is not None and run.total_steps:
            said = f"{phase_phrase(run, num_epochs)}: {steps_phrase(run)}, {_eta(run, countdown)}"
        for line in news.since_last(run) if run is not None else ():
            console.print(line)
        if not stopped and STATUS_LINES.is_due(since=started):
            console.print(said)


def phase_phrase(run: RunProgress, num_epochs: int) -> str:
    """Return what a run is doing, such as `epoch 2 of 5`."""
    return f"{run.phase} of {num_epochs}" if "epoch" in run.phase else run.phase


def steps_phrase(run: RunProgress) -> str:
    """Return the steps done, such as `30/90 steps`."""
    return f"{run.done_steps}/{run.total_steps} {run.unit}"


def _eta(run: RunProgress, countdown: Countdown) -> str:
    return countdown.phrase(done=run.done_steps, left=run.total_steps - run.done_steps, now=time.monotonic())


def epoch_line(metrics: dict[str, Any], num_epochs: int) -> str:
    """Return one line about a finished epoch."""
    return (
        f"epoch {metrics['epoch']}/{num_epochs}: training loss {metrics['train_loss']:.4f}, validation loss {metrics['loss']:.4f}, "
        f"accuracy {metrics['accuracy']:.4f}, macro F1 {metrics['f1_macro']:.4f}, {metrics['examples_per_s']:.0f} examples/s"
    )
