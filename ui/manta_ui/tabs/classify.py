"""The tab Classify: type a text, see its label and confidence, ask for an explanation, and correct the label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from manta_ui.classify.answer_views import answer_html, in_short
from manta_ui.classify.snippets import as_curl, as_python
from manta_ui.clients.api import ApiError, ModelInfo, ServeClient, Text
from manta_ui.labels.judgment import Answered, build_judging, judging_for
from manta_ui.look.markup import empty_html, explanation_html, note_html, text_buttons_html

if TYPE_CHECKING:
    from manta_ui.tabs.services import Frame, Services

NUM_EXAMPLES = 6
LONGEST_HISTORY = 20
NO_ANSWER = empty_html("The answer appears here", "Type a text, or take an example.")
KEYS = '<span class="manta-keys">or Ctrl + Enter</span>'
"""A hint for people who have a keyboard."""
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
HIDDEN: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def build(services: Services, frame: Frame) -> None:
    """Build the tab's components and their events."""
    api = services.api
    answered = gr.State(None)
    history = gr.State([])
    with gr.Row(equal_height=False, elem_classes="manta-two"):
        with gr.Column(scale=3, min_width=300):
            text, second = _boxes()
            with gr.Row(elem_classes="manta-actions"):
                button = gr.Button("Classify", variant="primary", elem_id="classify")
                gr.HTML(KEYS)
            note = gr.HTML(note_html(""), elem_id="note")
            examples = gr.HTML("", elem_id="examples")
        with gr.Column(scale=2, min_width=300):
            shown = gr.HTML(NO_ANSWER, elem_id="answer")
            with gr.Row(elem_classes=["manta-actions", "manta-small-buttons", "manta-after-answer"]):
                why = gr.Button("Why?", size="sm", elem_id="why-button")
                _build_sharing(api, text, second)
            reasons = gr.HTML("", elem_id="why")
            judging = build_judging(api, answered=answered)
            past = gr.HTML("", elem_id="history")

    frame.answering.change(examples_of, inputs=frame.answering, outputs=[second, examples], **HIDDEN)
    asked = gr.on(
        [button.click, text.submit, second.submit],
        lambda typed, other, model: classified(api, typed, other, model=model),
        inputs=[text, second, frame.answering],
        outputs=[shown, note, answered],
        show_progress="hidden",
        queue=False,
        api_visibility="private",
    )
    # The updates after the answer wait until it is shown.
    asked.then(
        after_answer,
        inputs=[frame.answering, answered, history],
        outputs=[history, past, reasons, *judging.shown],
        queue=False,
        **HIDDEN,
    )
    why.click(lambda about: explained(api, about), inputs=answered, outputs=reasons, concurrency_limit=4, **PRIVATE)
    frame.page.load(None, js="manta.fromLink", inputs=[text, second], outputs=[text, second], **PRIVATE)


def _boxes() -> tuple[gr.Textbox, gr.Textbox]:
    text = gr.Textbox(label="Text", placeholder="Type or paste a text", lines=5, max_lines=14, autofocus=True, elem_id="text")
    second = gr.Textbox(
        label="Second text",
        placeholder="… and the text to compare it with",
        lines=5,
        max_lines=14,
        value="",
        visible=False,
        elem_id="second-text",
    )
    return text, second


def _build_sharing(api: ServeClient, text: gr.Textbox, second: gr.Textbox) -> None:
    """Build the buttons that copy a link to this text, or the same request as curl or Python."""
    snippet = gr.Textbox(visible=False)
    link = gr.Button("Copy link", size="sm", elem_id="copy-link")
    curl = gr.Button("Copy as curl", size="sm", elem_id="copy-curl")
    python = gr.Button("Copy as Python", size="sm", elem_id="copy-python")
    link.click(None, js="manta.copyLink", inputs=[text, second], **PRIVATE)
    for button, write in ((curl, as_curl), (python, as_python)):
        button.click(
            lambda first, other, write=write: write(texts_of(first, other), url=api.url, needs_key=api.has_key),
            inputs=[text, second],
            outputs=snippet,
            **HIDDEN,
        ).then(None, js="manta.copy", inputs=snippet, **PRIVATE)


def texts_of(typed: str, second: str) -> Text:
    """Return the texts of the two boxes: a pair if the second box holds anything.

    The API checks whether its model reads pairs, because the page may have been opened in front of another model.
    """
    return (typed, second) if second.strip() else (typed,)


def examples_of(model: ModelInfo | None) -> list[Any]:
    """Return the second box and the examples for a model. Nothing changes while no model answers."""
    if model is None:
        return [gr.skip(), gr.skip()]
    second = gr.Textbox(visible=True) if model.num_texts == 2 else gr.Textbox(visible=False, value="")
    shown = text_buttons_html(model.examples[:NUM_EXAMPLES])
    return [second, f"<h2>Examples from the model's test rows</h2>{shown}" if model.examples else ""]


def classified(api: ServeClient, typed: str, second: str, *, model: ModelInfo | None) -> list[Any]:
    """Return the answer to the texts in the boxes, the note below them, and the answered text."""
    if not typed.strip():
        return [gr.skip(), note_html("Type a text first."), gr.skip()]
    texts = texts_of(typed, second)
    try:
        answer = api.classify(*texts)
        # A version that the page does not know may have answered. It has its own confidence threshold.
        if model is None or (answer.uncertain and answer.version != model.version):
            model = api.model(version=answer.version)
    except ApiError as error:
        return [gr.skip(), note_html(str(error), is_error=True), gr.skip()]
    return [answer_html(answer, model), note_html(""), Answered(texts, answer, is_multilabel=model.is_multilabel)]


def after_answer(model: ModelInfo | None, about: Answered | None, history: list[tuple[Text, str]]) -> list[Any]:
    """Return the history with its list, an empty explanation, and the components that take a judgment."""
    if about is None:
        return [gr.skip()] * 10
    entry = (about.texts, in_short(about.answer))
    if entry in history[:1]:
        return [gr.skip(), gr.skip(), "", *judging_for(model, about)]
    history = [entry, *(other for other in history if other[0] != about.texts)][:LONGEST_HISTORY]
    listed = text_buttons_html([texts for texts, _ in history], captions=[caption for _, caption in history])
    return [history, f"<h2>Asked in this session</h2>{listed}", "", *judging_for(model, about)]


def explained(api: ServeClient, about: Answered | None) -> str:
    """Return the explanation of the shown label: which words speak for it and against it."""
    if about is None:
        return note_html("Classify a text first; then this says which words counted.")
    try:
        return explanation_html(about.texts, api.explain(*about.texts, version=about.answer.version))
    except ApiError as error:
        return note_html(str(error), is_error=True)
