"""HTML of a suspect, or of a row without a label, beside its nearest neighbors, with a button and a key for each decision."""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING, NamedTuple

from manta.label_check.suspects import KINDS, UNLABELED
from manta_ui.labels.review_views import MOST_KEYS
from manta_ui.look.markup import breakable, empty_html, named, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.label_check.decisions import LabelDecision
    from manta.label_check.suspects import Neighbor, Place, Suspect
    from manta.labels import RowLabels
    from manta.texts import Text
    from manta_ui.labels.suspect_queue import SuspectQueue

NO_CHECK = empty_html(
    "No rows to decide about yet",
    "Run manta data check with your experiment or rows: the labels that it doubts come here. "
    "Run manta data suggest with a pool of texts: the rows to label next come here.",
)


class Choice(NamedTuple):
    """A button of the row that is shown."""

    key: str
    words: str
    new: RowLabels | None
    """The label that it gives; None drops the row."""
    remark: str = ""


def suspect_html(queue: SuspectQueue, decision: LabelDecision | None) -> str:
    """Return the shown suspect. `decision` is the last one about it, of anybody."""
    suspect = queue.suspect
    if suspect is None:
        return last_html(queue)
    why = "has no label yet" if suspect.is_unlabeled else "; ".join(KINDS[kind] for kind in suspect.kinds)
    place = f"{place_words(suspect.place)} · {why}"
    told = "" if decision is None else f' <span class="manta-badge">{html.escape(decision_words(decision))}</span>'
    buttons = "".join(map(_choice_html, choices(queue)))
    neighbors = "".join(map(_neighbor_html, suspect.neighbors))
    return (
        f'<section class="manta-queue manta-suspect" data-row="{queue.at}" aria-label="Row to decide about">'
        f'{progress_html(queue)}<p class="manta-quiet">{html.escape(place)}{told}</p>{text_html(suspect.text)}'
        f'<ul class="manta-choices">{buttons}</ul><p class="manta-moves">'
        f"{_move_html('Skip', 's')}{_move_html('Back', 'b')}{_move_html('Undo', 'u')}</p>"
        f'<h3>Nearest rows</h3><ul class="manta-near">{neighbors}</ul></section>'
    )


def choices(queue: SuspectQueue) -> list[Choice]:
    """Return the buttons of the shown row: keep, change to the proposed label, drop, and other labels.

    A row without a label has a number for each label, the same for every row. If the labels are many, only the proposed one and
    those of the neighbors have a button.
    """
    suspect = queue.suspect
    if suspect is None:
        return []
    drop = Choice("d", "None of the labels" if suspect.is_unlabeled else "Drop the row", None)
    if suspect.is_unlabeled:
        shown = _with_a_button(suspect, queue.found.labels)
        remarks = {suspect.proposed: percent(suspect.probability)}
        return [*(Choice(str(key), label, label, remarks.get(label, "")) for key, label in enumerate(shown, start=1)), drop]
    found = [Choice("k", f"Keep {named(suspect.given)}", suspect.given, percent(suspect.given_probability))]
    if suspect.proposed != suspect.given:
        found.append(Choice("c", f"Change to {named(suspect.proposed)}", suspect.proposed, percent(suspect.probability)))
    others = _with_a_button(suspect, other_labels(queue))
    return [*found, drop, *(Choice(str(key), label, label) for key, label in enumerate(others, start=1))]


def other_labels(queue: SuspectQueue) -> list[str]:
    """Return the labels that are neither given nor proposed; none for rows of several labels."""
    suspect = queue.suspect
    if suspect is None or not isinstance(suspect.given, str):
        return []
    return [name for name in queue.found.labels if name not in (suspect.given, suspect.proposed)]


def without_button(queue: SuspectQueue) -> list[str]:
    """Return the labels for a list beside the buttons: all other labels, if some of them have no button."""
    others, shown = other_labels(queue), {choice.new for choice in choices(queue)}
    return [] if set(others) <= shown else others


def _with_a_button(suspect: Suspect, labels: Sequence[str]) -> list[str]:
    """Return the labels that get a key: all, or of many the proposed one and those of the neighbors."""
    if len(labels) <= MOST_KEYS:
        return list(labels)
    near = {suspect.proposed, *(item.label for item in suspect.neighbors)}
    return [name for name in labels if name in near][:MOST_KEYS]


def progress_html(queue: SuspectQueue) -> str:
    """Return how many rows are decided, as a bar and in words."""
    done, total = queue.num_decided, len(queue.found.rows)
    order = "the most uncertain" if queue.suspect is not None and queue.suspect.is_unlabeled else "the most doubtful"
    words = f"{done:,} of {total:,} decided · row {queue.at + 1:,}, {order} first"
    bar = f'<progress max="{total}" value="{done}" aria-label="Rows decided"></progress>'
    return f'<div class="manta-progress">{bar}<p>{words}</p></div>'


def last_html(queue: SuspectQueue) -> str:
    """Return the message after the last row: it says what to do with the decisions."""
    done, total = queue.num_decided, len(queue.found.rows)
    next_step = f"Train with data.corrections: {queue.found.decisions}"
    if any(suspect.is_unlabeled for suspect in queue.found.rows):
        next_step = "Run the same manta data suggest again: it keeps these labels and chooses the next rows."
    words = f"{done:,} of {total:,} rows are decided. {next_step}"
    back = '<button type="button" class="manta-link" data-click="labels-back">Back</button>'
    again = '<button type="button" class="manta-link" data-click="labels-again">To the first row without a decision</button>'
    return f'{empty_html("That was the last row", words)}<p class="manta-moves">{back}{again}</p>'


def decision_words(decision: LabelDecision) -> str:
    """Return a decision in words."""
    changed = "labeled" if decision.old == UNLABELED else "changed to"
    what = "dropped" if decision.new is None else "kept" if decision.is_kept else f"{changed} {named(decision.new)}"
    return f"{what} by {decision.who}" if decision.who else what


def place_words(place: Place) -> str:
    """Return where a row stands, its split first."""
    return f"{place.split + ' row, ' if place.split else ''}{place}"


def text_html(text: Text) -> str:
    """Return a text, or the two of a pair, as paragraphs."""
    parts: Sequence[str] = (text,) if isinstance(text, str) else text
    return "".join(f'<p class="manta-queue-text">{html.escape(part)}</p>' for part in parts)


def _choice_html(choice: Choice) -> str:
    held = html.escape(json.dumps({"new": choice.new}), quote=True)
    score = f'<span class="manta-score">{choice.remark}</span>' if choice.remark else ""
    return (
        f'<li><button type="button" class="manta-choice" data-key="{choice.key}" data-decide="{held}">'
        f'<kbd class="manta-keys">{choice.key.upper()}</kbd><span>{breakable(choice.words)}</span>{score}</button></li>'
    )


def _move_html(words: str, key: str) -> str:
    return (
        f'<button type="button" class="manta-link" data-key="{key}" data-click="labels-{words.lower()}">{words}'
        f'<kbd class="manta-keys">{key.upper()}</kbd></button>'
    )


def _neighbor_html(neighbor: Neighbor) -> str:
    text = neighbor.text if isinstance(neighbor.text, str) else " — ".join(neighbor.text)
    where = f"{percent(max(neighbor.similarity, 0.0))} alike · {place_words(neighbor.place)}"
    label = f'<span class="manta-badge">{breakable(named(neighbor.label))}</span>'
    return f'<li>{label} {html.escape(text)} <span class="manta-quiet">{html.escape(where)}</span></li>'
