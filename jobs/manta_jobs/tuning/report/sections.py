"""The words and figures of a search's report, section by section. `page/page.html` lays them out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manta.console import duration
from manta_jobs.reporting.figures import SHOWN_METRICS
from manta_jobs.reporting.page import Card, counted
from manta_jobs.tuning.report.results import SearchResults, is_number, value_text

if TYPE_CHECKING:
    from manta.config import ExperimentConfig, Method, Range
    from manta_jobs.tuning.journal import Trial
    from manta_jobs.tuning.report.savings import Savings

BASELINE = "TF-IDF with logistic regression"
SEARCHES = {"random": "at random", "grid": "every combination", "optuna": "Optuna's TPE"}
SCHEDULERS = {
    "asha": "ASHA: after each rung of epochs, the best third of the trials goes on",
    "none": "none: every trial runs to its end",
}


@dataclass(frozen=True)
class BaselineVerdict:
    """The fine-tuned model beside the baseline."""

    is_better: bool
    sentence: str


@dataclass(frozen=True)
class SettingCell:
    """A value of the table, and its sort key."""

    text: str
    key: str


@dataclass(frozen=True)
class TrialRow:
    """One trial's line of the table."""

    trial: Trial
    style: str
    """CSS class of the row: winner, failed, idle or empty."""
    badges: list[str]
    values: list[SettingCell]
    planned: int
    score: float | None
    took_s: float | None
    took: str


@dataclass(frozen=True)
class ChosenRow:
    """One searched field: its range, the config's own value and the winner's."""

    name: str
    range: str
    own: str
    chosen: str


@dataclass(frozen=True)
class ConfirmedRow:
    """One confirmed trial's line."""

    name: str
    result: str
    scores: str
    is_winner: bool


def headline_of(results: SearchResults) -> str:
    """Return the result in one or two sentences."""
    winner = results.winner
    if winner is None:
        return f"No winner: none of {counted(len(results.trials), 'trial')} finished an epoch."
    sentence = f"{winner.name} won among {counted(len(results.trials), 'trial')}: {winner_score(results)}."
    if winner is results.own:
        sentence += " These are the config's own values; nothing that was tried is better by more than chance."
    return sentence


def winner_score(results: SearchResults) -> str:
    """Return the winner's validation result, as mean ± standard deviation if it was trained again."""
    confirmed = results.winning
    if confirmed is not None and len(confirmed.scores) > 1:
        return f"{results.metric_label} {confirmed.mean:.4f} ± {confirmed.std:.4f} over {len(confirmed.scores)} other seeds"
    if confirmed is not None and confirmed.scores:
        return f"{results.metric_label} {confirmed.mean:.4f} with another seed"
    score = None if results.winner is None else results.score(results.winner)
    return f"{results.metric_label} {'unknown' if score is None else f'{score:.4f}'}, with one seed"


def cards_of(
    results: SearchResults,
    saved: Savings,
    *,
    test_metrics: dict[str, float],
    baseline_metrics: dict[str, float] | None,
    method: Method,
) -> list[Card]:
    """Return the figures at the top of the page."""
    cards: list[Card] = []
    key = compared_metric(results.config, test_metrics, baseline_metrics)
    name = key.replace("_", " ")
    if key in test_metrics:
        whose = "the winner" if method == "full" else f"the method {method}"
        cards.append(Card(f"Test {name}", f"{test_metrics[key]:.4f}", f"{whose}, on rows read once"))
    if baseline_metrics is not None and key in baseline_metrics:
        cards.append(Card("Baseline", f"{baseline_metrics[key]:.4f}", f"test {name} of {BASELINE}"))
    confirmed = results.winning
    score = None if results.winner is None else results.score(results.winner)
    if confirmed is not None and confirmed.scores:
        spread = (
            f"± {confirmed.std:.4f} over {len(confirmed.scores)} other seeds" if len(confirmed.scores) > 1 else "one other seed"
        )
        cards.append(Card(results.metric_label.capitalize(), f"{confirmed.mean:.4f}", f"mean of the winner, {spread}"))
    elif score is not None:
        cards.append(Card(results.metric_label.capitalize(), f"{score:.4f}", "the winner, with one seed"))
    own = None if results.own is None else results.score(results.own)
    if own is not None and results.own is not results.winner:
        cards.append(Card("The config's own values", f"{own:.4f}", f"{results.metric_label}, with one seed"))
    cards.append(Card("Saved by stopping early", f"{100 * saved.share:.0f}%", f"{saved.num_saved} of {saved.num_planned} epochs"))
    return cards


