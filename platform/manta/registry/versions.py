"""Descriptions of a registered version, and of a model with its champion and candidate."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from manta.config import TrainConfig
from manta.registry.decisions import CROWNING, Decision


@dataclass(frozen=True)
class RegisteredVersion:
    """One version of a registered model."""

    name: str
    version: int
    aliases: tuple[str, ...]
    run: str
    """Name of the Manta run that made it."""
    run_id: str
    """Id of that run in MLflow."""
    parent_id: str | None
    """Id of the parent run, such as a search."""
    created_ms: int
    """Milliseconds since the Unix epoch."""
    metrics: dict[str, float]
    config: dict[str, str]
    """The run's settings by dotted name."""
    lineage: dict[str, str]
    """The tags of `lineage_tags`, without the prefix `manta.`."""
    source: str
    """URI of its artifact."""

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Standing:
    """State of a model that a service polls, from one cheap query. If two states are equal, nothing has changed."""

    champion: int | None
    candidate: int | None
    decisions: tuple[Decision, ...]
    reload: str | None
    """Time of the last `request_reload`."""

    @property
    def champion_since(self) -> datetime | None:
        """Time at which the champion was decided on; None if it became champion outside of Manta."""
        last = next((item for item in reversed(self.decisions) if item.action in (*CROWNING, "rolled back")), None)
        return datetime.fromisoformat(last.at) if last is not None and last.version == self.champion else None


def is_worse(version: RegisteredVersion, other: RegisteredVersion) -> bool:
    """Tell whether a version is worse than another by its `train.metric`, each on its own test rows. False if that is unknown."""
    metric = version.config.get("train.metric", str(TrainConfig.model_fields["metric"].default))
    ours, theirs = version.metrics.get(metric), other.metrics.get(metric)
    if ours is None or theirs is None:
        return False
    return ours > theirs if metric == "loss" else ours < theirs
