"""What a finished run says: the result, where the model is, and what to type next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from manta_jobs.progress import duration

if TYPE_CHECKING:
    from rich.console import Console

    from manta_jobs.train import TrainedModel

SHOWN_METRICS = (
    ("accuracy", "accuracy"),
    ("f1_macro", "macro F1"),
    ("f1_weighted", "weighted F1"),
    ("precision_macro", "macro precision"),
    ("recall_macro", "macro recall"),
    ("loss", "loss"),
)


def show_trained(model: TrainedModel, console: Console, *, experiment: Path | None) -> None:
    """Print a finished run's closing table and the next commands."""
    metrics = model.artifact.manifest.metrics
    table = Table(title=f"{model.version.name} version {model.version.version}", title_justify="left", show_header=False)
    for key, words in SHOWN_METRICS:
        if key in metrics:
            table.add_row(f"test {words}", f"{metrics[key]:.4f}")
    table.add_row("test rows", f"{model.num_test_rows:,}")
    table.add_row("learning rate", f"{model.config.train.learning_rate:.3g}")
    table.add_row("dropout", f"{model.config.model.dropout:.3g}")
    table.add_row("took", duration(model.wall_s))
    table.add_row("model folder", str(model.artifact.path))
    table.add_row("report", str(model.run.path / "report.json"))
    table.add_row("registered as", registered_as(model))
    console.print(table)
    console.print("Next:")
    for command, what in next_commands(model, experiment):
        console.print(f"  {command}   [dim]# {what}[/]")


def registered_as(model: TrainedModel) -> str:
    """Name, version and aliases."""
    aliases = f" ({', '.join(model.version.aliases)})" if model.version.aliases else ""
    return f"{model.version.name} version {model.version.version}{aliases}"


def next_commands(model: TrainedModel, experiment: Path | None) -> list[tuple[str, str]]:
    """What people usually type after a run."""
    commands = [(f"manta serve {model.version.name}", "answer over HTTP"), ("manta ui", "try it in the browser")]
    if experiment is not None:
        commands.append((f"manta tune {experiment}", "search a better learning rate and dropout"))
    return commands


def trained_result(model: TrainedModel) -> dict[str, Any]:
    """The result as `--json` prints it."""
    return {
        "run": model.run.name,
        "model": model.version.name,
        "version": model.version.version,
        "metrics": model.artifact.manifest.metrics,
        "artifact": str(model.artifact.path),
        "report": str(model.run.path / "report.json"),
        "wall_s": round(model.wall_s, 1),
    }
