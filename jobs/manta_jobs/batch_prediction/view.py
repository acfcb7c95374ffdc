"""Progress of a prediction: a bar with rows, rows/s and ETA in a terminal, otherwise a line from time to time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from manta.console import STATUS_LINES, duration, people_table, working

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from manta_jobs.batch_prediction.result import BatchResult

MOST_LABELS = 10
Advance = Callable[[int], None]


@contextmanager
def shown_rows(console: Console, *, num_done: int, num_rows: int) -> Iterator[Advance]:
    """Show progress while the body runs. The body calls the yielded function with the number of rows of each finished chunk."""
    show = _bar if console.is_terminal else _lines
    with show(console, num_done, num_rows) as advance:
        yield advance


@contextmanager
def _bar(console: Console, num_done: int, num_rows: int) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.completed:,}/{task.total:,} rows"),
        BarColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("ETA"),
    )
    started, new = time.monotonic(), 0
    with Progress(*columns, TimeRemainingColumn(), console=console) as bars:
        task = bars.add_task("", total=num_rows, completed=num_done, rate="starting workers")

        def advance(rows: int) -> None:
            nonlocal new
            new += rows
            bars.update(task, advance=rows, rate=f"{new / (time.monotonic() - started):,.0f} rows/s")

        yield advance


@contextmanager
def _lines(console: Console, num_done: int, num_rows: int) -> Iterator[Advance]:
    started, new = time.monotonic(), 0

    def advance(rows: int) -> None:
        nonlocal new
        new, now = new + rows, time.monotonic()
        if num_done + new < num_rows and STATUS_LINES.is_due(since=started):
            rate = new / (now - started)
            remaining_s = (num_rows - num_done - new) / rate
            console.print(f"{num_done + new:,}/{num_rows:,} rows, {rate:,.0f} rows/s, ETA {duration(remaining_s)}")

    with working(console, "Starting workers", until=lambda: new > 0):
        yield advance


def show_predicted(result: BatchResult, console: Console) -> None:
    """Print where the answers are, how many there are, the speed, and the most frequent labels."""
    table = people_table("", "", title=f"{result.num_rows:,} rows in {result.out}", header=False)
    if result.num_resumed:
        table.add_row("of an earlier attempt", f"{result.num_resumed:,}")
    table.add_row(
        "not classified", f"{result.num_errors:,}" + (f" (see column {result.error_column})" if result.num_errors else "")
    )
    table.add_row("uncertain", f"{result.num_uncertain:,}")
    if result.num_out_of_scope:
        table.add_row("  of these out of scope", f"{result.num_out_of_scope:,} (unlike all training rows)")
    table.add_row("model", result.model_version)
    if result.rows_per_s is not None:
        table.add_row("rows/s", f"{result.rows_per_s:,.1f}")
    table.add_row("took", duration(result.wall_s))
    console.print(table)
    common = result.labels.most_common(MOST_LABELS)
    more = len(result.labels) - len(common)
    listed = ", ".join(f"{label} {count:,}" for label, count in common)
    console.print(f"Labels: {listed or 'none'}" + (f" and {more} more labels" if more else ""), markup=False)
