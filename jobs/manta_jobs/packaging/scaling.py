"""How much faster several workers were than one, where a run of one worker on the same work is on record."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manta.artifact import Manifest
    from manta.storage import Storage

SAME_WORK = (("model",), ("train", "batch_size"), ("train", "gradient_checkpointing"))


def compared_with_one_worker(distribution: dict[str, Any], manifest: Manifest, *, storage: Storage) -> dict[str, Any]:
    """The same facts, with `scaling` added: the examples/s of this run and of the last one-worker run of the same work.

    The same work is the same rows, model, batch and precision on the same kind of device. `scaling` is None without such a run.
    """
    mine = total_examples_per_s(distribution)
    one = _last_of_one_worker(distribution, manifest, storage=storage) if distribution.get("world_size", 1) > 1 else None
    if one is None:
        return distribution | {"examples_per_s": mine, "scaling": None}
    name, alone = one
    scaling = {"one_worker_run": name, "one_worker_examples_per_s": alone, "speedup": round(mine / alone, 3)}
    return distribution | {"examples_per_s": mine, "scaling": scaling}


def total_examples_per_s(distribution: dict[str, Any]) -> float:
    """Of all workers together."""
    return round(sum(float(worker["examples_per_s"]) for worker in distribution.get("workers", [])), 2)


def _last_of_one_worker(distribution: dict[str, Any], manifest: Manifest, *, storage: Storage) -> tuple[str, float] | None:
    reports = sorted(storage.runs.glob("*/report.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in reports:
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            facts = report["distribution"]
            same = (
                facts["world_size"] == 1
                and report["data_hash"] == manifest.data_hash
                and facts["precision"] == distribution["precision"]
                and facts["workers"][0]["device"] == distribution["workers"][0]["device"]
                and all(_setting(report["config"], *keys) == _setting(manifest.config, *keys) for keys in SAME_WORK)
            )
        except (OSError, ValueError, KeyError, TypeError, IndexError):  # of an older version, or cut short
            continue
        if same:
            return str(report["run"]), total_examples_per_s(facts)
    return None


def _setting(config: dict[str, Any], *keys: str) -> Any:
    value: Any = config
    for key in keys:
        value = value[key]
    return value
