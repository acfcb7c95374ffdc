"""The tables of `quality.py`: every case and system, and Manta against the plain loop.

Figures are accuracy, and macro F1 in cases whose classes are far from equal. With one seed there is no standard deviation.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from quality_cases import CASES, UNBALANCED
from quality_results import Job, Result
from quality_systems import SYSTEMS

AGAINST = "plain-loop"
TRAINER = "trainer-2e-4x5"
"""Manta's seconds of training stand beside this one's."""


@dataclass(frozen=True)
class Page:
    """A table that is printed for people or as Markdown."""

    title: str
    headings: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Difference:
    """The gap between two systems on a case, over the seeds that both have."""

    mean: float
    standard_error: float | None
    """None with one seed."""
    num_seeds: int

    @property
    def verdict(self) -> str:
        """Return `below` if the mean is below by more than one standard error (with one seed, by anything)."""
        return "below" if self.mean < -(self.standard_error or 0.0) else ""


def print_tables(results: list[Result], *, as_markdown: bool) -> None:
    """All of them on stdout."""
    pages = [systems_page(results), *(manta_page(results, column) for column in manta_columns(results))]
    for page in pages:
        print(markdown(page)) if as_markdown else Console(width=max(120, 26 * len(page.headings))).print(rich_table(page))


def metric_of(case: str) -> str:
    """The metric that a case is judged by."""
    return "f1_macro" if case in UNBALANCED else "accuracy"


def standard_deviation(values: list[float]) -> float | None:
    """Of the values as a sample; None of fewer than two."""
    return statistics.stdev(values) if len(values) > 1 else None


def standard_error(values: list[float]) -> float | None:
    """Of the values' mean; None of fewer than two."""
    deviation = standard_deviation(values)
    return None if deviation is None else deviation / len(values) ** 0.5


def by_job(results: list[Result]) -> dict[tuple[str, str], dict[int, Result]]:
    """Results by case and column, and then by seed."""
    found: dict[tuple[str, str], dict[int, Result]] = {}
    for result in results:
        found.setdefault((result["case"], Job.of(result).column), {})[int(result["seed"])] = result
    return found


def cases_of(results: list[Result]) -> list[str]:
    """The cases that have results, in their usual order."""
    present = {result["case"] for result in results}
    return [case for case in CASES if case in present]


def columns_of(results: list[Result]) -> list[str]:
    """The columns that have results: systems in their usual order, labels as they first came."""
    first = dict.fromkeys((result["system"], Job.of(result).column) for result in results)
    return [column for system in SYSTEMS for name, column in first if name == system]


def manta_columns(results: list[Result]) -> list[str]:
    """The columns of `manta train` as it comes, one a label."""
    return columns_of([result for result in results if result["system"] == "manta"])


def systems_page(results: list[Result]) -> Page:
    """A row for each case, a column for each system."""
    found, columns = by_job(results), columns_of(results)
    rows = [
        [f"{case} (macro F1)" if case in UNBALANCED else case]
        + [cell(list(found.get((case, column), {}).values()), case) for column in columns]
        for case in cases_of(results)
    ]
    return Page("Test accuracy, mean ± standard deviation over seeds (seconds of the whole command)", ["case", *columns], rows)


def cell(results: list[Result], case: str) -> str:
    """Mean, standard deviation and seconds of one system on one case."""
    if not results:
        return ""
    values = [float(result[metric_of(case)]) for result in results]
    deviation = standard_deviation(values)
    spread = "" if deviation is None else f" ± {deviation:.3f}"
    return f"{statistics.mean(values):.3f}{spread} ({statistics.mean(result['wall_s'] for result in results):.0f})"


def difference(found: dict[tuple[str, str], dict[int, Result]], case: str, column: str, against: str) -> Difference | None:
    """Return the lead of `column` over `against` on the seeds that both have; None if there are none."""
    mine, theirs = found.get((case, column), {}), found.get((case, against), {})
    metric = metric_of(case)
    values = [float(mine[seed][metric]) - float(theirs[seed][metric]) for seed in sorted(set(mine) & set(theirs))]
    return Difference(statistics.mean(values), standard_error(values), len(values)) if values else None


def manta_page(results: list[Result], column: str) -> Page:
    """Manta against the plain loop, and what it trained to get there."""
    found = by_job(results)
    headings = ["case", f"minus {AGAINST}", "standard error", "seeds", "verdict", "training s", f"{TRAINER} training s"]
    headings += ["epochs", "kept epoch", "kept share", "validation rows"]
    rows: list[list[str]] = []
    means: list[float] = []
    for case in cases_of(results):
        mine = list(found.get((case, column), {}).values())
        if not mine:
            continue
        against, beside = difference(found, case, column, AGAINST), list(found.get((case, TRAINER), {}).values())
        means += [] if against is None else [against.mean]
        seconds = [mean_of(mine, "train_s", "{:.0f}"), mean_of(beside, "train_s", "{:.0f}")]
        kept = [each_of(mine, name) for name in ("num_epochs", "kept_epoch")]
        rows.append(
            [case, *words(against), *seconds, *kept, mean_of(mine, "kept_share", "{:.0%}"), each_of(mine, "num_validation_rows")]
        )
    if means:
        rows.append(["mean over cases", f"{statistics.mean(means):+.4f}", *[""] * (len(headings) - 2)])
    return Page(f"{column} against {AGAINST}, over the seeds that both have", headings, rows)


def words(found: Difference | None) -> list[str]:
    """A difference in four cells."""
    if found is None:
        return ["", "", "", ""]
    error = "" if found.standard_error is None else f"{found.standard_error:.4f}"
    return [f"{found.mean:+.4f}", error, str(found.num_seeds), found.verdict]


def mean_of(results: Iterable[Result], name: str, form: str) -> str:
    """The mean of a figure, over the results that have it."""
    values = [float(result[name]) for result in results if result.get(name) is not None]
    return form.format(statistics.mean(values)) if values else ""


def each_of(results: Iterable[Result], name: str) -> str:
    """A figure of each seed, once where all are the same."""
    values = [str(result[name]) for result in results if result.get(name) is not None]
    return ", ".join(values if len(set(values)) > 1 else values[:1])


def rich_table(page: Page) -> Table:
    """For a terminal."""
    table = Table(title=page.title, title_justify="left")
    for heading in page.headings:
        table.add_column(heading, justify="left" if heading == "case" else "right")
    for row in page.rows:
        table.add_row(*row)
    return table


def markdown(page: Page) -> str:
    """For a document."""
    lines = [page.headings, ["---"] * len(page.headings), *page.rows]
    return f"{page.title}:\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
