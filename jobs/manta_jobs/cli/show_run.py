"""The output of a finished run on one screen: the verdict, where the model is, and the next commands.

What each worker held and computed, and every line of the gate, are in `report.json`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from manta.console import duration, people_table
from manta.storage.object_store import shown
from manta_jobs.packaging.diagnosis import SHORT, baseline_comparison, losing_paragraph, lost_by_linear
from manta_jobs.registry.promotion import outcome_lines, refusal_commands
from manta_jobs.reporting.figures import SHOWN_METRICS
from manta_jobs.tuning.confirm import why_it_stays
from manta_jobs.tuning.live_table import short

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from manta_jobs.packaging.diagnosis import Fit
    from manta_jobs.registry.promotion import Promotion
    from manta_jobs.runs.results import TrainedModel, TunedModel

MOST_TRIALS = 5


def show_trained(model: TrainedModel, console: Console, *, experiment: Path | None) -> None:
    """Print how a run ended."""
    show_verdict(model, console)
    if model.suspects is not None and model.suspects.count:
        console.print(model.suspects.sentence(f"manta data check {experiment or 'EXPERIMENT.yaml'}"), markup=False)
    console.print(model_table(model, report=shown(model.run.path / "report.json")))
    show_next(next_commands(model.promotion, experiment=experiment), console)


def show_verdict(model: TrainedModel, console: Console) -> None:
    """Print whether the model is good, whether it became the champion and why, what to try, and when it is uncertain."""
    console.print(verdict_line(model))
    for line in (*map(escape, model.promotion.notes), *outcome_lines(model.promotion)):
        console.print(line)
    if model.fit is not None:
        show_fit(model.fit, console)
    if model.artifact.manifest.calibration is not None:
        for sentence in model.artifact.manifest.calibration.sentences()[1:]:
            console.print(sentence)
    if model.artifact.manifest.scope is not None:
        console.print(model.artifact.manifest.scope.sentence())


def verdict_line(model: TrainedModel) -> str:
    """Return a sentence that says whether the model beats the baseline on the test rows, and if not, why."""
    metric = model.config.train.metric
    compared = baseline_comparison(model.preflight, model.artifact.manifest.metrics, metric=metric)
    words, rows = SHORT.get(metric, metric), f"{model.num_test_rows:,} test rows"
    if compared is None:
        return f"{model.version} is finished: {words} {model.artifact.manifest.metrics[metric]:.4f} on {rows}."
    lost = (
        lost_by_linear(compared)
        if model.fit is None
        else losing_paragraph(
            compared,
            model.config,
            model.fit,
            num_classes=len(model.artifact.manifest.labels),
            num_steps=int(model.history[-1]["step"]),
        )
    )
    if lost is not None:
        return f"[yellow]Not better than the baseline:[/] {lost}"
    return (
        f"[green]Good:[/] {model.version} beats TF-IDF with logistic regression: test {words} {compared.model:.4f} against "
        f"{compared.baseline:.4f}, on {rows}."
    )


def show_fit(fit: Fit, console: Console) -> None:
    """Print how training and validation loss compare if that is a concern, and what to try next."""
    if fit.verdict != "fits":
        console.print(f"Fit: {fit.sentence()}")
    if fit.advice:
        console.print("To try next:")
    for sentence in fit.advice:
        console.print(f"  • {sentence}")


def model_table(model: TrainedModel, *, report: str) -> Table:
    """Return the test figures that the verdict leaves out, the settings, and where the model and its report are."""
    metrics, train, baseline = model.artifact.manifest.metrics, model.config.train, model.baseline
    table = people_table("", "", header=False)
    table.box = None
    for key, words in shown_metrics(model):
        if key == train.metric:
            continue
        beside = f"   TF-IDF {baseline.test[key]:.4f}" if baseline is not None else ""
        table.add_row(f"test {words}", f"{metrics[key]:.4f}{beside}")
    linear = model.outcome.kept_linear
    if linear is not None:
        encoder = "frozen" if model.outcome.method == "linear" else "adapted"
        table.add_row("settings", f"method {model.outcome.method}: {encoder} encoder, regression with C {linear.strength:g}")
        table.add_row("took", duration(model.wall_s))
    else:
        rate, dropout = train.peak_learning_rate, model.config.model.dropout
        table.add_row("settings", f"learning rate {rate:.3g}, {len(model.history)} epochs, dropout {dropout:.3g}")
        table.add_row("took", f"{duration(model.wall_s)} with {distribution_phrase(model.distribution)}")
    table.add_row("model folder", shown(model.artifact.path))
    table.add_row("report", report)
    return table


def distribution_phrase(facts: dict[str, Any]) -> str:
    """Return the number of workers, ZeRO stage, precision, micro-batches and speedup in words."""
    size, passes = facts["world_size"], facts["micro_batches_per_step"]
    micro = f", {passes} passes of at most {facts['micro_batch_size']} rows per step" if passes > 1 else ""
    resumed = f", resumed at step {', '.join(map(str, facts['resumed_at_steps']))}" if facts["resumed_at_steps"] else ""
    faster = f", {facts['scaling']['speedup']:.2f} times as fast as one" if facts["scaling"] is not None else ""
    return f"{size} worker{'s' if size > 1 else ''}, ZeRO {facts['zero_stage']}, {facts['precision']}{micro}{resumed}{faster}"


def shown_metrics(model: TrainedModel) -> list[tuple[str, str]]:
    """Return the metrics to show, with their names: accuracy, F1 and the metric that chose the model."""
    task = model.artifact.manifest.task
    keys = {"accuracy", "f1_macro", model.config.train.metric} | ({"f1_micro"} if task == "multilabel" else set())
    if task == "multilabel":
        whole = "accuracy (all labels of a row right)"
        return [(key, whole if key == "accuracy" else words) for key, words in SHOWN_METRICS if key in keys]
    return [(key, words) for key, words in SHOWN_METRICS if key in keys and key != "f1_micro"]


def next_commands(promotion: Promotion, *, experiment: Path | None) -> list[tuple[str, str]]:
    """Return the commands that usually follow a run, each with its purpose. The first one says which version answers."""
    version, champion = promotion.version, promotion.champion
    answering = f"{version} answers over HTTP"
    if champion is not None and not promotion.promoted:
        answering = f"{champion} answers over HTTP, not the new {version}"
    commands = [(f"manta serve {version.name}", answering), ("manta ui", "try it in the browser"), *refusal_commands(promotion)]
    if experiment is not None:
        commands.append((f"manta tune {experiment}", "search a better learning rate and dropout"))
    return commands


def show_next(commands: list[tuple[str, str]], console: Console) -> None:
    """Print the next commands."""
    console.print("Next:")
    for command, what in commands:
        console.print(f"  {escape(command)}   [dim]# {escape(what)}[/]")


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
        "fit": None if model.fit is None else asdict(model.fit),
        "method": model.outcome.method,
        "label_suspects": None if model.suspects is None else asdict(model.suspects),
        "wall_s": round(model.wall_s, 1),
    }


def show_tuned(tuned: TunedModel, console: Console) -> None:
    """Print how a search ended: the best trial as a finished run, and the trials beside it."""
    show_verdict(tuned.model, console)
    if tuned.trials:
        console.print(trials_table(tuned))
    config = tuned.model.config
    for item in tuned.confirmed:
        mean = f"validation {config.train.metric} {item.mean:.4f} ± {item.std:.4f}"
        console.print(f"{item.trial.name} with {len(item.scores)} other seeds: {mean}")
    if tuned.confirmed:
        console.print(f"{tuned.confirmed[0].trial.name} won.")
    if why := why_it_stays(tuned.confirmed, config):
        console.print(why)
    outcome, average = tuned.model.outcome, tuned.model.outcome.average
    if outcome.searched is not None:
        console.print(outcome.sentence(), markup=False)
    if average is not None:
        console.print(average.sentence())
    if not tuned.confirmed and config.tune.confirm is not None and len(tuned.trials) > 1:
        console.print("[yellow]The winner was not confirmed with other seeds: there was no time left.[/]")
    console.print(model_table(tuned.model, report=str(tuned.page)))
    one_run = average is None or not average.is_kept
    what = (
        f"repeat the {'best trial' if outcome.method == 'full' else 'run'}" if one_run else "train once with the winning settings"
    )
    again = (f"manta train {tuned.best_config_path}", what)
    show_next([*next_commands(tuned.model.promotion, experiment=None), again], console)


def trials_table(tuned: TunedModel) -> Table:
    """Return the best trials and the failed ones. The report has all."""
    config = tuned.model.config
    names = list(tuned.trials[0].values)
    best = [trial for index, trial in enumerate(tuned.trials) if index < MOST_TRIALS or trial.status == "failed"]
    more = f" ({len(tuned.trials) - len(best)} more in the report)" if len(best) < len(tuned.trials) else ""
    headings = ("", *(name.rsplit(".", 1)[-1] for name in names), "epochs", f"validation {config.train.metric}", "")
    table = people_table(*headings, title=f"Trials, best first{more}")
    for trial in best:
        score = trial.score(config)
        ending = f"failed: {trial.reason}" if trial.status == "failed" else "" if trial.status == "done" else trial.status
        cells = [trial.name, *(short(trial.values[name]) for name in names), str(len(trial.history))]
        style = "red" if trial.status == "failed" else ""
        table.add_row(*cells, "" if score is None else f"{score:.4f}", escape(ending), style=style)
    return table


def tuned_result(tuned: TunedModel) -> dict[str, Any]:
    """Return the result as `--json` prints it."""
    statuses = Counter(trial.status for trial in tuned.trials)
    return trained_result(tuned.model) | {
        "best_values": None if tuned.winner is None else tuned.winner.values,
        "best_config": shown(tuned.best_config_path),
        "page": str(tuned.page),
        "num_trials": len(tuned.trials),
        "num_stopped_early": statuses["stopped early"],
        "num_failed": statuses["failed"],
        "num_not_run": statuses["not run"],
        "confirmed": [{"trial": item.trial.name, "mean": item.mean, "std": item.std} for item in tuned.confirmed],
    }
