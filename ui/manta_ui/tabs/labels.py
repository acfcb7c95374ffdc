"""The tab Labels: rows whose label a check doubts, or that have none, each beside its nearest neighbors, with a key per decision.

Decisions go into the file that the check names, one whole line each, before the page confirms them.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from manta.errors import InputError
from manta.storage.audit import acting_user
from manta_ui.labels.growth import Growth
from manta_ui.labels.suspect_queue import Desks, SuspectQueue, check_files, decide, key_of, opened, refreshed, taken_back
from manta_ui.labels.suspect_views import NO_CHECK, decision_words, suspect_html, without_button
from manta_ui.look.markup import capitalized, note_html

if TYPE_CHECKING:
    from collections.abc import Callable

    from manta_ui.tabs.services import Frame, Services

HIDDEN: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
MOVES = ("undo", "back", "skip", "again")


def build(services: Services, frame: Frame) -> None:
    """Build the tab's components and their events."""
    desks, growth = Desks(), Growth()
    queue, meant = gr.State(None), gr.Textbox(visible=False)
    check = gr.Dropdown([], label="Check", elem_id="labels-check")
    # Keys and the buttons of the row click these buttons, which are not seen; the browser says what was meant.
    buttons = {name: gr.Button(name, elem_id=f"labels-{name}", elem_classes="manta-unseen") for name in ("decide", *MOVES)}
    card = gr.HTML(NO_CHECK, elem_id="labels-card")
    other = gr.Dropdown([], label="Another label", visible=False, elem_id="labels-other")
    note = gr.HTML(note_html(""), elem_id="labels-note")
    grown = gr.HTML("", elem_id="labels-growth")

    frame.tab.select(lambda chosen: listed(services.storage, chosen), inputs=check, outputs=check, **HIDDEN)
    check.change(_opening(services.storage, desks), inputs=check, outputs=[queue, note], **HIDDEN)
    # Apart from the decision itself, which must not wait for a fit.
    queue.change(growth.html, inputs=[check, queue], outputs=grown, **HIDDEN)
    queue.change(drawn, inputs=queue, outputs=[card, other], **HIDDEN)
    buttons["decide"].click(_deciding(desks), js="manta.said", inputs=[meant, queue], outputs=[queue, note], **HIDDEN)
    other.input(_choosing(desks), inputs=[other, queue], outputs=[queue, note], **HIDDEN)
    for name in MOVES:
        buttons[name].click(_moving(desks, name), inputs=queue, outputs=[queue, note], **HIDDEN)


def listed(storage: Path, chosen: str | None) -> Any:
    """Return the list of checks in the storage, with the newest one chosen unless one was."""
    files = [str(file) for file in check_files(storage)]
    return gr.Dropdown([(Path(file).parent.name, file) for file in files], value=chosen or next(iter(files), None))


def drawn(queue: SuspectQueue | None) -> list[Any]:
    """Return the row to decide about, and the list of labels that have no key."""
    if queue is None:
        return [NO_CHECK, gr.skip()]
    suspect = queue.suspect
    decision = None if suspect is None else queue.decided.get(key_of(suspect))
    others = without_button(queue)
    return [suspect_html(queue, decision), gr.Dropdown(others, value=None, visible=bool(others))]


def said_by(request: gr.Request) -> str:
    """Return who decides: the user who is logged in, else the one who runs the page."""
    return request.username or acting_user()


def _opening(storage: Path, desks: Desks) -> Callable[..., list[Any]]:
    def open_check(file: str | None, request: gr.Request) -> list[Any]:
        if not file or Path(file) not in check_files(storage):
            return [None, ""]
        return _answered(lambda: (desks.next_open(opened(Path(file)), start=0, session=str(request.session_hash)), ""))

    return open_check


def _deciding(desks: Desks) -> Callable[..., list[Any]]:
    def decide_row(meant: str, queue: SuspectQueue | None, request: gr.Request) -> list[Any]:
        said = json.loads(meant or "{}")
        if queue is None or said.get("row") != queue.at or "new" not in said:
            return [gr.skip(), gr.skip()]  # a second click on a row that was decided
        new = said["new"]
        return _decided(desks, queue, tuple(new) if isinstance(new, list) else new, request)

    return decide_row


def _choosing(desks: Desks) -> Callable[..., list[Any]]:
    def choose_label(label: str | None, queue: SuspectQueue | None, request: gr.Request) -> list[Any]:
        return [gr.skip(), gr.skip()] if queue is None or not label else _decided(desks, queue, label, request)

    return choose_label


def _decided(desks: Desks, queue: SuspectQueue, new: Any, request: gr.Request) -> list[Any]:
    """Keep a decision, and go to the next row that nobody has decided about."""

    def work() -> tuple[SuspectQueue, str]:
        suspect, who = queue.suspect, said_by(request)
        earlier = None if suspect is None else refreshed(queue).decided.get(key_of(suspect))
        now = decide(queue, new, who=who)
        before = f" Before, it was {decision_words(earlier)}." if earlier is not None and earlier.who != who else ""
        at_next = desks.next_open(refreshed(now), start=queue.at + 1, session=str(request.session_hash))
        return at_next, f"Row {queue.at + 1:,} is {decision_words(now.mine[-1][1])}.{before}"

    return _answered(work)


def _moving(desks: Desks, name: str) -> Callable[..., list[Any]]:
    def move(queue: SuspectQueue | None, request: gr.Request) -> list[Any]:
        if queue is None:
            return [gr.skip(), gr.skip()]
        onward = partial(desks.next_open, session=str(request.session_hash))
        steps: dict[str, Callable[[], tuple[SuspectQueue, str]]] = {
            "undo": lambda: (taken_back(queue), _undo_words(queue)),
            "back": lambda: (refreshed(queue).moved(-1), ""),
            "skip": lambda: (onward(refreshed(queue), start=queue.at + 1), ""),
            "again": lambda: (onward(refreshed(queue), start=0), ""),
        }
        return _answered(steps[name])

    return move


def _undo_words(queue: SuspectQueue) -> str:
    return f"The decision on row {queue.mine[-1][0] + 1:,} is taken back." if queue.mine else "There is nothing to take back."


def _answered(work: Callable[[], tuple[SuspectQueue, str]]) -> list[Any]:
    """Return the new queue and a note; if it did not work, only the reason."""
    try:
        queue, words = work()
    except InputError as error:
        return [gr.skip(), note_html(capitalized(str(error)), is_error=True)]
    return [queue, note_html(words)]
