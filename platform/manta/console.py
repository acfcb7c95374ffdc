"""What a command says: people read stderr, programs read one JSON object on stdout."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console


def people_console() -> Console:
    """The console for everything meant for people."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_result(result: dict[str, Any], *, as_json: bool) -> None:
    """The command's one JSON object on stdout, if it was asked for."""
    if as_json:
        sys.stdout.write(json.dumps(result, ensure_ascii=False) + "\n")
        sys.stdout.flush()


def duration(seconds: float) -> str:
    """Seconds as people say them, such as `2 min 05 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def bytes_phrase(count: float) -> str:
    """Bytes as people say them."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e7 else f"{count / 1e6:.1f} MB"
