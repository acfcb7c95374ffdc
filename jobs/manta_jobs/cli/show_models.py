"""The output of `manta models list` and `manta models show`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from manta.console import bytes_phrase, fitted, people_table
from manta.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from manta.registry.listing import ListedVersion
    from manta.registry.models import ModelRegistry
    from manta.registry.versions import RegisteredVersion

NUM_DECISIONS = 10
SHOWN_SETTINGS = (
    *("data.train", "data.validation", "data.test", "model.task", "model.max_length", "model.dropout"),
    *("train.learning_rate", "train.num_epochs", "train.batch_size", "train.metric", "train.seed"),
)


def versions_table(versions: Sequence[ListedVersion] | Sequence[RegisteredVersion], console: Console) -> Table:
    """Return a table with a row for each version. What does not fit the console is left to `manta models show`."""
    table = people_table("model", "version", "alias", "test accuracy", "test macro F1", "made", "run")
    for version in versions:
        scores = [f"{version.metrics[key]:.4f}" if key in version.metrics else "" for key in ("accuracy", "f1_macro")]
        cells = [version.name, str(version.version), ", ".join(version.aliases), *scores, _day(version), version.run]
        table.add_row(*cells)
    return fitted(table, console, expendable=("run", "test macro F1", "made"))


def describe(registry: ModelRegistry, version: RegisteredVersion) -> dict[str, Any]:
    """Return all facts about a version, as `--json` prints them.

    Raises:
        RunError: the registry cannot be reached.
    """
    rows = None
    damage = None
    try:
        frozen = registry.files.frozen_rows(version)
        rows = None if frozen is None else len(frozen)
        artifact = registry.files.fetch(version)
        files = [file for file in artifact.path.rglob("*") if file.is_file()]
        facts = {
            "task": artifact.manifest.task,
            "labels": artifact.manifest.labels,
            "artifact": str(artifact.path),
            "artifact_bytes": sum(file.stat().st_size for file in files),
        }
    except InputError as error:
        damage, facts = str(error), {}
    lineage = dict(version.lineage)
    environment = json.loads(lineage.pop("environment", "{}"))
    return {
        "model": version.name,
        "version": version.version,
        "aliases": list(version.aliases),
        "made": datetime.fromtimestamp(version.created_ms / 1000, UTC).isoformat(timespec="seconds"),
        "run": version.run,
        "run_id": version.run_id,
        "parent_id": version.parent_id,
        "metrics": version.metrics,
        "fault": damage,
        "frozen_test_rows": rows,
        **facts,
        "lineage": lineage,
        "environment": environment,
        "config": version.config,
        "decisions": [decision.model_dump(mode="json") for decision in registry.decisions(version.name)],
    }


def show_description(facts: dict[str, Any], console: Console) -> None:
    """Print the facts from `describe` on one screen."""
    lineage, config = facts["lineage"], facts["config"]
    aliases = f" ({', '.join(facts['aliases'])})" if facts["aliases"] else ""
    table = people_table("", "", title=f"{facts['model']}@{facts['version']}{aliases}", header=False)
    if facts["fault"]:
        table.add_row("fault", f"[red]{escape(facts['fault'])}[/]")
    else:
        labels = facts["labels"]
        named = ", ".join(labels[:8]) + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")
        table.add_row("labels", escape(f"{len(labels)} ({facts['task']}): {named}"))
        table.add_row("artifact", f"{facts['artifact']} ({bytes_phrase(facts['artifact_bytes'])})")
    shown = {key: value for key, value in facts["metrics"].items() if not key.startswith("validation_")}
    table.add_row("on its test rows", ", ".join(f"{key} {value:.4f}" for key, value in shown.items()))
    rows = facts["frozen_test_rows"]
    table.add_row("kept test rows", "none: later versions cannot be compared with it" if rows is None else f"{rows:,}")
    table.add_row("made", f"{facts['made']} by {facts['run']}")
    parent = f", part of {facts['parent_id']}" if facts["parent_id"] else ""
    table.add_row("MLflow run", facts["run_id"] + parent)
    table.add_row("base model", lineage.get("pretrained", ""))
    table.add_row("data hash", lineage.get("data_hash", ""))
    table.add_row("code", _code(lineage))
    table.add_row("packages", ", ".join(f"{name} {number}" for name, number in facts["environment"].items()))
    settings = [f"{name} {config[name]}" for name in SHOWN_SETTINGS if name in config]
    table.add_row("settings", escape(", ".join(settings)) + f"   [dim]({len(config)} in all: --json)[/]")
    console.print(table)
    show_decisions(facts["model"], facts["decisions"], console)


def show_decisions(name: str, decisions: Sequence[dict[str, Any]], console: Console) -> None:
    """Print the latest decisions about a model, newest first."""
    if not decisions:
        return
    table = people_table("when (UTC)", "who", "what", "champion before", "why", title=f"Decisions about {name}")
    for decision in list(reversed(decisions))[:NUM_DECISIONS]:
        failing = [line["sentence"] for line in decision["figures"] if not line["passed"]]
        more = f"({len(failing) - 1} more lines: --json)" if len(failing) > 1 else ""
        why = " ".join(filter(None, [decision["why"], *failing[:1], more]))
        what = f"{decision['action']}: version {decision['version']}"
        table.add_row(
            decision["at"][:19].replace("T", " "), escape(decision["by"]), what, str(decision["previous"] or ""), escape(why)
        )
    console.print(table)


def _day(version: ListedVersion | RegisteredVersion) -> str:
    return datetime.fromtimestamp(version.created_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _code(lineage: dict[str, str]) -> str:
    package = f"manta-platform {lineage.get('package_version', '?')}"
    if "git_commit" not in lineage:
        return package
    dirty = ", with changes that were not committed" if lineage.get("git_dirty") == "true" else ""
    return f"{package}; git {lineage['git_commit'][:12]} in {lineage.get('git_folder', '?')}{dirty}"
