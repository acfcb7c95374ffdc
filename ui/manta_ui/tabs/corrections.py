"""The tab Correct: rows that wait for a person's judgment, what people have said, and a run that trains on it."""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING, Any

import gradio as gr
import yaml

from manta_ui.clients.api import ApiError, FeedbackSummary, ServeClient
from manta_ui.labels.judgment import FEEDBACK_OFF
from manta_ui.labels.review_queue import NUM_RANDOM, Queue, Sampled
from manta_ui.labels.review_views import MOST_KEYS, NO_ROWS, last_html, queue_html
from manta_ui.look.markup import empty_html, named, note_html
from manta_ui.look.tables import Cell, figure_cell, table_html

if TYPE_CHECKING:
    from collections.abc import Callable

    from manta_ui.tabs.services import Frame, Services

NOTHING_SAID = empty_html("No corrections yet", "Judge rows here, or an answer in Classify.")
HIDDEN: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def build(services: Services, frame: Frame) -> None:
    """Build the tab's components and their events."""
    api = services.api
    with gr.Row(equal_height=False, elem_classes="manta-two"):
        with gr.Column(scale=3, min_width=300):
            said = _build_queue(api, frame)
        with gr.Column(scale=2, min_width=300):
            shown, offer, config = _build_summary(frame)
    outputs = [shown, offer, config]
    gr.on([frame.tab.select, said.change], lambda: summarised(api), outputs=outputs, **HIDDEN)


def _build_queue(api: ServeClient, frame: Frame) -> gr.HTML:
    """Build the row to judge and its buttons. Return the note that changes with each judgment."""
    # Keys and the buttons of the row click these buttons, which are not seen; the browser says which label was meant.
    meant = gr.Textbox(visible=False)
    say, skip, back = (gr.Button(name, elem_id=f"queue-{name}", elem_classes="manta-unseen") for name in ("say", "skip", "back"))
    with gr.Row(elem_classes="manta-actions", visible=False) as asked:
        at_random = gr.Button(f"Judge {NUM_RANDOM} random texts", elem_id="queue-random")
        unsure = gr.Button("Judge the least sure texts", elem_id="queue-unsure")
    card = gr.HTML(NO_ROWS, elem_id="queue-card")
    with gr.Column(elem_id="queue-more"):
        other = gr.Dropdown([], label="Another label", elem_id="queue-other")
    note = gr.HTML(note_html(""), elem_id="queue-note")
    queue, shown = gr.State(None), [card, other]  # the rows of Batch, or texts that the service was asked

    frame.answering.change(
        lambda model: gr.Row(visible=model is not None and model.samples_texts), inputs=frame.answering, outputs=asked, **HIDDEN
    )
    frame.queue.change(lambda found: found, inputs=frame.queue, outputs=queue, **HIDDEN)
    gr.on([queue.change, frame.tab.select], lambda found: drawn(api, found), inputs=queue, outputs=shown, **HIDDEN)
    for button, choose in ((at_random, Queue.at_random), (unsure, Queue.of)):
        button.click(lambda choose=choose: sampled(api, choose), js="manta.toQueue", outputs=[queue, note], **HIDDEN)
    for button, steps in ((skip, 1), (back, -1)):
        button.click(lambda found, steps=steps: found and found.moved(steps), inputs=queue, outputs=queue, **HIDDEN)
    judgments = [queue, frame.queue, note]
    say.click(lambda said, found: judged(api, found, said), js="manta.said", inputs=[meant, queue], outputs=judgments, **HIDDEN)
    other.input(
        lambda label, found: (
            judged(api, found, json.dumps({"row": found.row, "labels": [label]})) if found and label else [gr.skip(), gr.skip(), ""]
        ),
        inputs=[other, queue],
        outputs=judgments,
        **HIDDEN,
    )
    return note


def _build_summary(frame: Frame) -> tuple[gr.HTML, gr.Column, gr.Textbox]:
    shown = gr.HTML(empty_html("Looking for corrections …"), elem_id="corrections", elem_classes="manta-data")
    with gr.Column(visible=False, elem_id="fine-tune") as offer:
        gr.HTML(
            "<h2>Train with them</h2><p>This run repeats the champion's training with the corrections added. "
            "Validation and test rows stay the same, so the two can be compared.</p>"
        )
        with gr.Row(elem_classes="manta-actions"):
            to_jobs = gr.Button("Open in Jobs", variant="primary", elem_id="to-jobs")
            download = gr.Button("Download YAML", elem_id="download-config")
        config = gr.Textbox(label="experiment.yaml", lines=12, max_lines=24, buttons=["copy"], elem_id="correction-config")
    download.click(None, js="(text) => manta.download('experiment.yaml', text)", inputs=config, **HIDDEN)
    to_jobs.click(
        lambda text: (text, gr.Tabs(selected="jobs")), inputs=config, outputs=[frame.prepared_config, frame.tabs], **HIDDEN
    )
    return shown, offer, config


