"""`RunRecord`: the record that a run keeps from its start to its end.

Every twenty seconds the new optimizer steps and epochs go to `steps.jsonl` in the run folder, to MLflow and, if `train.tensorboard`
is on, to TensorBoard's event files. Losing the tracking server does not end the run.
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from manta.console import working
from manta.errors import MantaError, RunError
from manta.registry.tracking import EndStatus, Point, RunTracker, epoch_points, flat, step_points
from manta.storage.folders import write_atomically
from manta.storage.object_store import store

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path
    from types import TracebackType

    from rich.console import Console

    from manta.config import ExperimentConfig
    from manta.storage.folders import RunFolder, Storage

RECORD_EVERY_S = 20.0
STEPS_FILE = "steps.jsonl"
MLFLOW_FILE = "mlflow.json"
"""File with the run's id in MLflow and the server's address, so that a resumed run continues the same record."""
CURVES_FILE = "curves.png"
KEPT_FILES = ("config.yaml", "report.json", CURVES_FILE, "trials.yaml", "best.yaml", "report.html")
"""Files of the run folder that are also stored in MLflow if they exist."""


class RunRecord:
    """The record of one run; as a context manager, it covers the run from before its first step until after its report.

    `new_steps` returns the optimizer steps logged since its last call, and `history` returns all finished epochs. A background
    thread calls both. `searched` are the settings that are known only at the end, when a search has chosen them.
    """

    def __init__(
        self,
        folder: RunFolder,
        storage: Storage,
        config: ExperimentConfig,
        *,
        console: Console,
        new_steps: Callable[[], list[dict[str, Any]]],
        history: Callable[[], list[dict[str, Any]]],
        searched: Collection[str] = (),
    ) -> None:
        self._folder = folder
        self._config = config
        self._console = console
        self._new_steps = new_steps
        self._history = history
        self._searched = searched
        with working(console, "Opening the registry"):
            self._tracker = RunTracker(storage)
        self._events: Any = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._record_on, daemon=True)
        self._waiting: list[dict[str, Any]] = []  # epochs whose last step is not known yet
        self._last_epoch = 0
        self._is_lost = False
        self.steps: list[dict[str, Any]] = []

    @property
    def run_id(self) -> str:
        """The run's id in MLflow, which a registered version refers to."""
        return self._tracker.run_id

    def __enter__(self) -> RunRecord:
        settings = flat(self._config.document())
        known = {name: value for name, value in settings.items() if name not in self._searched}
        resume_id = self._earlier()
        self._tracker.start(self._folder.name, experiment=self._config.registered_name, config=known, resume_id=resume_id)
        entry = {"uri": self._tracker.uri, "run_id": self.run_id}
        write_atomically(self._folder.path / MLFLOW_FILE, json.dumps(entry) + "\n")
        store(self._folder.path / MLFLOW_FILE)
        if self._config.train.tensorboard:
            self._events = EventFiles(self._folder.path / "tensorboard")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self.catch_up(self._history())
        status, sentence = ending(error)
        faults = [fault for fault in (self._ended(status, sentence), self._files_kept()) if fault]
        if self._tracker.num_unsent:
            faults.append(f"{self._tracker.num_unsent:,} figures were not sent; those of the steps are in {STEPS_FILE}.")
        if faults:
            self._console.print(f"[yellow]Warning:[/] the record in MLflow is incomplete: {escape(' '.join(faults))}")
        if self._events is not None:
            self._events.close()

    def catch_up(self, history: Sequence[dict[str, Any]], steps: Sequence[dict[str, Any]] = ()) -> None:
        """Record everything up to now: the new epochs of `history`, the given steps, and all new steps."""
        with self._lock:
            new_steps = [*steps, *self._new_steps()]
            self._keep(new_steps)
            self._waiting += [epoch for epoch in history if int(epoch["epoch"]) > self._last_epoch]
            self._last_epoch = max([self._last_epoch, *(int(epoch["epoch"]) for epoch in history)])
            points = step_points(new_steps)
            steps_per_epoch = self._steps_per_epoch()
            if steps_per_epoch is not None:
                points += epoch_points(self._waiting, steps_per_epoch=steps_per_epoch)
                self._waiting = []
            self._tracker.add(points)
            if self._events is not None and points:
                self._events.add(points)
            self._send()

    def chosen(self, values: dict[str, Any]) -> None:
        """Record the settings that a search has chosen."""
        try:
            self._tracker.log_params(values)
        except RunError as error:
            self._warn(error)

    def _record_on(self) -> None:
        while not self._stop.wait(RECORD_EVERY_S):
            self.catch_up(self._history())

    def _keep(self, new_steps: list[dict[str, Any]]) -> None:
        if not new_steps:
            return
        follow(self.steps, new_steps)
        with (self._folder.path / STEPS_FILE).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(step) + "\n" for step in new_steps)
        try:
            store(self._folder.path / STEPS_FILE)
        except RunError as error:
            self._warn(error)

    def _steps_per_epoch(self) -> float | None:
        """Return the steps per epoch, computed from the last logged step; None if unknown.

        Once the run is over, an epoch without logged steps counts as one step.
        """
        last = self.steps[-1] if self.steps else None
        if last is not None and last["epoch"] > 0:
            return float(last["step"] / last["epoch"])
        return 1.0 if self._stop.is_set() else None

    def _send(self) -> None:
        try:
            self._tracker.flush()
            self._is_lost = False
        except RunError as error:
            self._warn(error)

    def _warn(self, error: RunError) -> None:
        if not self._is_lost:
            self._console.print(f"[yellow]Warning:[/] {escape(str(error))} The run goes on; its figures are kept and sent later.")
        self._is_lost = True

    def _ended(self, status: EndStatus, sentence: str | None) -> str | None:
        try:
            self._tracker.finish(status, error=sentence)
        except RunError as error:
            return str(error)
        return None

    def _files_kept(self) -> str | None:
        try:
            for name in KEPT_FILES:
                if (self._folder.path / name).is_file():
                    self._tracker.log_files(self._folder.path / name)
        except RunError as error:
            return str(error)
        return None

    def _earlier(self) -> str | None:
        """Read the steps that this run folder recorded before. Return its earlier run id if that is on the same server."""
        steps, entry = self._folder.path / STEPS_FILE, self._folder.path / MLFLOW_FILE
        if steps.is_file():
            self.steps = read_steps(steps)
        if not entry.is_file():
            return None
        recorded = json.loads(entry.read_text(encoding="utf-8"))
        return str(recorded["run_id"]) if recorded["uri"] == self._tracker.uri else None


