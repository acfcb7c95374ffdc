"""The output of a finished run: the result, where the model is, and the next commands."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from manta.console import bytes_phrase, duration, people_table
from manta.storage.object_store import shown
from manta_jobs.packaging.diagnosis import compare_with_baseline, losing_paragraph
from manta_jobs.registry.promotion import show_promotion
from manta_jobs.reporting.figures import SHOWN_METRICS
from manta_jobs.training.distribution import PHASES
from manta_jobs.training.tracking import CURVES_FILE
from manta_jobs.tuning.confirm import why_it_stays
from manta_jobs.tuning.live_table import short

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from manta.inference.artifact import ModelArtifact
    from manta_jobs.packaging.diagnosis import Fit
    from manta_jobs.registry.promotion import Promotion
    from manta_jobs.runs.results import TrainedModel, TunedModel

MOST_WORKERS = 16


def show_trained(model: TrainedModel, console: Console, *, experiment: Path | None) -> None:
    """Print a finished run's closing table and the next commands."""
    metrics = model.artifact.manifest.metrics
    table = people_table("", "", title=f"{model.version.name} version {model.version.version}", header=False)
    baseline = model.baseline
    for key, words in shown_metrics(model.artifact):
        if key in metrics:
            beside = f"   TF-IDF {baseline.test[key]:.4f}" if baseline is not None else ""
            table.add_row(f"test {words}", f"{metrics[key]:.4f}{beside}")
    table.add_row("test rows", f"{model.num_test_rows:,}")
    table.add_row("learning rate", f"{model.config.train.peak_learning_rate:.3g}")
    table.add_row("dropout", f"{model.config.model.dropout:.3g}")
    table.add_row("took", duration(model.wall_s))
    table.add_row("model folder", shown(model.artifact.path))
    table.add_row("report", shown(model.run.path / "report.json"))
    table.add_row("curves", shown(model.run.path / CURVES_FILE))
    table.add_row("registered as", registered_as(model))
    console.print(table)
    show_distribution(model.distribution, console)
    show_memory(model, console)
    show_comparison(model, console)
    show_fit(model.fit, console)
    show_calibration(model.artifact, console)
    show_promotion(model.promotion, console)
    console.print("Next:")
    for command, what in next_commands(model.promotion, experiment=experiment):
        console.print(f"  {command}   [dim]# {what}[/]")


def show_distribution(facts: dict[str, Any], console: Console) -> None:
    """Print what each worker held and computed, as proof that the run was distributed."""
    size, nodes = facts["world_size"], facts["num_nodes"]
    headings = ("worker", "host", "device", "parameters", "gradients", "optimizer", "examples/s")
    table = people_table(*headings, title=f"Distribution: {distribution_phrase(facts)}")
    for rank, worker in list(enumerate(facts["workers"]))[:MOST_WORKERS]:
        held = (f"{worker['bytes'][kind] / 1e6:.1f} MB" for kind in ("parameters", "gradients", "optimizer"))
        table.add_row(str(rank), worker["host"], worker["device"], *held, f"{worker['examples_per_s']:.1f}")
    console.print(table)
    seconds = facts["workers"][0]["seconds"]
    console.print(f"Time of worker 0: {', '.join(f'{phase} {seconds[phase]:.1f} s' for phase in PHASES)}")
    if size > 1:
        first, last = (facts["weights_sha256"][when][:12] for when in ("first_step", "last_step"))
        console.print(
            f"All {size} workers on {nodes} node(s) held the same weights after the first step ({first}) and the last ({last})."
        )
    if facts["scaling"] is not None:
        scaling = facts["scaling"]
        console.print(
            f"{scaling['speedup']:.2f} times as fast as one worker "
            f"({scaling['one_worker_examples_per_s']:.1f} examples/s in {scaling['one_worker_run']})."
        )


def show_memory(model: TrainedModel, console: Console) -> None:
    """Print a worker's memory as estimated before the run, and the peak that was measured."""
    estimated = model.preflight.get("memory")
    measured = [worker["peak_bytes"] for worker in model.distribution["workers"] if "peak_bytes" in worker]
    if estimated and measured:
        before, most = bytes_phrase(estimated["needed"]), bytes_phrase(max(measured))
        console.print(f"Memory of a worker: {before} estimated before the run, {most} measured.")


def show_comparison(model: TrainedModel, console: Console) -> None:
    """Print a paragraph if fine-tuning does not beat the baseline: the reason, and what to try."""
    paragraph = model_comparison(model)
    if paragraph is not None:
        console.print(f"[yellow]{paragraph}[/]")


def model_comparison(model: TrainedModel) -> str | None:
    """Return the paragraph of `show_comparison`; None if the model is better or there is no baseline."""
    if model.baseline is None:
        return None
    metric = model.config.train.metric
    return losing_paragraph(
        compare_with_baseline(model.artifact.manifest.metrics, model.baseline, metric=metric),
        model.config,
        model.fit,
        num_classes=len(model.artifact.manifest.labels),
        num_steps=int(model.history[-1]["step"]),
    )