def sampled(api: ServeClient, choose: Callable[[Sampled], Queue]) -> list[Any]:
    """Return a queue of the texts that the service was asked lately, and a note if there are none."""
    try:
        texts, num_answers = api.sampled_texts()
        rows = Sampled.of(texts, model=api.model())
    except ApiError as error:
        return [gr.skip(), note_html(str(error), is_error=True)]
    queue = choose(rows)
    if queue.row is None:
        why = "The service was asked nothing yet." if not texts else f"All {len(queue.order or texts):,} texts were judged."
        return [queue if texts else gr.skip(), note_html(why)]
    return [queue, note_html(f"From {len(texts):,} random texts of the latest {num_answers:,} answers.")]


def drawn(api: ServeClient, queue: Queue | None) -> list[Any]:
    """Return the row to judge, and the list of all labels if not each has a key."""
    if queue is None:
        return [NO_ROWS, gr.skip()]
    if queue.row is None:
        return [last_html(queue), gr.skip()]
    rows, model = queue.rows, queue.rows.model
    try:
        answer = rows.known[queue.row] if isinstance(rows, Sampled) else api.classify(*rows.texts[queue.row], version=model.version)
    except ApiError as error:
        return [note_html(str(error), is_error=True), gr.skip()]
    has_more = len(model.labels) > MOST_KEYS and not model.is_multilabel
    return [queue_html(queue, answer), gr.Dropdown([*model.labels], value=None, visible=has_more)]


def judged(api: ServeClient, queue: Queue | None, meant: str) -> list[Any]:
    """Send a judgment on the shown row. Return the queue at the next row, the same for Batch if it is of its file, and a note."""
    said = json.loads(meant or "{}")
    if queue is None or said.get("row") != queue.row:
        return [gr.skip()] * 3  # a second click on a row that was judged
    rows, row, labels = queue.rows, int(said["row"]), list(map(str, said["labels"]))
    model = rows.model
    if not labels and not model.is_multilabel:
        return [gr.skip()] * 3
    given = list(rows.answers[row].labels)
    answer, correction = (given, labels) if model.is_multilabel else (given[0], labels[0])
    version = rows.known[row].version if isinstance(rows, Sampled) else model.version
    try:
        api.say(rows.texts[row], answer=answer, correction=correction, version=version)
    except ApiError as error:
        return [gr.skip(), gr.skip(), note_html(FEEDBACK_OFF if error.status == 403 else str(error), is_error=True)]
    heard, is_sample = queue.heard(row, correction), isinstance(rows, Sampled)
    kept = f"{'Text' if is_sample else f'Row {row + 1:,}'} is kept as {named(correction)}."
    return [heard, gr.skip() if is_sample else heard, note_html(kept)]


def summarised(api: ServeClient) -> list[Any]:
    """Return the summary of the feedback, whether to offer a run, and the run's settings."""
    try:
        summary = api.feedback()
    except ApiError as error:
        told = empty_html("Corrections are off", FEEDBACK_OFF) if error.status == 403 else note_html(str(error), is_error=True)
        return [told, gr.Column(visible=False), gr.skip()]
    if not summary.count:
        return [NOTHING_SAID, gr.Column(visible=False), gr.skip()]
    text = yaml.safe_dump(summary.experiment, sort_keys=False, allow_unicode=True)
    return [summary_html(summary), gr.Column(visible="name" in summary.experiment), text]


def summary_html(summary: FeedbackSummary) -> str:
    """Return the counts, the labels and the conflicts."""
    figures = (
        (summary.since_champion, "since the champion was trained"),
        (summary.count, "texts judged in all"),
        (summary.corrected, "of them were wrong"),
    )
    tiles = "".join(f"<li><strong>{number:,}</strong><span>{words}</span></li>" for number, words in figures)
    rows = [[Cell(label), figure_cell(number)] for label, number in summary.by_label.items()]
    labels = table_html("corrections", ["Label", "Texts"], rows, caption="Labels that people gave")
    return f'<ul class="manta-tiles">{tiles}</ul>{_conflicts_html(summary)}{labels}'


def _conflicts_html(summary: FeedbackSummary) -> str:
    again = f"Texts that differ from another only in capitals and spaces: {summary.duplicates:,}." if summary.duplicates else ""
    if not summary.conflicts:
        return f'<p class="manta-quiet">No conflicts. Of several corrections of a text, the last one counts. {again}</p>'
    listed = "".join(
        f"<li>{html.escape(_shown(conflict['text']))}: {html.escape(' or '.join(map(_shown, conflict['labels'])))}</li>"
        for conflict in summary.conflicts
    )
    return (
        '<h2>Conflicts</h2><p class="manta-quiet">The same text, but for capitals and spaces, has different labels. Correct it '
        f'again, or the model learns both. {again}</p><ul class="manta-conflicts">{listed}</ul>'
    )


def _shown(value: str | list[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value) or "no label"
