"""`labels.jsonl`: what people decided about the labels of texts. The file only grows, and several people may add to it at once.

A line has the text's hash, its old and new label (null drops the row), who decided, and when. Labels of a multilabel task are
lists. To take a decision back, the same line is added with `"undone": true`. The original files stay as they are.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from manta.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from manta.labels import RowLabels
    from manta.texts import Text

DECISIONS_FILE = "labels.jsonl"
HASH_DIGITS = 32
TAIL_BYTES = 1024**2


@dataclass(frozen=True)
class LabelDecision:
    """A person's decision about all rows that have a text and a label."""

    text_hash: str
    """As `text_hash` returns it."""
    old: RowLabels
    """The label that the rows had when the person decided; empty if they had none."""
    new: RowLabels | None
    """The label that they get, which may be the old one; None drops the rows."""
    who: str = ""
    when: str = ""
    """Time in UTC, such as 2026-01-31T12:00:00Z."""
    undone: bool = False
    """True if this line takes the last equal decision back."""

    @property
    def is_kept(self) -> bool:
        """True if the label was found to be right."""
        return self.new == self.old

    def to_line(self) -> str:
        """Return the line of the file, without its end."""
        fields: dict[str, Any] = {"text_hash": self.text_hash, "old": self.old, "new": self.new, "who": self.who, "when": self.when}
        return json.dumps(fields | ({"undone": True} if self.undone else {}), ensure_ascii=False)

    @classmethod
    def from_line(cls, line: str) -> LabelDecision:
        """Read a line of the file.

        Raises:
            ValueError: the message says what the line lacks, as the end of a sentence about it.
        """
        try:
            fields = json.loads(line)
        except ValueError:
            raise ValueError("is no JSON") from None
        missing = [name for name in ("text_hash", "old", "new") if not isinstance(fields, dict) or name not in fields]
        if missing:
            raise ValueError(f"has no {missing[0]}")
        labels = [_label(fields[name]) for name in ("old", "new")]
        if labels[0] is None or (labels[1] is None and fields["new"] is not None):
            raise ValueError(f"has a label that is neither a word nor a list of words: {fields['new' if labels[0] else 'old']!r}")
        told = {name: str(fields.get(name, "")) for name in ("who", "when")}
        return cls(str(fields["text_hash"]), labels[0], labels[1], **told, undone=fields.get("undone") is True)


def _label(value: Any) -> RowLabels | None:
    """Return the label or labels that a line holds; None if it holds none."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return tuple(sorted(value))
    return value if isinstance(value, str) else None


def text_hash(text: Text) -> str:
    """Return the hash by which a text, or a pair of texts, is known in files of suspects and decisions."""
    parts = (text,) if isinstance(text, str) else text
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:HASH_DIGITS]


def now_in_utc() -> str:
    """Return the time of a decision that is made now."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def add_decisions(path: Path, decisions: Iterable[LabelDecision]) -> None:
    """Add decisions to the file, which is made if it is missing. They are on the disk when this returns.

    Whole lines are added under a lock, so that people who decide at the same time lose nothing. The half of a line that a power
    cut has left at the end was never confirmed to anybody, and is removed.
    """
    content = "".join(decision.to_line() + "\n" for decision in decisions).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _end_line(descriptor):
            content = b"\n" + content
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _end_line(descriptor: int) -> bool:
    """Remove half a line at the end of an open file. Return whether its last line is whole and lacks its end."""
    size = os.fstat(descriptor).st_size
    start = max(0, size - TAIL_BYTES)
    last = os.pread(descriptor, size - start, start).rpartition(b"\n")[2]
    if not last:
        return False
    try:
        json.loads(last)
    except ValueError:
        os.ftruncate(descriptor, size - len(last))
        return False
    return True


def read_decisions(path: Path) -> list[tuple[int, LabelDecision]]:
    """Return the decisions that count, each with its line from 1: all but those that were taken back.

    Raises:
        InputError: the file is missing or unreadable, or a line is no decision; the message names the line.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check data.corrections.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); check data.corrections.") from None
    found: list[tuple[int, LabelDecision]] = []
    lines = content.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            decision = LabelDecision.from_line(line)
        except ValueError as error:
            if number == len(lines) and str(error) == "is no JSON":
                break  # half a line, which a power cut has left
            raise InputError(f"{path}, line {number}: the decision {error}; fix or remove the line.") from None
        if decision.undone:
            _take_back(found, decision)
        else:
            found.append((number, decision))
    return found


def _take_back(found: list[tuple[int, LabelDecision]], undone: LabelDecision) -> None:
    """Remove the last decision that has the text, the labels and the person of `undone`."""
    for place in range(len(found) - 1, -1, -1):
        item = found[place][1]
        if (item.text_hash, item.old, item.new, item.who) == (undone.text_hash, undone.old, undone.new, undone.who):
            del found[place]
            return
