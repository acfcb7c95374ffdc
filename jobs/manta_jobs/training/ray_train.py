"""`LeanTrainer`: Ray's `TorchTrainer` without the processes that our runs do not need. Each takes seconds and 240 MB to start.

`_create_default_callbacks` is internal to Ray Train; `tests/jobs/training/test_trainer.py` fails if an upgrade moves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback

if TYPE_CHECKING:
    from ray.train.v2._internal.execution.callback import RayTrainCallback


class LeanTrainer(TorchTrainer):  # type: ignore[misc]  # Ray's classes are untyped
    """A trainer whose workers read their rows from files: no process hands out shards of Ray Data sets."""

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, DatasetsCallback)]
