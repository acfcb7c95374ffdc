"""The live table of a search: every trial's values, how far it is, and which one leads."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.tune import Callback
from rich.live import Live
from rich.table import Table

from manta.config import ExperimentConfig
from manta_jobs.progress import Board, RunProgress, duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray.tune.experiment import Trial as RayTrial
    from rich.console import Console

REFRESH_EVERY_S = 1.0
MOST_ROWS = 20


@dataclass
class TrialRow:
    """What the table says of one trial."""

    values: dict[str, Any]
    status: str = "starting"
    epochs: int = 0
    best: float | None = None


class SearchView(Callback):  # type: ignore[misc]  # Ray's class is untyped
    """Follows a search as Tune's callback; shows a table in a terminal and a line for each event elsewhere."""

    def __init__(self, config: ExperimentConfig, board: Board, console: Console) -> None:
        self.board = board
        self._config = config
        self._console = console
        self._rows: dict[str, TrialRow] = {}
        self._started = time.monotonic()
        self._live = console.is_terminal

    def __getstate__(self) -> dict[str, Any]:
        """Tune stores its callbacks along with the search; the console cannot go along."""
        return self.__dict__ | {"_console": None}

    def on_trial_start(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        """Tune started a trial."""
        self._rows[trial.trial_id] = TrialRow(dict(trial.config))
        self._say(f"trial {self._number(trial)}: {values_phrase(trial.config)}")

    def on_trial_result(self, iteration: int, trials: list[RayTrial], trial: RayTrial, result: dict[str, Any], **info: Any) -> None:
        """A trial finished an epoch."""
        row, metric = self._rows[trial.trial_id], self._config.train.metric
        row.status, row.epochs = "running", int(result["epoch"])
        value = float(result[metric])
        better = min if self._config.train.metric_mode == "min" else max
        row.best = value if row.best is None else better(row.best, value)
        self._say(f"trial {self._number(trial)}: epoch {row.epochs}, validation {metric} {value:.4f}")

    def on_trial_complete(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        """A trial ended: by itself, or because the scheduler stopped it."""
        row = self._rows[trial.trial_id]
        planned = self._config.with_values(row.values).train.planned_epochs
        row.status = "done" if row.epochs >= planned else "stopped early"
        self._free_workers(trial.trial_id)
        self._say(f"trial {self._number(trial)}: {row.status}; {self._eta()}")

    def on_trial_error(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        """A trial failed; the search goes on."""
        self._rows[trial.trial_id].status = "failed"
        self._say(f"trial {self._number(trial)}: failed")

    def _free_workers(self, name: str) -> None:
        """Give the resources of an ended trial back.

        Tune stops a trial by killing its function. Ray Train's controller dies with it and leaves the placement group of
        the workers behind: the next trial would wait for it for ever. (Ray's own cleaner asks the dashboard's API, which a
        cluster need not have.)
        """
        run = self.board.snapshot().get(name)
        if run is not None and run.placement_group is not None:
            ray.util.remove_placement_group(run.placement_group)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the table on screen while the body runs."""
        total = self._config.tune.budget.num_trials
        self._console.print(f"Searching {', '.join(self._config.tune.searched)} with {total} trials")
        if not self._live:
            yield
            return
        stop = threading.Event()
        with Live(self._table({}), console=self._console, auto_refresh=False) as live:

            def refresh() -> None:
                stopped = False
                while not stopped:
                    stopped = stop.wait(REFRESH_EVERY_S)
                    live.update(self._table(self.board.snapshot()), refresh=True)

            thread = threading.Thread(target=refresh, daemon=True)
            thread.start()
            try:
                yield
            finally:
                stop.set()
                thread.join(timeout=5)

    def _table(self, progress: dict[str, RunProgress]) -> Table:
        metric = self._config.train.metric
        best = self._leader()
        table = Table(
            title=f"{len(self._rows)} of {self._config.tune.budget.num_trials} trials · {self._eta()}", title_justify="left"
        )
        for heading in ("trial", *(name.rsplit(".", 1)[-1] for name in self._config.tune.searched), "status", "epochs", metric):
            table.add_column(heading)
        for number, (name, row) in list(enumerate(self._rows.items(), start=1))[-MOST_ROWS:]:
            run = progress.get(name)
            status = (
                f"{row.status} ({run.done_steps}/{run.total_steps})"
                if run and row.status in ("starting", "running")
                else row.status
            )
            cells = [str(number), *(_short(row.values[field]) for field in self._config.tune.searched)]
            score = "" if row.best is None else f"{row.best:.4f}"
            table.add_row(*cells, status, str(row.epochs), score, style=_style(row, is_best=name == best))
        return table

    def _leader(self) -> str | None:
        scored = {name: row.best for name, row in self._rows.items() if row.best is not None}
        better = min if self._config.train.metric_mode == "min" else max
        return better(scored, key=lambda name: scored[name]) if scored else None

    def _eta(self) -> str:
        ended = sum(row.status in ("done", "stopped early", "failed") for row in self._rows.values())
        if not ended:
            return "ETA after the first trial"
        remaining = (time.monotonic() - self._started) / ended * (self._config.tune.budget.num_trials - ended)
        return f"ETA {duration(remaining)}"

    def _number(self, trial: RayTrial) -> str:
        return f"{list(self._rows).index(trial.trial_id) + 1}/{self._config.tune.budget.num_trials}"

    def _say(self, line: str) -> None:
        if not self._live:
            self._console.print(line)


def values_phrase(values: dict[str, Any]) -> str:
    """Searched values in a line, such as `learning_rate 0.0003, dropout 0.12`."""
    return ", ".join(f"{name.rsplit('.', 1)[-1]} {_short(value)}" for name, value in values.items())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _style(row: TrialRow, *, is_best: bool) -> str:
    if row.status == "failed":
        return "red"
    if is_best:
        return "green"
    return "dim" if row.status == "stopped early" else ""
