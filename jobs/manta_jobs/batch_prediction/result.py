"""The result of `manta predict`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections import Counter
    from pathlib import Path


@dataclass(frozen=True)
class BatchResult:
    """The result of a batch prediction."""

    out: Path
    num_rows: int
    num_resumed: int
    """Rows that an earlier attempt had finished."""
    num_errors: int
    num_uncertain: int
    num_out_of_scope: int
    """Number of the uncertain rows that are unlike all training rows."""
    labels: Counter[str]
    """Rows by most probable label."""
    error_column: str
    rows_per_s: float | None
    """Rate of this attempt, from the first chunk's start to the last one's end; None if nothing was left to do."""
    wall_s: float
    model_version: str
    artifact: Path

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `--json` prints it."""
        return {
            "model": self.model_version,
            "artifact": str(self.artifact),
            "out": str(self.out),
            "rows": self.num_rows,
            "resumed_rows": self.num_resumed,
            "errors": self.num_errors,
            "uncertain": self.num_uncertain,
            "out_of_scope": self.num_out_of_scope,
            "labels": dict(self.labels.most_common()),
            "rows_per_s": self.rows_per_s and round(self.rows_per_s, 2),
            "wall_s": round(self.wall_s, 1),
        }
