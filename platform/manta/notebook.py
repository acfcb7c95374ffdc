"""The console in a Jupyter notebook: one output for a cell, in which spinners, bars and tables change in place.

Rich draws these with the control codes of a terminal, which notebooks do not follow. `Screen` follows them, and the cell's output
shows its text. That needs no widgets, so it also works in notebooks that run without a browser.
"""

from __future__ import annotations

import io
import logging
import re
import threading
import time
import warnings
from functools import cache
from typing import IO, TYPE_CHECKING, Any, cast

from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTH, HEIGHT = 110, 60
SHOW_EVERY_S = 0.2
UP, ERASE = "\x1b[1A", "\x1b[2K"
CONTROL = re.compile(r"(\n|\r|\x1b\[1A|\x1b\[2K|\x1b\[\?25[lh])")


class Screen:
    """The lines that a terminal shows after the text and the control codes that rich wrote to it."""

    def __init__(self) -> None:
        self._lines, self._row = [""], 0

    def write(self, text: str) -> None:
        """Follow the text: new lines, one line up, the line erased, or characters at the end of the line."""
        for part in CONTROL.split(text):
            if part == "\n":
                self._row += 1
                if self._row == len(self._lines):
                    self._lines.append("")
            elif part == UP:
                self._row = max(0, self._row - 1)
            elif part in ("\r", ERASE):
                self._lines[self._row] = ""
            elif not part.startswith("\x1b[?25"):  # to show and hide the cursor
                self._lines[self._row] += part

    @property
    def text(self) -> str:
        """The text on the screen."""
        return "\n".join(self._lines).rstrip()


class CellOutput(io.TextIOBase):
    """A file that calls `show` with the screen's text after what is written to it, a few times per second at most."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show, self._screen = show, Screen()
        self._lock = threading.Lock()
        self._shown, self._shown_s = "", 0.0
        self._later: threading.Timer | None = None

    def write(self, text: str) -> int:
        """Follow the text, and show it now or a moment later."""
        with self._lock:
            self._screen.write(text)
            wait_s = self._shown_s + SHOW_EVERY_S - time.monotonic()
            if wait_s > 0 and self._later is None:
                self._later = threading.Timer(wait_s, self.show)
                self._later.daemon = True
                self._later.start()
        if wait_s <= 0:
            self.show()
        return len(text)

    def show(self) -> None:
        """Show the screen's text if it has changed."""
        with self._lock:
            if self._later is not None:
                self._later.cancel()
                self._later = None
            text, self._shown_s = self._screen.text, time.monotonic()
            if text != self._shown:
                self._shown = text
                self._show(text)


@cache
def cell_console() -> Console:
    """Return the console of the cell that runs. Everything that it prints is one output of the cell."""
    from IPython import get_ipython
    from IPython.display import display

    # tqdm and Ray remark that ipywidgets are missing, which nothing here needs.
    warnings.filterwarnings("ignore", message="IProgress not found")
    logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)
    handle = display({"text/plain": ""}, raw=True, display_id=True)
    output = CellOutput(lambda text: handle.update({"text/plain": text}, raw=True))
    events = get_ipython().events

    def end(_: Any) -> None:
        output.show()
        cell_console.cache_clear()
        events.unregister("post_run_cell", end)

    events.register("post_run_cell", end)
    return Console(
        file=cast("IO[str]", output),
        force_terminal=True,
        force_jupyter=False,
        color_system=None,
        highlight=False,
        soft_wrap=True,
        width=WIDTH,
        height=HEIGHT,
    )
