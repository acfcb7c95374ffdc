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
