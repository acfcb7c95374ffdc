"""Checkpoints of a run: written in the background, whole or not at all, and good for any number of workers.

Each is a folder with three files, none of them a pickle: `model.safetensors` holds all weights in float32, except word
embeddings that do not learn (`manta.model.seen_rows`); `optimizer.safetensors` holds AdamW's moments; `state.json` says how far
training was, with every file's size and sha256. The folder is written under another name and then renamed. A checkpoint is
checked before it is used; where a crash cut one short, training goes on from the one before. In an object store, `state.json`
is put last, because the other files count only with it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from manta.inference.artifact import file_sha256
from manta.storage.object_store import discard, fetch, names, store

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from manta.config import TrainConfig

WEIGHTS_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
CHECKPOINTS = "checkpoints"
"""The folder of a run that holds those of `manta train`."""
TRIALS_FOLDER = "trials"
"""The folder of a run that holds a folder of them for each trial of `manta tune`."""
NUM_NEWEST_KEPT = 2


@dataclass
class TrainingState:
    """Where training is: enough, with the weights and moments, to go on as if nothing had happened.

    Dropout needs no generator's state: each step seeds its own, see `worker.seed_step`.
    """

    step: int = 0
    """Optimizer steps done in all."""
    epoch: int = 0
    """The epoch under way, from 0."""
    batch: int = 0
    """Global batches of it that are done."""
    loss_sum: float = 0.0
    """Of their losses."""
    train_s: float = 0.0
    """Seconds they took."""
    folds_s: float = 0.0
    """Seconds that the folds of a cross-validation took before."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """The metrics of each finished epoch."""
    best_step: int | None = None
    """The checkpoint of the epoch that is kept so far, see `kept_epoch`."""
    finished: bool = False
    resumed: list[int] = field(default_factory=list)
    """The steps from which training went on after it was interrupted."""
    scaler: dict[str, Any] | None = None
    """Loss scaling of fp16."""
    world_size: int | None = None
    """How many workers trained …"""
    zero_stage: int | None = None
    """… and at which ZeRO stage: as many go on at the same one, as each rounds its sums in its own way."""
    distribution: dict[str, Any] | None = None
    """How the work was spread, see `distribution.py`."""


def checkpoint_name(step: int) -> str:
    """The folder of the checkpoint after so many optimizer steps."""
    return f"step-{step:08d}"


def kept_epoch(history: list[dict[str, Any]], config: TrainConfig) -> dict[str, Any]:
    """The epoch whose model is kept: the last. With `early_stopping` the best by `metric`, and of equal ones the later."""
    if config.early_stopping is None:
        return history[-1]
    choose = max if config.metric_mode == "max" else min
    return choose(reversed(history), key=lambda metrics: float(metrics[config.metric]))


def epochs_without_gain(history: list[dict[str, Any]], config: TrainConfig) -> int:
    """Epochs since `metric` last got better than in all epochs before; an equal value is no gain."""
    choose = max if config.metric_mode == "max" else min
    best = choose(history, key=lambda metrics: float(metrics[config.metric]))  # the first of equal ones
    return len(history) - 1 - history.index(best)


class CheckpointWriter:
    """Writes checkpoints on a thread of its own while training goes on. Worker 0 has one; the others have nothing to write."""

    def __init__(self, folder: Path) -> None:
        self.took_s = 0.0
        """Seconds that the last checkpoint took to write."""
        self._folder = folder
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def write(self, state: TrainingState, *, weights: dict[str, torch.Tensor], moments: dict[str, torch.Tensor]) -> None:
        """Begin to write a checkpoint. The tensors are the writer's from here on. Waits for the one before, if need be.

        Raises:
            OSError: the one before could not be written.
        """
        self.wait()
        document = dataclasses.asdict(state)
        self._thread = threading.Thread(target=self._run, args=(document, weights, moments), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when all that was given is on disk.

        Raises:
            OSError: it could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise OSError(f"the checkpoint could not be written to {self._folder} ({error})") from error

    def _run(self, state: dict[str, Any], weights: dict[str, torch.Tensor], moments: dict[str, torch.Tensor]) -> None:
        started = time.monotonic()
        try:
            store(write_checkpoint(self._folder, state, weights=weights, moments=moments))
            prune(self._folder, best_step=state["best_step"], num_newest=1 if state["finished"] else NUM_NEWEST_KEPT)
        except BaseException as error:  # noqa: BLE001  # raised on the training thread by `wait`
            self._error = error
        self.took_s = time.monotonic() - started


def write_checkpoint(
    folder: Path, state: dict[str, Any], *, weights: dict[str, torch.Tensor], moments: dict[str, torch.Tensor]
) -> Path:
    """Write one checkpoint and return its folder, which is there whole or not at all."""
    from safetensors.torch import save_file

    target = folder / checkpoint_name(state["step"])
    partial = folder / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    files: dict[str, dict[str, Any]] = {}
    for name, tensors in ((WEIGHTS_FILE, weights), (OPTIMIZER_FILE, moments)):
        save_file(tensors, partial / name)
        _to_disk(partial / name)
        files[name] = {"bytes": (partial / name).stat().st_size, "sha256": file_sha256(partial / name)}
    (partial / STATE_FILE).write_text(json.dumps({"state": state, "files": files}, indent=1), encoding="utf-8")
    _to_disk(partial / STATE_FILE)
    if target.exists():  # trained again after a failure
        shutil.rmtree(target)
    partial.rename(target)
    return target


def prune(folder: Path, *, best_step: int | None, num_newest: int) -> None:
    """Remove all checkpoints but the newest ones and the kept epoch's."""
    steps = sorted(saved_steps(folder))
    for step in steps[:-num_newest]:
        if step != best_step:
            discard(folder / checkpoint_name(step))


def latest_checkpoint(folder: Path) -> tuple[Path, TrainingState] | None:
    """The newest checkpoint that is whole and unaltered, fetched if need be, or None."""
    for step in sorted(saved_steps(folder), reverse=True):
        path = fetch(folder / checkpoint_name(step))
        state = read_state(path)
        if state is not None:
            return path, state
    return None


def read_state(path: Path) -> TrainingState | None:
    """The state of a checkpoint, or None where any of its files is missing, cut short or altered."""
    try:
        document = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
        for name, facts in document["files"].items():
            if (path / name).stat().st_size != facts["bytes"] or file_sha256(path / name) != facts["sha256"]:
                return None
        return TrainingState(**document["state"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def saved_steps(folder: Path) -> list[int]:
    """The steps of which there are checkpoints, whole or not."""
    return [int(name.removeprefix("step-")) for name in names(folder) if name.startswith("step-")]


def _to_disk(path: Path) -> None:
    """Have the system write a file out, so that it outlives a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
