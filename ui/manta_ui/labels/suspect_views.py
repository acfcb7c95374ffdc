"""HTML of a suspect, or of a row without a label, beside its nearest neighbors, with a button and a key for each decision."""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING

from manta.label_check.suspects import KINDS, UNLABELED
from manta_ui.labels.review_views import MOST_KEYS
from manta_ui.look.markup import breakable, empty_html, named, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.label_check.decisions import LabelDecision
    from manta.label_check.suspects import Neighbor, Place, Suspect
    from manta.texts import Text
    from manta_ui.labels.suspect_queue import SuspectQueue

NO_CHECK = empty_html(
    "No rows to decide about yet",
    "Run manta data check with your experiment or rows: the labels that it doubts come here. "
    "Run manta data suggest with a pool of texts: the rows to label next come here.",
)


def suspect_html(queue: SuspectQueue, decision: LabelDecision | None) -> str:
    """Return the shown suspect. `decision` is the last one about it, of anybody."""
    suspect = queue.suspect
    if suspect is None:
        return last_html(queue)
    why = "has no label yet" if suspect.is_unlabeled else "; ".join(KINDS[kind] for kind in suspect.kinds)
    place = f"{place_words(suspect.place)} · {why}"
    told = "" if decision is None else f' <span class="manta-badge">{html.escape(decision_words(decision))}</span>'
    buttons = "".join(_choice_html(*choice) for choice in choices(queue))
    neighbors = "".join(map(_neighbor_html, suspect.neighbors))
    return (
        f'<section class="manta-queue manta-suspect" data-row="{queue.at}" aria-label="Row to decide about">'
        f'{progress_html(queue)}<p class="manta-quiet">{html.escape(place)}{told}</p>{text_html(suspect.text)}'
        f'<ul class="manta-choices">{buttons}</ul><p class="manta-moves">'
        f"{_move_html('Skip', 's')}{_move_html('Back', 'b')}{_move_html('Undo', 'u')}</p>"
        f'<h3>Nearest rows</h3><ul class="manta-near">{neighbors}</ul></section>'
    )


def choices(queue: SuspectQueue) -> list[tuple[str, str, dict[str, object], str]]:
    """Return key, words, decision and remark of each button: keep, change to the proposed label, drop, and other labels.

    A row without a label has none to keep, and its proposed label is the first of the numbered ones. If the labels are many, only
    those of the neighbors have a button.
    """
    suspect = queue.suspect
    if suspect is None:
        return []
    found: list[tuple[str, str, dict[str, object], str]] = []
    if not suspect.is_unlabeled:
        found.append(("k", f"Keep {named(suspect.given)}", {"new": suspect.given}, percent(suspect.given_probability)))
    if suspect.proposed != suspect.given:
        key, words = ("1", "") if suspect.is_unlabeled else ("c", "Change to ")
        found.append((key, f"{words}{named(suspect.proposed)}", {"new": suspect.proposed}, percent(suspect.probability)))
    found.append(("d", "None of the labels" if suspect.is_unlabeled else "Drop the row", {"new": None}, ""))
    others = other_labels(queue)
    if has_more(queue):
        near = {item.label for item in suspect.neighbors}
        others = [name for name in others if name in near]
    first = 1 + suspect.is_unlabeled
    return found + [(str(key), label, {"new": label}, "") for key, label in enumerate(others[: _most_others(suspect)], start=first)]


def other_labels(queue: SuspectQueue) -> list[str]:
    """Return the labels that are neither given nor proposed; none for rows of several labels."""
    suspect = queue.suspect
    if suspect is None or not isinstance(suspect.given, str):
        return []
    return [name for name in queue.found.labels if name not in (suspect.given, suspect.proposed)]


def has_more(queue: SuspectQueue) -> bool:
    """Tell whether there are other labels than those that can have a key."""
    return queue.suspect is not None and len(other_labels(queue)) > _most_others(queue.suspect)


def _most_others(suspect: Suspect) -> int:
    return MOST_KEYS - suspect.is_unlabeled


def progress_html(queue: SuspectQueue) -> str:
    """Return how many rows are decided, as a bar and in words."""
    done, total = queue.num_decided, len(queue.found.rows)
    order = "the most uncertain" if queue.suspect is not None and queue.suspect.is_unlabeled else "the most doubtful"
    words = f"{done:,} of {total:,} decided · row {queue.at + 1:,}, {order} first"
    bar = f'<progress max="{total}" value="{done}" aria-label="Rows decided"></progress>'
    return f'<div class="manta-progress">{bar}<p>{words}</p></div>'


def last_html(queue: SuspectQueue) -> str:
    """Return that there is no further row, and what to do with the decisions."""
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


def _choice_html(key: str, words: str, decision: dict[str, object], remark: str) -> str:
    held = html.escape(json.dumps(decision), quote=True)
    score = f'<span class="manta-score">{remark}</span>' if remark else ""
    return (
        f'<li><button type="button" class="manta-choice" data-key="{key}" data-decide="{held}">'
        f'<kbd class="manta-keys">{key.upper()}</kbd><span>{breakable(words)}</span>{score}</button></li>'
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
