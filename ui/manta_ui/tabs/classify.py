"""The tab Classify: type a text, see its label and how sure the model is."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from manta_ui.client import Answer, ApiError, ModelInfo, ServeClient
from manta_ui.markup import note_html

if TYPE_CHECKING:
    from manta_ui.services import Frame, Services

MOST_BARS = 10
NUM_EXAMPLE_SLOTS = 8


def build(services: Services, frame: Frame) -> None:
    """The tab's components and what they do."""
    client = services.api
    with gr.Row():
        with gr.Column(scale=3):
            text = gr.Textbox(
                label="Text", placeholder="Type or paste a text …", lines=4, max_lines=12, autofocus=True, elem_id="text"
            )
            second = gr.Textbox(
                label="Second text",
                placeholder="… and the text to compare it with",
                lines=4,
                max_lines=12,
                visible=False,
                elem_id="second-text",
            )
            button = gr.Button("Classify", variant="primary", elem_id="classify")
            note = gr.HTML(note_html(""), elem_id="note")
        with gr.Column(scale=2):
            label = gr.Label(label="Label", num_top_classes=MOST_BARS, elem_id="label")
    with gr.Column(elem_classes="manta-examples"):
        gr.Markdown("#### Examples from the model's test rows")
        examples = [gr.Button(visible=False, size="sm", variant="secondary") for _ in range(NUM_EXAMPLE_SLOTS)]
    example_texts = gr.State([])

    def load() -> list[Any]:
        return describe_model(client)

    def classify(typed: str, second_typed: str) -> tuple[Any, str]:
        return classify_text(client, typed, second_typed)

    frame.page.load(load, outputs=[note, second, label, example_texts, *examples])
    gr.on(
        [button.click, text.submit, second.submit],
        classify,
        inputs=[text, second],
        outputs=[label, note],
        show_progress="minimal",
        api_name="classify",
    )
    for index, example in enumerate(examples):
        example.click(partial(example_at, index), inputs=example_texts, outputs=[text, second], api_visibility="private").then(
            classify, inputs=[text, second], outputs=[label, note], show_progress="minimal", api_visibility="private"
        )


def example_at(index: int, examples: list[tuple[str, ...]]) -> tuple[str, str]:
    """What one example puts into the two boxes."""
    first, *second = examples[index]
    return first, second[0] if second else ""


def describe_model(client: ServeClient) -> list[Any]:
    """The note, the second box, the label bars, the examples and their buttons for the model that answers now."""
    try:
        model = client.model()
    except ApiError as error:
        return [
            note_html(str(error), is_error=True),
            gr.Textbox(visible=False, value=""),
            gr.Label(),
            [],
            *(gr.Button(visible=False) for _ in range(NUM_EXAMPLE_SLOTS)),
        ]
    shown = model.examples[:NUM_EXAMPLE_SLOTS]
    buttons = [gr.Button(value=" — ".join(example), visible=True) for example in shown]
    buttons += [gr.Button(visible=False) for _ in range(NUM_EXAMPLE_SLOTS - len(shown))]
    second = gr.Textbox(visible=True) if model.num_texts == 2 else gr.Textbox(visible=False, value="")
    # Where several labels or none may apply, the note says which; the most probable one in big letters would mislead.
    bars = gr.Label(show_heading=model.task != "multilabel")
    return [note_html(""), second, bars, shown, *buttons]


def classify_text(client: ServeClient, text: str, second: str = "") -> tuple[Any, str]:
    """The label bars and the note under the boxes for one text, or for a pair where the second box holds anything.

    Whether the model reads pairs is the API's to say: the page may have been opened in front of another model.
    """
    if not text.strip():
        return None, note_html("Type a text first.", is_error=True)
    try:
        answer = client.classify(text, second) if second.strip() else client.classify(text)
        # Another model than the page was opened in front of may have answered, so its rule is asked for now.
        model = client.model() if answer.uncertain else None
    except ApiError as error:
        return None, note_html(str(error), is_error=True)
    return answer.scores, note_html(answer_note(answer, model))


def answer_note(answer: Answer, model: ModelInfo | None) -> str:
    """What stands under the boxes after an answer; `model` is known where the answer is uncertain, and says why."""
    timing = f"version {answer.version}, {answer.latency_s * 1000:.0f} ms"
    if model is not None:
        return f"Not sure: {uncertain_reason(answer, model)} ({timing})."
    if not answer.labels:
        return f"No label applies ({timing})."
    if len(answer.labels) == 1:
        return f"{answer.labels[0]}, {answer.scores[answer.labels[0]]:.0%} ({timing})"
    return (
        f"{len(answer.labels)} labels apply: {', '.join(f'{name} {answer.scores[name]:.0%}' for name in answer.labels)} ({timing})"
    )


def uncertain_reason(answer: Answer, model: ModelInfo) -> str:
    """Why an answer is uncertain."""
    if model.target_precision is None:
        return "no label is more likely than not"
    wanted = f"for {100 * model.target_precision:.3g}% right answers, this model has to be {model.uncertain_below:.0%} sure"
    if model.task == "multilabel":
        return f"{wanted} of all labels together"
    label, score = max(answer.scores.items(), key=lambda item: item[1])
    return f"perhaps {label}, {score:.0%}; {wanted}"