def distribution_phrase(facts: dict[str, Any]) -> str:
    """Return the number of workers, ZeRO stage, precision and micro-batches in words."""
    size, passes = facts["world_size"], facts["micro_batches_per_step"]
    micro = f", {passes} passes of at most {facts['micro_batch_size']} rows per step" if passes > 1 else ""
    resumed = f", resumed at step {', '.join(map(str, facts['resumed_at_steps']))}" if facts["resumed_at_steps"] else ""
    return f"{size} worker{'s' if size > 1 else ''}, ZeRO {facts['zero_stage']}, {facts['precision']}{micro}{resumed}"


def show_fit(fit: Fit, console: Console) -> None:
    """Print how training and validation loss compare, in one line, and what to try next."""
    console.print(f"Fit: {fit.sentence()}")
    for sentence in fit.advice:
        console.print(f"  • {sentence}")


def show_calibration(artifact: ModelArtifact, console: Console) -> None:
    """Print how the temperature changed the probabilities, and how many rows are answered at which precision."""
    if artifact.manifest.calibration is not None:
        for sentence in artifact.manifest.calibration.sentences():
            console.print(sentence)


def shown_metrics(artifact: ModelArtifact) -> list[tuple[str, str]]:
    """Return the metrics to show for a model, with their names. Micro F1 is left out where it equals accuracy."""
    if artifact.manifest.task != "multilabel":
        return [(key, words) for key, words in SHOWN_METRICS if key != "f1_micro"]
    return [(key, "accuracy (all labels of a row right)" if key == "accuracy" else words) for key, words in SHOWN_METRICS]


def registered_as(model: TrainedModel) -> str:
    """Return name, version and aliases."""
    aliases = f" ({', '.join(model.version.aliases)})" if model.version.aliases else ""
    return f"{model.version.name} version {model.version.version}{aliases}"


def next_commands(promotion: Promotion, *, experiment: Path | None) -> list[tuple[str, str]]:
    """Return the commands that usually follow a run, each with its purpose. The first one says which version answers."""
    version, champion = promotion.version, promotion.champion
    answering = f"{version} answers over HTTP"
    if champion is not None and not promotion.promoted:
        answering = f"{champion} answers over HTTP, not the new {version}"
    commands = [(f"manta serve {version.name}", answering), ("manta ui", "try it in the browser")]
    if experiment is not None:
        commands.append((f"manta tune {experiment}", "search a better learning rate and dropout"))
    return commands


def trained_result(model: TrainedModel) -> dict[str, Any]:
    """Return the result as `--json` prints it."""
    return {
        "run": model.run.name,
        "model": model.version.name,
        "version": model.version.version,
        "promotion": model.promotion.to_dict(),
        "metrics": model.artifact.manifest.metrics,
        "baseline": model.preflight.get("baseline"),
        "artifact": shown(model.artifact.path),
        "report": shown(model.run.path / "report.json"),
        "fit": asdict(model.fit),
        "wall_s": round(model.wall_s, 1),
    }


def show_tuned(tuned: TunedModel, console: Console) -> None:
    """Print the trials, best first, the confirmation of the best ones, and then the best trial as a finished run."""
    config = tuned.model.config
    metric = config.train.metric
    names = list(tuned.trials[0].values)
    headings = ("", *(name.rsplit(".", 1)[-1] for name in names), "epochs", f"validation {metric}", "")
    table = people_table(*headings, title="Trials, best first")
    for trial in tuned.trials:
        score = trial.score(config)
        ending = f"failed: {trial.reason}" if trial.status == "failed" else "" if trial.status == "done" else trial.status
        cells = [trial.name, *(short(trial.values[name]) for name in names), str(len(trial.history))]
        style = "red" if trial.status == "failed" else ""
        table.add_row(*cells, "" if score is None else f"{score:.4f}", escape(ending), style=style)
    console.print(table)
    for item in tuned.confirmed:
        console.print(
            f"{item.trial.name} with {len(item.scores)} other seeds: validation {metric} {item.mean:.4f} ± {item.std:.4f}"
        )
    if why := why_it_stays(tuned.confirmed, config):
        console.print(why)
    if not tuned.confirmed and config.tune.confirm is not None and len(tuned.trials) > 1:
        console.print("[yellow]The winner was not confirmed with other seeds: there was no time left.[/]")
    show_trained(tuned.model, console, experiment=None)
    console.print(f"  manta train {tuned.best_config_path}   [dim]# repeat the best trial[/]")
    console.print(f"Report with plots: {tuned.page}")


def tuned_result(tuned: TunedModel) -> dict[str, Any]:
    """Return the result as `--json` prints it."""
    statuses = Counter(trial.status for trial in tuned.trials)
    return trained_result(tuned.model) | {
        "best_values": tuned.winner.values,
        "best_config": shown(tuned.best_config_path),
        "page": str(tuned.page),
        "num_trials": len(tuned.trials),
        "num_stopped_early": statuses["stopped early"],
        "num_failed": statuses["failed"],
        "num_not_run": statuses["not run"],
        "confirmed": [{"trial": item.trial.name, "mean": item.mean, "std": item.std} for item in tuned.confirmed],
    }
