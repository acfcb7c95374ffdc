"""TensorBoard's event files of a run, which `tensorboard --logdir` shows; written when `train.tensorboard` is on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tensorboardX import SummaryWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.tracking import Point


class EventFiles:
    """Writes a run's figures under the names that they have in MLflow; a resumed run adds a second file."""

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(logdir=str(folder))

    def add(self, points: Sequence[Point]) -> None:
        """Write figures; they are in the file when this returns."""
        for point in points:
            self._writer.add_scalar(point.name, point.value, point.step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
