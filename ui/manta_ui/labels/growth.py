"""Accuracy of a linear model fitted to all labels so far, for people who label the rows of a pool."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from manta.errors import InputError
from manta.label_check.learned import LEARNED_FILE, Accuracy, Learned
from manta_ui.look.markup import capitalized, note_html, percent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from manta_ui.labels.suspect_queue import SuspectQueue


@dataclass
class _Known:
    """Accuracy for one file of rows, before and after the labels that people gave."""

    learned: Learned
    at_first: Accuracy
    given: Mapping[str, str]
    now: Accuracy


class Growth:
    """The accuracy for each file of rows to label. A fit takes about a second; equal labels are fitted once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[Path, _Known] = {}

    def html(self, file: str | None, queue: SuspectQueue | None) -> str:
        """Return a sentence on the accuracy with everybody's labels; empty for rows that have labels already."""
        if file is None or queue is None:
            return ""
        given = {digest: item.new for (digest, _), item in queue.decided.items() if isinstance(item.new, str)}
        try:
            with self._lock:  # one at a time: the next one then finds most of it done
                known = self._looked_up(Path(file).with_name(LEARNED_FILE), given)
        except InputError as error:
            return note_html(capitalized(str(error)), is_error=True)
        return "" if known is None else f'<p class="manta-quiet" role="status">{growth_sentence(known.at_first, known.now)}</p>'

    def _looked_up(self, path: Path, given: Mapping[str, str]) -> _Known | None:
        known = self._known.get(path)
        if known is None:
            learned = Learned.read(path)
            if learned is None:
                return None
            at_first = learned.accuracy({})
            known = self._known[path] = _Known(learned, at_first, {}, at_first)
        ours = {digest: given[digest] for digest in known.learned.open_hashes if digest in given}
        if ours != known.given:
            known.given, known.now = ours, known.learned.accuracy(ours)
        return known


def growth_sentence(at_first: Accuracy, now: Accuracy) -> str:
    """Return the accuracy with its interval, and the one before the labels that were given here."""
    low, high = now.interval
    before = f"; it was {at_first.share:.1%} with {at_first.num_rows:,}" if now.num_rows > at_first.num_rows else ""
    return (
        f"With {now.num_rows:,} labeled rows, a linear model has {now.share:.1%} of rows right that it has not learned from "
        f"({percent(low)} to {percent(high)}){before}."
    )