def compared_metric(config: ExperimentConfig, test_metrics: dict[str, float], baseline_metrics: dict[str, float] | None) -> str:
    """Return the metric that chooses the winner, or accuracy if that metric was not measured for both models."""
    known = set(test_metrics) & set(baseline_metrics if baseline_metrics is not None else test_metrics)
    return config.train.metric if config.train.metric in known else "accuracy"


def comparison_of(
    results: SearchResults, *, test_metrics: dict[str, float], baseline_metrics: dict[str, float] | None, method: Method
) -> BaselineVerdict | None:
    """Compare the registered model with the baseline; None without a baseline."""
    key = compared_metric(results.config, test_metrics, baseline_metrics)
    if baseline_metrics is None or key not in test_metrics or key not in baseline_metrics:
        return None
    tuned, baseline = test_metrics[key], baseline_metrics[key]
    gain = baseline - tuned if key == "loss" else tuned - baseline
    name, figures = key.replace("_", " "), f"{tuned:.4f} against {baseline:.4f}"
    subject = "Fine-tuning" if method == "full" else f"The method {method}"
    if gain > 0:
        return BaselineVerdict(True, f"{subject} beats {BASELINE} by {gain:.4f} in test {name}: {figures}.")
    return BaselineVerdict(
        False,
        f"{subject} does not beat {BASELINE} in test {name}: {figures}. The simpler model is the better choice, unless "
        "more epochs, a higher learning rate or another encoder turn that around.",
    )


def metric_rows(test_metrics: dict[str, float], baseline_metrics: dict[str, float] | None) -> list[tuple[str, float, float | None]]:
    """Return each test metric in words, for the winner and the baseline. Micro F1 is left out if it equals accuracy."""
    rows: list[tuple[str, float, float | None]] = []
    for key, words in SHOWN_METRICS:
        repeats = key == "f1_micro" and test_metrics.get(key) == test_metrics.get("accuracy")
        if key in test_metrics and not repeats:
            rows.append((words, test_metrics[key], (baseline_metrics or {}).get(key)))
    return rows


def chosen_rows(results: SearchResults) -> list[ChosenRow]:
    """Return each searched field with its range, the config's own value and the winner's."""
    winner_values = results.winner_values or {}
    rows: list[ChosenRow] = []
    for name, values in results.config.tune.searched.items():
        own = value_text(results.own_values[name])
        chosen = value_text(winner_values[name]) if name in winner_values else "–"
        rows.append(ChosenRow(name, range_text(values), own, chosen))
    return rows


def range_text(values: Range) -> str:
    """Return a range in words."""
    if values.choice is not None:
        return f"one of {', '.join(map(value_text, values.choice))}"
    low, high = values.bounds or (0.0, 1.0)
    return f"{value_text(low)} to {value_text(high)}{', on a log scale' if values.loguniform else ''}"


def savings_sentence(saved: Savings) -> str:
    """Return the planned, run and saved epochs in words."""
    if not saved.num_planned:
        return "No epoch was planned."
    others = saved.num_not_run - saved.num_saved
    rest = (
        f" {counted(others, 'more epoch')} did not run because trials failed, ran out of time or never started." if others else ""
    )
    return (
        f"Of {counted(saved.num_planned, 'planned epoch')}, {saved.num_run} ran. Stopping early saved "
        f"{saved.num_saved} ({100 * saved.share:.0f}%).{rest}"
    )


def time_sentence(saved: Savings) -> str | None:
    """Return the worker time of the trials and of the saved epochs in words, if it is known."""
    parts: list[str] = []
    if saved.worker_s is not None:
        parts.append(f"The trials took {duration(saved.worker_s)} of worker time.")
    if saved.saved_worker_s is not None:
        parts.append(f"Training the saved epochs would have taken about {duration(saved.saved_worker_s)} more.")
    return " ".join(parts) or None


def trials_sentence(results: SearchResults) -> str:
    """Return the number of trials with each status, and the number of the budget's trials that did not run."""
    statuses = [trial.status for trial in results.trials]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    sentence = f"{counted(len(statuses), 'trial')}: {counts}." if statuses else "There were no trials."
    # A grid may have fewer combinations than the budget has trials.
    missing = results.config.tune.budget.num_trials - len(statuses) if results.config.tune.search != "grid" else 0
    if missing > 0:
        sentence += f" {counted(missing, 'more trial')} of the budget's {results.config.tune.budget.num_trials} did not run."
    return sentence


