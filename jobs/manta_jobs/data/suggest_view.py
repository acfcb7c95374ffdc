"""The result of `manta data suggest` for people: the first rows to label, the forecast, and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from manta.console import duration, people_table
from manta_jobs.data.view import shortened

if TYPE_CHECKING:
    from rich.console import Console

    from manta_jobs.data.suggest import Suggested

MOST_ROWS = 10


def show_suggested(result: Suggested, console: Console, *, command: str, experiment: str | None) -> None:
    """Print the result. `command` is the command to type again."""
    shown = result.rows[:MOST_ROWS]
    more = f" ({len(result.rows) - len(shown):,} more in the file)" if len(result.rows) > len(shown) else ""
    table = people_table("text", "suggested", "probability", "margin", title=f"Rows to label next, the most uncertain first{more}")
    for row in shown:
        table.add_row(*map(escape, (shortened(row.text), row.suggested, f"{row.probability:.2f}", f"{row.margin:.2f}")))
    console.print(table)
    for line in summary(result):
        console.print(line, markup=False)
    console.print("Next:")
    for line, what in next_steps(result, command=command, experiment=experiment):
        console.print(f"  {escape(line)}   [dim]# {escape(what)}[/]")


def summary(result: Suggested) -> list[str]:
    """Return the counts, the forecast, and where the file is."""
    chosen = f"{len(result.rows):,} chosen of {result.num_open:,} texts without a label"
    lines = [f"{chosen} ({result.num_pool:,} rows in the pool); {result.num_labeled:,} rows are labeled."]
    if result.forecast is not None:
        lines.append(result.forecast.sentence())
    kept = f", below {result.num_filled:,} that have a label" if result.num_filled else ""
    return [*lines, f"Chosen rows: {result.file}{kept} (after {duration(result.seconds)})"]


def next_steps(result: Suggested, *, command: str, experiment: str | None) -> list[tuple[str, str]]:
    """Return the next commands, each with its purpose."""
    steps = [
        ("manta ui", f"label them in the tab Labels, with a key for each label; or fill the column label of {result.file}"),
        (command, "keeps the rows that have a label by then, learns from them, and chooses the next"),
    ]
    if experiment is not None:
        settings = f"--set data.feedback={result.file} --set data.corrections={result.decisions}"
        steps.append((f"manta train {experiment} {settings}", "train with them"))
    return steps
