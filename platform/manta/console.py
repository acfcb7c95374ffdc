"""Output of a command: people read stderr, programs read one JSON object on stdout."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.status import Status

ANY_WIDTH = 10_000
FIRST_LINE_AFTER_S, LINE_EVERY_S, LOOK_EVERY_S = 3.0, 10.0, 0.25


def people_console() -> Console:
    """Return the console for messages to people: stderr, or in a notebook the output of the cell that runs."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if console.is_jupyter:
        from manta.notebook import cell_console

        return cell_console()
    return console


class StatusLines:
    """Pace of the status lines that all parts of a command print where there is no terminal for a spinner or a bar."""

    def __init__(self) -> None:
        self.spinner: Status | None = None
        """The spinner that is shown in the terminal now. One inside of it shows nothing of its own."""
        self._last = -math.inf
        self._lock = threading.Lock()

    def is_due(self, *, since: float) -> bool:
        """Tell whether to print a line about work that began at `since`: after three silent seconds, then every ten seconds."""
        now = time.monotonic()
        with self._lock:
            is_due = now - since >= FIRST_LINE_AFTER_S and now - self._last >= LINE_EVERY_S
            self._last = now if is_due else self._last
        return is_due


STATUS_LINES = StatusLines()


@contextmanager
def working(console: Console, message: str, *, until: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Say what is happening while the body runs, or until `until` is true.

    A terminal shows a spinner; elsewhere a line is printed now and then.
    """
    started, stop = time.monotonic(), threading.Event()
    spinner = console.status(escape(message)) if console.is_terminal and STATUS_LINES.spinner is None else None

    def follow() -> None:
        while not stop.wait(LOOK_EVERY_S) and not until():
            if not console.is_terminal and STATUS_LINES.is_due(since=started):
                console.print(f"{message} …", markup=False)
        if spinner is not None:
            spinner.stop()
            STATUS_LINES.spinner = None

    if spinner is not None:
        STATUS_LINES.spinner = spinner
        spinner.start()
    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


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