def trial_rows(results: SearchResults) -> list[TrialRow]:
    """Return all trials: scored ones best first, then failed ones, then those that never ran."""
    ranks = {trial.name: rank for rank, trial in enumerate(results.ranked)}
    last = len(ranks)
    order = sorted(results.trials, key=lambda trial: (trial.status == "not run", ranks.get(trial.name, last)))
    return [trial_row(trial, results) for trial in order]


def trial_row(trial: Trial, results: SearchResults) -> TrialRow:
    """Return one trial's line of the table."""
    is_winner, is_own = trial is results.winner, trial is results.own
    style = "failed" if trial.status == "failed" else "winner" if is_winner else "" if trial.history else "idle"
    known = trial.started_s is not None and trial.ended_s is not None
    took_s = (trial.ended_s or 0.0) - (trial.started_s or 0.0) if known else None
    return TrialRow(
        trial=trial,
        style=style,
        badges=[words for words, is_so in (("winner", is_winner), ("config's own values", is_own)) if is_so],
        values=[cell_of(trial.values, name) for name in results.config.tune.searched],
        planned=results.planned(trial),
        score=results.score(trial),
        took_s=took_s,
        took="–" if took_s is None else duration(took_s),
    )


def cell_of(values: dict[str, Any], name: str) -> SettingCell:
    """Return a searched value as a cell of the table."""
    if name not in values:
        return SettingCell("–", "")
    text = value_text(values[name])
    return SettingCell(text, repr(values[name]) if is_number(values[name]) else text)


def confirmed_rows(results: SearchResults) -> list[ConfirmedRow]:
    """Return each confirmed trial with its mean and the score of each seed."""
    rows: list[ConfirmedRow] = []
    for each in results.confirmations:
        result = (
            f"{each.mean:.4f} ± {each.std:.4f}" if len(each.scores) > 1 else f"{each.mean:.4f}" if each.scores else "all failed"
        )
        scores = ", ".join(f"{score:.4f}" for score in each.scores)
        rows.append(ConfirmedRow(each.trial.name, result, scores, each is results.winning))
    return rows


def settings_of(config: ExperimentConfig) -> list[tuple[str, str]]:
    """Return the settings of the search in words."""
    tune, train, budget = config.tune, config.train, config.tune.budget
    limits = [counted(budget.num_trials, "trial")]
    limits += [f"{duration(budget.wall_clock_s)} in all"] if budget.wall_clock_s is not None else []
    limits += [f"{budget.worker_hours:g} worker hours"] if budget.worker_hours is not None else []
    confirm, confirmation = tune.confirm, "none"
    if confirm is not None:
        confirmation = f"the best {confirm.top_k} and the first, with {counted(confirm.seeds, 'other seed')} each"
    workers = f"{train.min_workers} to {train.max_workers}" if train.min_workers < train.max_workers else f"{train.max_workers}"
    return [
        ("chosen by", f"validation {train.metric} ({'lower' if train.metric_mode == 'min' else 'higher'} is better)"),
        *((name, range_text(values)) for name, values in tune.searched.items()),
        ("values drawn", SEARCHES.get(tune.search, tune.search)),
        ("stopping", SCHEDULERS.get(tune.scheduler, tune.scheduler)),
        ("budget", ", ".join(limits)),
        ("confirmation", confirmation),
        ("seed of the draws", str(tune.seed)),
        ("seed of training", str(train.seed)),
        ("epochs of a trial", f"at most {train.planned_epochs}" if "train.num_epochs" not in tune.searched else "searched"),
        ("workers of a trial", f"{workers}, ZeRO stage {train.zero_stage}"),
        ("encoder", config.model.pretrained),
        ("training rows", config.data.train),
    ]


def commands_of(results: SearchResults) -> list[tuple[str, str]]:
    """Return the commands to type next, each with its purpose."""
    commands = [("manta tune config.yaml", "repeat the whole search")]
    if results.winner_values is not None:
        commands.insert(0, ("manta train best.yaml", "repeat the winner alone"))
        commands.append((f"manta serve {results.config.registered_name}", "answer over HTTP with the champion"))
    return commands
