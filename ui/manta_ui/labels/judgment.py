"""The judgment below an answer: is it right, and if not, which label is? One click sends it to an API that stores feedback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from manta_ui.clients.api import ApiError
from manta_ui.look.markup import note_html

if TYPE_CHECKING:
    from manta_ui.clients.api import Answer, ModelInfo, Said, ServeClient, Text

MOST_BUTTONS = 12
"""Most labels that are shown as buttons. More labels are shown as a list that can be searched."""
FEEDBACK_OFF = "This service keeps no corrections. Its operator turns them on with serve.feedback: true."


@dataclass(frozen=True)
class Answered:
    """A text and its answer. A judgment is about these, even if the text box has changed since."""

    texts: Text
    answer: Answer
    is_multilabel: bool


@dataclass(frozen=True)
class Judging:
    """The components that take a judgment."""

    group: gr.Column
    right: gr.Button
    one: gr.Radio
    """For few labels."""
    listed: gr.Dropdown
    """For many labels."""
    several: gr.CheckboxGroup
    """For the labels of a multilabel model."""
    send: gr.Button
    """The button that sends the labels chosen in `several`, which takes more than one click."""
    note: gr.HTML

    @property
    def shown(self) -> list[Any]:
        """The components that `judging_for` updates."""
        return [self.group, self.right, self.one, self.listed, self.several, self.send, self.note]


def build_judging(api: ServeClient, *, answered: gr.State) -> Judging:
    """Build the components and their events."""
    with gr.Column(visible=False, elem_id="judge") as group:
        right = gr.Button("That is right", size="sm", elem_id="judge-right")
        one = gr.Radio([], label="No, the right label is", elem_id="judge-one")
        listed = gr.Dropdown([], label="No, the right label is", elem_id="judge-listed", visible=False)
        several = gr.CheckboxGroup([], label="The right labels", elem_id="judge-several", visible=False)
        send = gr.Button("Send these labels", size="sm", elem_id="judge-send", visible=False)
    note = gr.HTML(note_html(""), elem_id="judge-note")
    judging = Judging(group, right, one, listed, several, send, note)
    quietly: dict[str, Any] = {"outputs": note, "show_progress": "hidden", "api_visibility": "private"}
    right.click(lambda about: confirmed(api, about), inputs=answered, **quietly)
    for choice in (one, listed):
        choice.input(lambda label, about: corrected(api, about, label), inputs=[choice, answered], **quietly)
    send.click(lambda labels, about: corrected(api, about, labels), inputs=[several, answered], **quietly)
    return judging


def judging_for(model: ModelInfo | None, about: Answered | None) -> list[Any]:
    """Return the updates of the components for an answer, or for no answer yet."""
    if model is None or about is None:
        return [gr.Column(visible=False), *[gr.skip()] * 5, note_html("")]
    if not model.takes_feedback:
        return [gr.Column(visible=False), *[gr.skip()] * 5, note_html(FEEDBACK_OFF)]
    kind = "several" if model.is_multilabel else "one" if len(model.labels) <= MOST_BUTTONS else "listed"
    return [
        gr.Column(visible=True),
        gr.Button(),
        gr.Radio([*model.labels], value=None, visible=kind == "one"),
        gr.Dropdown([*model.labels], value=None, visible=kind == "listed"),
        gr.CheckboxGroup([*model.labels], value=about.answer.labels, visible=kind == "several"),
        gr.Button(visible=kind == "several"),
        note_html(""),
    ]


def confirmed(api: ServeClient, about: Answered | None) -> str:
    """Send that the answer is right, and return a note about it."""
    if about is None:
        return note_html("")
    labels = about.answer.labels
    return corrected(api, about, list(labels) if about.is_multilabel else labels[0])


def corrected(api: ServeClient, about: Answered | None, said: Said | None) -> str:
    """Send which label, or labels, are right, and return a note about it."""
    if about is None or said is None:
        return note_html("")
    given = about.answer.labels
    answer: Said = given if isinstance(said, list) else given[0]
    try:
        is_new = api.say(about.texts, answer=answer, correction=said, version=about.answer.version)
    except ApiError as error:
        return note_html(FEEDBACK_OFF if error.status == 403 else str(error), is_error=True)
    named = said if isinstance(said, str) else ", ".join(said) or "no label"
    return note_html(f"Thank you: kept as {named}." if is_new else f"That was said before: {named}.")
