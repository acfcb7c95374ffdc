"""MLflow records of a search's trials: each trial is a separate run below the search's run."""

from __future__ import annotations

import json
import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from manta.errors import RunError
from manta.registry.tracking import EndStatus, RunTracker, epoch_points, step_points
from manta.storage.folders import write_atomically
from manta.storage.object_store import store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manta.storage.folders import RunFolder, Storage
    from manta_jobs.training.progress import Board
    from manta_jobs.tuning.journal import Trial, TrialStatus
    from manta_jobs.tuning.trial_queue import TrialQueue

RECORD_EVERY_S = 5.0
CHILDREN_FILE = "mlflow-trials.json"
"""File with the run id of each trial, so that a resumed search continues the same records."""
ENDINGS: dict[TrialStatus, EndStatus] = {"failed": "FAILED", "stopped early": "KILLED", "not run": "KILLED"}


class TrialRecords:
    """Writer of the trials' records during the search. Losing the tracking server does not end the search."""

    def __init__(
        self, folder: RunFolder, storage: Storage, queue: TrialQueue, board: Board, *, experiment: str, parent_id: str
    ) -> None:
        self._folder, self._storage, self._experiment = folder, storage, experiment
        self._queue, self._board = queue, board
        self._parent_id = parent_id
        self._path = folder.path / CHILDREN_FILE
        self._ids: dict[str, str] = json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else {}
        self._open: dict[str, RunTracker] = {}
        self._num_epochs: dict[str, int] = {}
        self._last_step: dict[str, int] = {}
        self._ended: set[str] = set()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the records up to date while the body runs."""
        stop = threading.Event()

        def go() -> None:
            while not stop.wait(RECORD_EVERY_S):
                self.catch_up()

        thread = threading.Thread(target=go, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.catch_up()

    def catch_up(self) -> None:
        """Record everything that is new."""
        for trial in self._queue.snapshot().values():
            if trial.name in self._ended:
                continue
            try:
                self._record(trial)
            except RunError as error:
                logging.getLogger(__name__).info("%s is recorded later: %s", trial.name, error)

    def _record(self, trial: Trial) -> None:
        tracker = self._open.get(trial.name) or self._opened(trial)
        steps = self._board.steps_after(trial.name, self._last_step.get(trial.name, 0))
        if steps:
            self._last_step[trial.name] = max(int(step["step"]) for step in steps)
        known = self._num_epochs.get(trial.name, 0)
        tracker.add(step_points(steps))
        for epoch in trial.history[known:]:
            tracker.add(epoch_points([epoch], steps_per_epoch=epoch["step"] / epoch["epoch"]))
        self._num_epochs[trial.name] = len(trial.history)
        tracker.flush()
        if trial.status != "running":
            tracker.finish(ENDINGS.get(trial.status, "FINISHED"), error=trial.reason)
            self._ended.add(trial.name)
            del self._open[trial.name]

    def _opened(self, trial: Trial) -> RunTracker:
        tracker = RunTracker(self._storage)
        self._ids[trial.name] = tracker.start(
            f"{self._folder.name}-{trial.name}",
            experiment=self._experiment,
            config=trial.values,
            resume_id=self._ids.get(trial.name),
            parent_id=self._parent_id,
        )
        write_atomically(self._path, json.dumps(self._ids, indent=1) + "\n")
        store(self._path)
        self._open[trial.name] = tracker
        return tracker
