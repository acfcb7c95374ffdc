"""The text and figures of an evaluation's report, by section; `page/page.html` and the terminal show them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from manta.behaviour.perturbations import parts_of
from manta_jobs.reporting.page import Card, counted

if TYPE_CHECKING:
    from manta.behaviour.run import BehaviourResult, Failure
    from manta_jobs.reporting.evaluation.assessment import Assessment
    from manta_jobs.reporting.evaluation.slices import Slice

KINDS = {"invariance": "invariance", "direction": "direction", "minimum_functionality": "minimum functionality"}
METRICS = (
    ("accuracy", "accuracy"),
    ("f1_macro", "macro F1"),
    ("f1_weighted", "weighted F1"),
    ("f1_micro", "micro F1"),
    ("precision_macro", "macro precision"),
    ("precision_weighted", "weighted precision"),
    ("recall_macro", "macro recall"),
    ("recall_weighted", "weighted recall"),
    ("roc_auc", "ROC-AUC"),
    ("pr_auc", "PR-AUC (average precision)"),
    ("roc_auc_macro", "macro ROC-AUC, one label against the rest"),
    ("pr_auc_macro", "macro PR-AUC, one label against the rest"),
    ("loss", "loss (nats)"),
    ("ece", "expected calibration error"),
    ("brier", "Brier score"),
)


@dataclass(frozen=True)
class SliceRow:
    """A table row for one slice."""

    part: Slice
    interval: str
    verdict: str
    """Verdict: `worse` or `better` if the interval excludes the accuracy of all rows, `no rows` for an empty slice, else empty."""
    style: str


@dataclass(frozen=True)
class MistakeRow:
    """A table row for one mistake."""

    place: str
    texts: tuple[str, ...]
    labels: str
    answer: str
    score: float


@dataclass(frozen=True)
class FailureRow:
    """One failed case: the texts, the answer, and the expected answer."""

    texts: tuple[str, ...]
    changed: tuple[str, ...]
    answer: str
    expected: str


@dataclass(frozen=True)
class BehaviourRow:
    """A table row for one behaviour test."""

    result: BehaviourResult
    kind: str
    style: str
    verdict: str
    failures: list[FailureRow]


def headline_of(assessment: Assessment) -> str:
    """Return the result in a sentence."""
    accuracy = assessment.metrics["accuracy"]
    what = "all labels right in" if assessment.labels.task == "multilabel" else "right in"
    return f"{assessment.subject.title} is {what} {accuracy:.1%} of {counted(assessment.num_rows, 'row')}."


def cards_of(assessment: Assessment) -> list[Card]:
    """Return the main figures, shown at the top."""
    metrics, latency = assessment.metrics, assessment.latency
    several = assessment.labels.task == "multilabel"
    cards = [
        Card("Accuracy", f"{metrics['accuracy']:.4f}", "all labels of a row right" if several else "share of rows that are right"),
        Card("Macro F1", f"{metrics['f1_macro']:.4f}", "each label counts alike"),
        Card("Calibration error", f"{metrics['ece']:.4f}", "0 is perfect"),
    ]
    if assessment.worst is not None:
        worst = assessment.worst
        cards.append(Card("Worst slice", f"{worst.accuracy:.4f}", f"{worst.title}, {counted(worst.num_rows, 'row')}"))
    if assessment.behaviour is not None:
        behaviour = assessment.behaviour
        cards.append(Card("Behaviour tests", f"{behaviour.num_passed} of {len(behaviour.tests)}", "passed"))
    cards.append(Card("One text", f"{latency.p50_ms:.0f} ms", f"{latency.p99_ms:.0f} ms at worst (99 of 100)"))
    return cards


def metric_rows(assessment: Assessment) -> list[tuple[str, float]]:
    """Return every overall metric with its name, and the rows out of scope. Micro F1 is left out where it equals accuracy."""
    several = assessment.labels.task == "multilabel"
    rows = [(words, assessment.metrics[key]) for key, words in METRICS if key in assessment.metrics]
    if assessment.out_of_scope is not None:
        rows.append(("share of rows out of scope", assessment.out_of_scope))
    return [row for row in rows if several or row[0] != "micro F1"]


def worst_sentence(assessment: Assessment) -> str:
    """Return a sentence on the worst slice, and whether it is worse by more than chance."""
    worst = assessment.worst
    if worst is None:
        return "All rows are alike in what they were sliced by."
    overall = assessment.metrics["accuracy"]
    compared = "significantly below" if worst.high < overall else "which may be chance beside"
    return (
        f"Worst slice: {worst.title}, {worst.accuracy:.1%} of {counted(worst.num_rows, 'row')} right "
        f"(95% interval {interval_text(worst)}), {compared} the {overall:.1%} of all rows."
    )


def slice_rows(assessment: Assessment) -> list[SliceRow]:
    """Return the slices in the order of the options."""
    overall = assessment.metrics["accuracy"]
    rows = []
    for part in assessment.slices:
        verdict = "worse" if part.high < overall else "better" if part.low > overall else ""
        style = "winner" if part == assessment.worst else "idle" if not part.num_rows else ""
        rows.append(SliceRow(part, interval_text(part) if part.num_rows else "–", verdict if part.num_rows else "no rows", style))
    return rows


def interval_text(part: Slice) -> str:
    """Return a slice's confidence interval as text."""
    return f"{part.low:.1%}–{part.high:.1%}"


