"""The list of registered versions, read from MLflow's SQLite file without importing MLflow, which takes several seconds.

A test compares it with `ModelRegistry.versions`, so that a change of MLflow's tables shows there. For the versions of a tracking
server, use `ModelRegistry`.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manta.errors import RunError
from manta.registry.tracking import existing_database

if TYPE_CHECKING:
    from manta.storage.folders import Storage

VERSIONS = """
SELECT v.name, v.version, v.creation_time, v.run_id, t.value FROM model_versions v
LEFT JOIN model_version_tags t ON t.workspace = v.workspace AND t.name = v.name AND t.version = v.version AND t.key = 'manta.run'
WHERE v.current_stage != 'Deleted_Internal' AND (:name IS NULL OR v.name = :name) ORDER BY v.name, v.version DESC
"""
ALIASES = "SELECT name, version, alias FROM registered_model_aliases ORDER BY alias"
METRICS = """
SELECT run_uuid, substr(key, 7), value FROM latest_metrics
WHERE substr(key, 1, 6) = 'final_' AND run_uuid IN (SELECT run_id FROM model_versions)
"""


@dataclass(frozen=True)
class ListedVersion:
    """A version as the list shows it. The fields are those of `RegisteredVersion`."""

    name: str
    version: int
    aliases: tuple[str, ...]
    run: str
    created_ms: int
    metrics: dict[str, float]


def list_versions(storage: Storage, name: str | None = None) -> list[ListedVersion]:
    """Return every version in the storage's own registry, newest first; only those of one model if `name` is given.

    Raises:
        InputError: there is no registry.
        RunError: the registry cannot be read.
    """
    path = existing_database(storage)
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            return _listed(database, name)
    except sqlite3.Error as error:
        raise RunError(f"the registry {path} cannot be read ({error}); if another process uses it, try again.") from None


def _listed(database: sqlite3.Connection, name: str | None) -> list[ListedVersion]:
    aliases: dict[tuple[str, int], list[str]] = defaultdict(list)
    for model, version, alias in database.execute(ALIASES):
        aliases[model, version].append(alias)
    metrics: dict[str, dict[str, float]] = defaultdict(dict)
    for run_id, key, value in database.execute(METRICS):
        metrics[run_id][key] = value
    return [
        ListedVersion(model, version, tuple(aliases[model, version]), run or "", created_ms, metrics[run_id])
        for model, version, created_ms, run_id, run in database.execute(VERSIONS, {"name": name})
    ]