def follow(steps: list[dict[str, Any]], new_steps: list[dict[str, Any]]) -> None:
    """Add new steps to the known ones. A resumed run repeats the steps after its checkpoint; the new records replace the old."""
    while steps and int(steps[-1]["step"]) >= int(new_steps[0]["step"]):
        steps.pop()
    steps += new_steps


def read_steps(path: Path) -> list[dict[str, Any]]:
    """Return the steps of a `steps.jsonl`, each once. Skip a line that a killed run left half written."""
    steps: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(json.JSONDecodeError):
            follow(steps, [json.loads(line)])
    return steps


def ending(error: BaseException | None) -> tuple[EndStatus, str | None]:
    """Return the MLflow status of a run that ended with `error`, and a sentence that gives the reason."""
    if error is None:
        return "FINISHED", None
    if isinstance(error, MantaError):
        return "FAILED", str(error)
    if isinstance(error, Exception):
        return "FAILED", f"{type(error).__name__}: {error}"
    return "KILLED", "stopped by Ctrl-C" if isinstance(error, KeyboardInterrupt) else "stopped"


class EventFiles:
    """Writer of a run's figures to TensorBoard files, under their MLflow names. A resumed run adds a second file."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(logdir=str(folder))

    def add(self, points: Sequence[Point]) -> None:
        """Write figures; they are in the file when this returns."""
        for point in points:
            self._writer.add_scalar(point.name, point.value, point.step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
