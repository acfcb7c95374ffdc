"""HTML of a row that waits for a person's judgment, with a button and a key for each likely label."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from manta.intervals import wilson_interval
from manta_ui.labels.review_queue import Sampled
from manta_ui.look.markup import breakable, empty_html, named, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta_ui.clients.api import Answer
    from manta_ui.labels.review_queue import Queue

MOST_KEYS = 9
"""Labels that have a button and a key. A model with more shows the most probable ones, and lists all below."""
NO_ROWS = (
    empty_html("No rows to look through yet", "Classify a file in Batch. Its least sure answers then come here first.")
    + '<p><button type="button" class="manta-link" data-click="tab-batch-button">Open Batch</button></p>'
)


def queue_html(queue: Queue, answer: Answer) -> str:
    """Return the shown row. `answer` has the row's scores of all labels."""
    row = queue.row
    if row is None:
        return last_html(queue)
    several = queue.rows.model.is_multilabel
    before = queue.said.get(row)
    pressed = answer.labels if before is None else [before] if isinstance(before, str) else before
    choices = "".join(
        _choice_html(label, answer.scores[label], key=key, is_given=label in answer.labels, is_pressed=label in pressed)
        for key, label in enumerate(labels_on_keys(queue.rows.model.labels, answer), start=1)
    )
    told = "" if before is None else f' <span class="manta-badge">kept as {html.escape(named(before))}</span>'
    text = "".join(f'<p class="manta-queue-text">{html.escape(part)}</p>' for part in queue.rows.texts[row])
    confirm = "Keep these" if several else "That is right"
    return (
        f'<section class="manta-queue" data-row="{row}"{" data-several" if several else ""} aria-label="Row to judge">'
        f'<p class="manta-quiet">{html.escape(_place(queue, row))}{told}</p>{text}<ul class="manta-choices">{choices}</ul>'
        f'<p class="manta-moves"><button type="button" class="manta-say" data-confirm>{confirm}{_key("Enter")}</button>'
        f'<button type="button" class="manta-link" data-click="queue-back">Back{_key("←")}</button>'
        f'<button type="button" class="manta-link" data-click="queue-skip">Skip{_key("→")}</button></p></section>'
    )


def _key(name: str) -> str:
    return f'<kbd class="manta-keys">{name}</kbd>'


def last_html(queue: Queue) -> str:
    """Return that all rows have been shown."""
    judged = f"{len(queue.said):,} of {len(queue.order):,} rows of {queue.rows.name} were judged."
    if not queue.is_random:
        return empty_html("That was the last row", judged)
    return empty_html(
        "That was the last text", f"{judged} {_accuracy(queue)} Open these texts again later: the sample follows the traffic."
    )


def labels_on_keys(labels: Sequence[str], answer: Answer) -> list[str]:
    """Return the labels that have a key: all in their own order if they are few, else the most probable ones."""
    return list(labels) if len(labels) <= MOST_KEYS else list(answer.scores)[:MOST_KEYS]


def _place(queue: Queue, row: int) -> str:
    place = f"{queue.at + 1:,} of {len(queue.order):,}"
    if queue.is_random:
        return f"Random text {place} of {queue.rows.name} · {_accuracy(queue) or 'none judged'}"
    source = "Text" if isinstance(queue.rows, Sampled) else f"Row {row + 1:,}"
    return f"{source} of {queue.rows.name} · {place}, the least sure first · {len(queue.said):,} judged"


def _accuracy(queue: Queue) -> str:
    """Return what the judgments on a random sample say of the accuracy; empty before the first one."""
    judged, right = len(queue.said), queue.num_right
    if not judged:
        return ""
    low, high = wilson_interval(right, judged)
    return f"{right:,} of {judged:,} were right: an accuracy between {percent(low)} and {percent(high)}, with 95% confidence."


def _choice_html(label: str, score: float, *, key: int, is_given: bool, is_pressed: bool) -> str:
    kind = "manta-choice manta-given" if is_given else "manta-choice"
    held, pressed = html.escape(label, quote=True), str(is_pressed).lower()
    return (
        f'<li><button type="button" class="{kind}" data-label="{held}" aria-pressed="{pressed}">'
        f'<kbd class="manta-keys">{key}</kbd><span>{breakable(label)}</span>'
        f'<span class="manta-score">{percent(score)}</span></button></li>'
    )
