"""The result of `manta data check` for people: the first suspects, counts, overlapping labels, and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from manta.console import duration, fitted, people_table
from manta.label_check.suspects import KINDS
from manta.labels import names_of

if TYPE_CHECKING:
    from rich.console import Console

    from manta.label_check.suspects import Suspect
    from manta.labels import RowLabels
    from manta.texts import Text
    from manta_jobs.data.check import LabelCheck

MOST_SUSPECTS, MOST_OVERLAPS = 10, 5
LONGEST_TEXT = 60
LOW_AGREEMENT = 0.8
"""Agreement of the judging model with the labels below which most suspects were right in `benchmarks/data.py`."""


def show_check(check: LabelCheck, console: Console, *, is_experiment: bool) -> None:
    """Print the result of a check."""
    if check.found.rows:
        show_suspects(check, console)
    for line in summary(check):
        console.print(line, markup=False)
    console.print("Next:")
    for command, what in next_steps(check, is_experiment=is_experiment):
        console.print(f"  {escape(command)}   [dim]# {escape(what)}[/]")


def show_suspects(check: LabelCheck, console: Console) -> None:
    """Print the most doubtful rows as a table."""
    rows = check.found.rows
    shown = rows[:MOST_SUSPECTS]
    more = f" ({len(rows) - len(shown):,} more in the file)" if len(rows) > len(shown) else ""
    headings = ("text", "given", "proposed", "probability", "where", "split", "why")
    table = people_table(*headings, title=f"Rows to look at, the most doubtful label first{more}")
    for suspect in shown:
        table.add_row(*map(escape, cells(suspect)))
    console.print(fitted(table, console, expendable=("why", *(() if shown[0].place.split else ("split",)))))


def cells(suspect: Suspect) -> tuple[str, ...]:
    """Return the cells of a suspect's row."""
    place = suspect.place
    return (
        shortened(suspect.text),
        named(suspect.given),
        named(suspect.proposed),
        f"{suspect.probability:.2f}",
        f"{place.file.rsplit('/', 1)[-1]}:{place.line}",
        place.split or "",
        ", ".join(suspect.kinds),
    )


def shortened(text: Text) -> str:
    """Return the beginning of a text, or of a pair of texts, in one line."""
    line = " ".join((text if isinstance(text, str) else " — ".join(text)).split())
    return line if len(line) <= LONGEST_TEXT else line[:LONGEST_TEXT] + "…"


def named(label: RowLabels) -> str:
    """Return a label, or several, in words."""
    return ", ".join(names_of(label)) or "no label"


def summary(check: LabelCheck) -> list[str]:
    """Return the counts by kind, the splits of the suspects, overlapping labels, and where the file is."""
    total = sum(check.num_rows.values())
    lines = [f"{len(check.found.rows):,} of {total:,} rows to look at:"]
    lines += [f"  {count:6,} {KINDS[kind]} ({kind})" for kind, count in check.counts().items()]
    if "" not in check.num_rows:
        of = {name: sum(suspect.place.split == name for suspect in check.found.rows) for name in check.num_rows}
        lines.append("  by split: " + ", ".join(f"{name} {of[name]:,} of {count:,}" for name, count in check.num_rows.items()))
    lines += [pair.sentence() for pair in check.overlaps[:MOST_OVERLAPS]]
    if len(check.overlaps) > MOST_OVERLAPS:
        lines.append(f"{len(check.overlaps) - MOST_OVERLAPS} more pairs of labels overlap; --json lists them.")
    if check.noise is not None:
        lines.append(check.noise.sentence())
    lines.append(f"The model that judges has the given label of {check.agreement:.0%} of the rows.")
    if check.agreement < LOW_AGREEMENT:
        lines[-1] += (
            " Many of the suspects are its own errors: look at the first ones only, or name a better encoder in model.pretrained."
        )
    return [*lines, f"All suspects with their neighbors: {check.file} (after {duration(check.seconds)})"]


def next_steps(check: LabelCheck, *, is_experiment: bool) -> list[tuple[str, str]]:
    """Return the next commands, each with its purpose."""
    decisions = check.found.decisions
    steps = [("manta ui", f"decide about them in the tab Labels; decisions go to {decisions}")]
    if is_experiment:
        steps.append((f"manta train {check.found.data} --set data.corrections={decisions}", "train with the decisions applied"))
    return steps
