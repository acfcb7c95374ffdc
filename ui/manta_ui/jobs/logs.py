"""The output of jobs, split into lines for people and the result."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from manta.cluster.job import MARK

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_LINES = 500
"""Lines of a job's log that are shown, and that are kept for a finished job."""
COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class JobLog:
    """The output of a job so far."""

    lines: tuple[str, ...]
    """Lines for people."""
    result: Mapping[str, Any] | None
    """Its result, once it is done."""
    error: str | None
    """The reason why there is no result, as a sentence."""
    num_before: int = 0
    """Number of dropped lines before `lines`."""

    def end(self) -> JobLog:
        """Return the log with its last lines only."""
        left_out = max(0, len(self.lines) - MOST_LINES)
        return replace(self, lines=self.lines[left_out:], num_before=self.num_before + left_out)


def read_log(text: str) -> JobLog:
    """Split a job's output into lines for people and the marked lines, which hold its result or error."""
    lines: list[str] = []
    said: dict[str, Any] = {}
    for line in COLOURS.sub("", text).splitlines():
        if line.startswith(MARK):
            said = _said(line.removeprefix(MARK)) or said
        elif line.strip():
            lines.append(line)
    return JobLog(tuple(lines), said.get("result"), said.get("error"))


def _said(text: str) -> dict[str, Any]:
    """Parse a marked line; return an empty dictionary while the line is incomplete."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
