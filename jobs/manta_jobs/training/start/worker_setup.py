"""`WorkerSetup`: what every worker of a run is given, with the paths of the node that it runs on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from manta.storage.object_store import fetch, here, url_of
from manta_jobs.training.batches import Rows
from manta_jobs.training.checkpoints import TrainingState, latest_checkpoint
from manta_jobs.training.distribution import gathered_facts, node_id
from manta_jobs.training.progress import Board

if TYPE_CHECKING:
    from manta.config import ExperimentConfig
    from manta.labels import LabelSpace


@dataclass(frozen=True)
class WorkerSetup:
    """Settings and paths of a run, the same for every worker."""

    config: ExperimentConfig
    labels: LabelSpace
    data_folder: str
    """Folder of the tokenized splits that `prepare` wrote, readable by every worker."""
    checkpoints: str
    """Folder of this run's checkpoints, readable by every worker. If it holds any, training resumes from the newest."""
    pad_id: int
    num_threads: int
    board: Board
    run_name: str
    folds: Rows | None = None
    """The fold of each training row `(rows,)`; None if the run is not cross-validated."""
    seconds: float | None = None
    """Time until training must end. The epoch under way then ends early and is evaluated."""


def agreed_checkpoint(folder: Path) -> tuple[Path, TrainingState] | None:
    """Return the newest checkpoint that worker 0 finds; None without one. All workers must call it together."""
    found: list[Any] = [latest_checkpoint(folder) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found, src=0)
    chosen: tuple[Path, TrainingState] | None = found[0]
    return None if chosen is None else (fetched_by_nodes(chosen[0]), chosen[1])


def on_this_node(setup: WorkerSetup) -> WorkerSetup:
    """Return the setup with this node's paths. Fetch the data from an object store if needed.

    All workers must call it together.
    """
    data = fetched_by_nodes(Path(setup.data_folder))
    return dataclasses.replace(setup, data_folder=str(data), checkpoints=str(here(Path(setup.checkpoints))))


def fetched_by_nodes(path: Path) -> Path:
    """Return a path on this node. If it mirrors an object store, one worker of each node fetches it first.

    All workers must call it together.
    """
    if url_of(path):
        mine = node_id()  # Ray's local rank counts by address, which nodes may share
        if [facts["node"] for facts in gathered_facts({"node": mine})].index(mine) == dist.get_rank():
            fetch(path)
        dist.barrier()
    return here(path)