def mistake_rows(assessment: Assessment) -> list[MistakeRow]:
    """Return the mistakes with the highest confidence."""
    several = assessment.labels.task == "multilabel"
    return [
        MistakeRow(
            place=mistake.place,
            texts=parts_of(mistake.text),
            labels=_listed(mistake.labels),
            answer=f"{_listed(mistake.answer)}; wrong: {mistake.label}" if several else _listed(mistake.answer),
            score=mistake.score,
        )
        for mistake in assessment.mistakes
    ]


def behaviour_sentence(assessment: Assessment) -> str:
    """Return a sentence on how many tests passed."""
    behaviour = assessment.behaviour
    if behaviour is None:
        return ""
    failed = len(behaviour.tests) - behaviour.num_passed
    return f"{behaviour.num_passed} of {counted(len(behaviour.tests), 'behaviour test')} passed" + (
        f", {failed} failed: {', '.join(test.name for test in behaviour.tests if not test.passed)}." if failed else "."
    )


def behaviour_rows(assessment: Assessment) -> list[BehaviourRow]:
    """Return the behaviour tests in the order of their file."""
    tests = () if assessment.behaviour is None else assessment.behaviour.tests
    rows = []
    for test in tests:
        verdict = "passed" if test.passed else "failed" if test.num_cases else "no row fits"
        failures = [failure_row(failure) for failure in test.failures]
        rows.append(BehaviourRow(test, KINDS[test.kind], "" if test.passed else "failed", verdict, failures))
    return rows


def failure_row(failure: Failure) -> FailureRow:
    """Return a failed case in words."""
    answer = f"{_listed(failure.labels)} ({failure.watched} {failure.score:.3f})"
    if failure.changed is not None and failure.changed_labels is not None:
        answer += f" → {_listed(failure.changed_labels)} ({failure.watched} {failure.changed_score:.3f})"
    return FailureRow(
        parts_of(failure.text), () if failure.changed is None else parts_of(failure.changed), answer, failure.expected
    )


def facts_of(assessment: Assessment) -> list[tuple[str, str]]:
    """Return the facts about the model, the data and the hardware."""
    latency, subject = assessment.latency, assessment.subject
    threads = "" if "NVIDIA" in latency.device else f", {counted(latency.num_threads, 'thread')}"
    times = (
        f"{latency.p50_ms:.1f} ms in the middle, {latency.p90_ms:.1f} ms at 90%, {latency.p99_ms:.1f} ms at 99% "
        f"(of {counted(latency.num_texts, 'text')})"
    )
    return [
        ("Model", subject.title),
        ("Model folder", subject.artifact),
        ("Made", subject.created),
        ("Rows", f"{subject.data}, {assessment.num_rows:,}"),
        ("Task", f"{assessment.labels.task}, {counted(len(assessment.labels.names), 'label')}"),
        ("Hardware", f"{latency.device}{threads}"),
        ("Single texts", times),
        ("In batches", f"{latency.rows_per_s:,.0f} rows/s"),
        *([("Behaviour suite", assessment.behaviour.path)] if assessment.behaviour is not None else []),
    ]


def _listed(labels: tuple[str, ...]) -> str:
    return ", ".join(labels) or "(none)"
