"""The live table of a search: every trial's values and progress, and the leading trial."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.markup import escape

from manta.console import duration, people_table
from manta_jobs.tuning.confirm import num_confirming, ranked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.table import Table

    from manta.config import ExperimentConfig
    from manta_jobs.training.progress import Board, RunProgress
    from manta_jobs.tuning.journal import Trial
    from manta_jobs.tuning.trial_queue import TrialQueue

REFRESH_EVERY_S = 1.0
MOST_ROWS = 20


class SearchView:
    """Display of a running search: a table in a terminal, and a line for each event elsewhere."""

    def __init__(self, config: ExperimentConfig, queue: TrialQueue, board: Board, console: Console) -> None:
        self._config, self._queue, self._board, self._console = config, queue, board, console
        self._started = time.monotonic()
        self._seen: dict[str, tuple[int, str]] = {}
        self._num_messages: dict[str, int] = {}
        self._num_ended_before: int | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the search's progress while the body runs."""
        budget, confirming = self._config.tune.budget, num_confirming(self._config)
        limits = [f"{budget.num_trials} trials"]
        limits += [f"at most {duration(budget.wall_clock_s)}"] if budget.wall_clock_s else []
        limits += [f"at most {budget.worker_hours:g} worker hours"] if budget.worker_hours else []
        limits += [f"then up to {confirming} runs with other seeds"] if confirming else []
        self._console.print(f"Searching {', '.join(self._config.tune.searched)}: {', '.join(limits)}")
        stop = threading.Event()
        thread = threading.Thread(target=self._follow, args=(stop,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=5)

    def _follow(self, stop: threading.Event) -> None:
        if not self._console.is_terminal:
            stopped = False
            while not stopped:
                stopped = stop.wait(REFRESH_EVERY_S)
                for line in self._news(self._queue.snapshot(), self._board.snapshot()):
                    self._console.print(line)
            return
        with Live(console=self._console, auto_refresh=False) as live:
            stopped = False
            while not stopped:
                stopped = stop.wait(REFRESH_EVERY_S)
                trials, progress = self._queue.snapshot(), self._board.snapshot()
                for line in self._messages(progress):
                    live.console.print(line)
                live.update(self._table(trials, progress), refresh=True)

    def _news(self, trials: dict[str, Trial], progress: dict[str, RunProgress]) -> list[str]:
        """Return a line for each trial that started, finished an epoch or ended since the last call."""
        lines = self._messages(progress)
        metric = self._config.train.metric
        for name, trial in trials.items():
            epochs, status = self._seen.get(name, (0, ""))
            if not status:
                lines.append(f"{name}: {values_phrase(trial.values)}")
            for epoch in trial.history[epochs:]:
                lines.append(f"{name}: epoch {epoch['epoch']}, validation {metric} {epoch[metric]:.4f}")
            if trial.status not in ("running", status):
                reason = f" ({escape(trial.reason)})" if trial.reason else ""
                lines.append(f"{name}: {trial.status}{reason}; {self._eta(trials)}")
            self._seen[name] = (len(trial.history), trial.status)
        return lines

    def _messages(self, progress: dict[str, RunProgress]) -> list[str]:
        lines: list[str] = []
        for name, run in progress.items():
            known = self._num_messages.get(name, 0)
            lines += [f"[yellow]{name}: {escape(message)}[/]" for message in run.messages[known:]]
            self._num_messages[name] = len(run.messages)
        return lines

    def _table(self, trials: dict[str, Trial], progress: dict[str, RunProgress]) -> Table:
        metric, space = self._config.train.metric, self._config.tune.searched
        leader = next(iter(ranked(list(trials.values()), self._config)), None)
        num_ended = sum(trial.status != "running" for trial in trials.values())
        title = f"{num_ended} of {self._num_planned()} runs · {self._eta(trials)}"
        table = people_table("", *(name.rsplit(".", 1)[-1] for name in space), "status", "epochs", metric, title=title)
        for name, trial in list(trials.items())[-MOST_ROWS:]:
            score = trial.score(self._config)
            cells = [name, *(short(trial.values[field]) for field in space), status_phrase(trial, progress.get(name))]
            cells += [str(len(trial.history)), "" if score is None else f"{score:.4f}"]
            table.add_row(*cells, style=_style(trial, is_best=leader is not None and name == leader.name))
        return table

    def _num_planned(self) -> int:
        return self._config.tune.budget.num_trials + num_confirming(self._config)

    def _eta(self, trials: dict[str, Trial]) -> str:
        ended = sum(trial.status != "running" for trial in trials.values())
        if self._num_ended_before is None:
            self._num_ended_before = ended  # these ended before a restart and took no time since
        new = ended - self._num_ended_before
        if not new:
            return "ETA after the next trial"
        remaining = (time.monotonic() - self._started) / new * max(0, self._num_planned() - ended)
        return f"ETA {duration(remaining)}"


def status_phrase(trial: Trial, progress: RunProgress | None) -> str:
    """Return a trial's status, with its steps while it trains and the reason if it failed."""
    if trial.status == "failed":
        return f"failed: {escape(trial.reason or '')}"
    if trial.status != "running":
        return trial.status
    return f"training {progress.done_steps}/{progress.total_steps}" if progress and progress.total_steps else "waiting"


def values_phrase(values: dict[str, Any]) -> str:
    """Return searched values in a line, such as `learning_rate 0.0003, dropout 0.12`."""
    return ", ".join(f"{name.rsplit('.', 1)[-1]} {short(value)}" for name, value in values.items())


def short(value: Any) -> str:
    """Return a value in few characters."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _style(trial: Trial, *, is_best: bool) -> str:
    if trial.status == "failed":
        return "red"
    if is_best:
        return "green"
    return "dim" if trial.status in ("stopped early", "not run") else ""
