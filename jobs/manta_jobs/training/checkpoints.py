"""Checkpoints of a run: written in the background, completely or not at all, and usable with any number of workers.

Each is a folder with three files, none of them a pickle. `model.safetensors` holds all weights in float32, except word embeddings
that do not learn (`manta.model.seen_rows`). `optimizer.safetensors` holds AdamW's moments. `state.json` holds the position of the
training, and every file's size and sha256. The folder is written under a temporary name and then renamed. A checkpoint is verified
before it is used; if a crash cut one short, training resumes from the one before. In an object store, `state.json` is written last,
because the other files count only with it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

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
"""Folder of a run that holds the checkpoints of `manta train`."""
TRIALS_FOLDER = "trials"
"""Folder of a run that holds one folder of checkpoints for each trial of `manta tune`."""
NUM_NEWEST_KEPT = 2


@dataclass
class TrainingState:
    """Position of a training. With the weights and moments, it is enough to resume exactly.

    Dropout needs no generator state: each step seeds its own, see `loop.seed_step`.
    """

    step: int = 0
    """Optimizer steps done in total."""
    epoch: int = 0
    """The epoch under way, from 0."""
    batch: int = 0
    """Global batches of this epoch that are done."""
    loss_sum: float = 0.0
    """Sum of the losses of those batches whose steps were not skipped."""
    skipped_steps: int = 0
    """Steps of `step` that were skipped because their gradients were not finite, see `updates.py`."""
    train_s: float = 0.0
    """Seconds that those batches took."""
    folds_s: float = 0.0
    """Seconds that the folds of a cross-validation took before this training."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """The metrics of each finished epoch."""
    best_step: int | None = None
    """Step of the checkpoint of the epoch that is kept so far, see `kept_epoch`."""
    finished: bool = False
    resumed: list[int] = field(default_factory=list)
    """Steps from which training resumed after an interruption."""
    scaler: dict[str, Any] | None = None
    """State of fp16 loss scaling."""
    world_size: int | None = None
    """Number of workers that trained."""
    zero_stage: int | None = None
    """ZeRO stage at which they trained. The same number of workers resumes at the same stage, because each stage rounds its sums
    differently."""
    micro_batch_size: int | None = None
    """Rows that they computed at a time. The same number of workers resumes with as many, because the rows' sums are rounded."""
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    """Precision in which they trained, and in which training resumes."""
    distribution: dict[str, Any] | None = None
    """Facts about how the work was spread, see `distribution.py`."""


def checkpoint_name(step: int) -> str:
    """Return the folder name of the checkpoint after `step` optimizer steps."""
    return f"step-{step:08d}"


def kept_epoch(history: list[dict[str, Any]], config: TrainConfig) -> dict[str, Any]:
    """Return the epoch whose model is kept: the last. With `early_stopping`: the best by `metric`, and of equal ones the later."""
    if config.early_stopping is None:
        return history[-1]
    choose = max if config.metric_mode == "max" else min
    return choose(reversed(history), key=lambda metrics: float(metrics[config.metric]))


def epochs_without_gain(history: list[dict[str, Any]], config: TrainConfig) -> int:
    """Return the number of epochs since `metric` last improved on all earlier epochs. An equal value is no improvement."""
    choose = max if config.metric_mode == "max" else min
    best = choose(history, key=lambda metrics: float(metrics[config.metric]))  # the first of equal ones
    return len(history) - 1 - history.index(best)


class CheckpointWriter:
    """Writer of checkpoints on a background thread while training continues. It is used on worker 0 only."""

    def __init__(self, folder: Path) -> None:
        self.took_s = 0.0
        """Seconds that the last checkpoint took to write."""
        self._folder = folder
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def write(self, state: TrainingState, *, weights: dict[str, torch.Tensor], moments: dict[str, torch.Tensor]) -> None:
        """Begin to write a checkpoint, after waiting for the previous one. The caller must not use the tensors afterwards.

        Raises:
            OSError: the previous one could not be written.
        """
        self.wait()
        document = dataclasses.asdict(state)
        self._thread = threading.Thread(target=self._run, args=(document, weights, moments), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until everything given is on disk.

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
    """Write one checkpoint, completely or not at all, and return its folder."""
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
    """Remove all checkpoints except the newest ones and the kept epoch's."""
    steps = sorted(saved_steps(folder))
    for step in steps[:-num_newest]:
        if step != best_step:
            discard(folder / checkpoint_name(step))


def latest_checkpoint(folder: Path) -> tuple[Path, TrainingState] | None:
    """Return the newest checkpoint that is complete and unaltered, fetched from an object store if needed; None without one."""
    for step in sorted(saved_steps(folder), reverse=True):
        path = fetch(folder / checkpoint_name(step))
        state = read_state(path)
        if state is not None:
            return path, state
    return None


def read_state(path: Path) -> TrainingState | None:
    """Return the state of a checkpoint; None if any of its files is missing, cut short or altered."""
    try:
        document = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
        for name, facts in document["files"].items():
            if (path / name).stat().st_size != facts["bytes"] or file_sha256(path / name) != facts["sha256"]:
                return None
        return TrainingState(**document["state"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def saved_steps(folder: Path) -> list[int]:
    """Return the steps of all checkpoints, complete or not."""
    return [int(name.removeprefix("step-")) for name in names(folder) if name.startswith("step-")]


def _to_disk(path: Path) -> None:
    """Flush a file to disk, so that it survives a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
