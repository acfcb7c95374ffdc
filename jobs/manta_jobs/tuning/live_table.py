"""The live table of a search: every trial's values and progress, and the leading trial."""

from __future__ import annotations

import statistics
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.markup import escape

from manta.console import STATUS_LINES, people_table
from manta_jobs.training.progress import Countdown, steps_phrase
from manta_jobs.tuning.confirm import num_confirming, ranked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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

    def __init__(
        self,
        config: ExperimentConfig,
        queue: TrialQueue,
        board: Board,
        console: Console,
        *,
        seconds_left: Callable[[], float | None],
    ) -> None:
        """Prepare the display. `seconds_left` returns the time until training must end; None without a limit."""
        self._config, self._queue, self._board, self._console = config, queue, board, console
        self._seconds_left = seconds_left
        self._countdown = Countdown()
        self._seen: dict[str, tuple[int, str]] = {}
        self._num_messages: dict[str, int] = {}

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the search's progress while the body runs."""
        self._console.print(f"Searching {', '.join(self._config.tune.searched)}")
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
            self._follow_in_lines(stop)
            return
        with Live(console=self._console, auto_refresh=False) as live:
            stopped = False
            while not stopped:
                stopped = stop.wait(REFRESH_EVERY_S)
                trials, progress = self._queue.snapshot(), self._board.snapshot()
                for line in self._messages(progress):
                    live.console.print(line)
                live.update(self._table(trials, progress), refresh=True)

    def _follow_in_lines(self, stop: threading.Event) -> None:
        started, stopped = time.monotonic(), False
        while not stopped:
            stopped = stop.wait(REFRESH_EVERY_S)
            trials, progress = self._queue.snapshot(), self._board.snapshot()
            for line in self._news(trials, progress):
                self._console.print(line)
            if not stopped and STATUS_LINES.is_due(since=started):
                work = remaining_work(trials, progress, self._config)
                self._console.print(f"{work.num_ended} of {work.num_runs} runs are done, {self._eta(work)}")

    def _news(self, trials: dict[str, Trial], progress: dict[str, RunProgress]) -> list[str]:
        """Return a line for each trial that started, finished an epoch or ended since the last call."""
        lines, eta = self._messages(progress), self._eta(remaining_work(trials, progress, self._config))
        metric = self._config.train.metric
        for name, trial in trials.items():
            epochs, status = self._seen.get(name, (0, ""))
            if not status:
                lines.append(f"{name}: {values_phrase(trial.values)}")
            for epoch in trial.history[epochs:]:
                lines.append(f"{name}: epoch {epoch['epoch']}, validation {metric} {epoch[metric]:.4f}")
            if trial.status not in ("running", status):
                reason = f" ({escape(trial.reason)})" if trial.reason else ""
                lines.append(f"{name}: {trial.status}{reason}; {eta}")
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
        work = remaining_work(trials, progress, self._config)
        title = f"{work.num_ended} of {work.num_runs} runs · {self._eta(work)}"
        table = people_table("", *(name.rsplit(".", 1)[-1] for name in space), "status", "epochs", metric, title=title)
        for name, trial in list(trials.items())[-MOST_ROWS:]:
            score = trial.score(self._config)
            cells = [name, *(short(trial.values[field]) for field in space), status_phrase(trial, progress.get(name))]
            cells += [str(len(trial.history)), "" if score is None else f"{score:.4f}"]
            table.add_row(*cells, style=_style(trial, is_best=leader is not None and name == leader.name))
        return table

    def _eta(self, work: Work) -> str:
        return self._countdown.phrase(done=work.done, left=work.left, now=time.monotonic(), most_s=self._seconds_left())


@dataclass(frozen=True)
class Work:
    """The runs of a search, and their epochs, parts of epochs included."""

    num_ended: int
    num_runs: int
    done: float
    left: float


def remaining_work(trials: dict[str, Trial], progress: dict[str, RunProgress], config: ExperimentConfig) -> Work:
    """Return what is done and left, from the runs that are known and those that are still to come.

    A trial that is not drawn yet counts as many epochs as the ended ones had on average, since some are stopped early. Confirming
    runs train to their end. Once they are known, there are no further trials or runs.
    """
    known = list(trials.values())
    done = {trial.name: _epochs_done(trial, progress.get(trial.name), config) for trial in known}
    running = [trial for trial in known if trial.status == "running"]
    ended = [done[trial.name] for trial in known if trial.status in ("done", "stopped early") and trial.is_drawn]
    left = sum(max(0.0, trial.planned_epochs(config) - done[trial.name]) for trial in running)
    num_drawn = sum(trial.is_drawn for trial in known)
    num_undrawn = num_confirming_left = 0
    if num_drawn == len(known):
        num_undrawn, num_confirming_left = max(0, config.tune.budget.num_trials - num_drawn), num_confirming(config)
    left += num_undrawn * (statistics.fmean(ended) if ended else config.train.planned_epochs)
    left += num_confirming_left * config.train.planned_epochs
    num_runs = len(known) + num_undrawn + num_confirming_left
    return Work(len(known) - len(running), num_runs, sum(done.values()), left)


def _epochs_done(trial: Trial, progress: RunProgress | None, config: ExperimentConfig) -> float:
    if progress is None or not progress.total_steps:
        return float(len(trial.history))
    return trial.planned_epochs(config) * progress.done_steps / progress.total_steps


def status_phrase(trial: Trial, progress: RunProgress | None) -> str:
    """Return a trial's status, with its steps while it trains and the reason if it failed."""
    if trial.status == "failed":
        return f"failed: {escape(trial.reason or '')}"
    if trial.status != "running":
        return trial.status
    if progress is None or not progress.total_steps:
        return "waiting"
    return f"{progress.phase}, {steps_phrase(progress)}"


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
