"""`LeanTrainer`: Ray's `TorchTrainer` without the processes that our runs do not need. Each takes seconds and 240 MB to start.

`_create_default_callbacks` is internal to Ray Train; `tests/jobs/training/test_trainer.py` fails if an upgrade moves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from manta_jobs.cluster.connection import STARTED_HERE

if TYPE_CHECKING:
    from ray.train.v2._internal.execution.callback import RayTrainCallback


class LeanTrainer(TorchTrainer):  # type: ignore[misc]  # Ray's classes are untyped
    """A trainer without the process that hands out shards of Ray Data sets: our workers read their rows from files.

    On a cluster that this process has started, no process waits to free the workers' resources either: the cluster ends with the
    command.
    """

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        left_out = (DatasetsCallback, PlacementGroupCleanerCallback) if STARTED_HERE.is_set() else (DatasetsCallback,)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, left_out)]
