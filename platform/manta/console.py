"""Output of a command: people read stderr, programs read one JSON object on stdout."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

ANY_WIDTH = 10_000


def people_console() -> Console:
    """Return the console for messages to people."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def people_table(*headings: str, title: str | None = None, header: bool = True) -> Table:
    """Return a table for people. A cell that is too long for the terminal wraps, so that names and paths are never cut."""
    table = Table(title=title, title_justify="left", show_header=header)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def fitted(table: Table, console: Console, *, expendable: Sequence[str]) -> Table:
    """Return the table without as many of the expendable columns, the first ones first, as it takes to fit the console."""
    for heading in expendable:
        if Measurement.get(console, console.options.update(max_width=ANY_WIDTH), table).maximum <= console.width:
            break
        table.columns = [column for column in table.columns if column.header != heading]
    return table


def print_result(result: dict[str, Any], *, as_json: bool) -> None:
    """Write the command's one JSON object to stdout, if `as_json` asks for it."""
    if as_json:
        sys.stdout.write(json.dumps(result, ensure_ascii=False) + "\n")
        sys.stdout.flush()


def duration(seconds: float) -> str:
    """Format seconds for people, such as `2 min 05 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def bytes_phrase(count: float) -> str:
    """Format a number of bytes for people, such as `1.5 GB`."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e7 else f"{count / 1e6:.1f} MB"
