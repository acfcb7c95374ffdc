"""Output of `manta evaluate` on the terminal and as JSON: the short form of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape

from manta.console import people_table
from manta_jobs.reporting.evaluation.sections import (
    behaviour_rows,
    behaviour_sentence,
    headline_of,
    metric_rows,
    mistake_rows,
    worst_sentence,
)

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from manta_jobs.reporting.evaluation.assessment import Assessment

SHOWN_LABELS = 20
SHOWN_MISTAKES = 5
SHOWN_CHARACTERS = 100


def show_evaluation(assessment: Assessment, page: Path, console: Console) -> None:
    """Print the metrics, the worst slice, the mistakes with the highest confidence, the behaviour tests and the report's path."""
    table = people_table("", "", title=escape(headline_of(assessment)), header=False)
    for words, value in metric_rows(assessment):
        table.add_row(words, f"{value:.4f}")
    latency = assessment.latency
    table.add_row("one text (p50 / p90 / p99)", f"{latency.p50_ms:.1f} / {latency.p90_ms:.1f} / {latency.p99_ms:.1f} ms")
    table.add_row("in batches", f"{latency.rows_per_s:,.0f} rows/s on {escape(latency.device)}")
    console.print(table)
    console.print(_labels_table(assessment))
    console.print(escape(worst_sentence(assessment)))
    if assessment.mistakes:
        console.print("Surest mistakes (is the label right?):")
    for row in mistake_rows(assessment)[:SHOWN_MISTAKES]:
        text = " / ".join(row.texts)
        text = text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"
        console.print(f"  {row.place}: {row.score:.4f} {escape(row.answer)}, not {escape(row.labels)}: {escape(text)}")
    if assessment.behaviour is not None:
        console.print(_behaviour_table(assessment))
    console.print(f"Report: {escape(str(page))}")


def evaluation_result(assessment: Assessment, page: Path) -> dict[str, Any]:
    """Return the result as `--json` prints it: `report.json` without the long lists, plus the paths of the report."""
    figures = assessment.to_dict()
    for long in ("confusion", "calibration", "mistakes"):
        del figures[long]
    return figures | {"page": str(page), "report": str(page.with_name("report.json"))}


def _labels_table(assessment: Assessment) -> Table:
    """Return a table of the labels; of the worst ones only if there are many."""
    rows = list(assessment.per_class.items())
    thresholds = dict(zip(assessment.labels.names, assessment.labels.thresholds or (), strict=False))
    title = "By label"
    if len(rows) > SHOWN_LABELS:
        rows = sorted(rows, key=lambda item: item[1]["f1"])[:SHOWN_LABELS]
        title = f"The worst {SHOWN_LABELS} of {len(assessment.per_class)} labels"
    table = people_table("label", "precision", "recall", "F1", "rows", *(["threshold"] if thresholds else []), title=title)
    for name, row in rows:
        scores = [f"{row[key]:.4f}" for key in ("precision", "recall", "f1")]
        table.add_row(escape(name), *scores, str(int(row["rows"])), *([f"{thresholds[name]:.4f}"] if thresholds else []))
    return table


def _behaviour_table(assessment: Assessment) -> Table:
    table = people_table("test", "kind", "failed", "allowed", "", title=escape(behaviour_sentence(assessment)))
    for row in behaviour_rows(assessment):
        failed = f"{row.result.num_failed} of {row.result.num_cases}"
        style = "red" if row.style else ""
        table.add_row(escape(row.result.name), row.kind, failed, f"{row.result.allowed:.0%}", row.verdict, style=style)
    return table
