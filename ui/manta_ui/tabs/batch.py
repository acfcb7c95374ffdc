"""The tab Batch: a file of texts, classified row by row through the API."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from manta_ui.classify.batch_views import ALL_LABELS, Filter, distribution_html, table_page_html
from manta_ui.classify.downloads import held_path
from manta_ui.classify.row_answers import RowAnswer, answer_rows
from manta_ui.classify.row_files import RowFile, write_rows
from manta_ui.clients.api import ApiError
from manta_ui.labels.review_queue import Classified, Queue
from manta_ui.look.markup import note_html, progress_html
from manta_ui.tabs.file_choice import RESULTS, build_file_choice, texts_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manta_ui.clients.api import ModelInfo, ServeClient
    from manta_ui.tabs.services import Frame, Services

SHOW_EVERY_S = 0.25
UNFORESEEN = "The rows could not be classified; the log of the page says why. Start again, or use manta predict."
HIDDEN: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


@dataclass(frozen=True)
class Filters:
    """The components that filter rows."""

    label: gr.Dropdown
    uncertain: gr.Checkbox
    least: gr.Slider
    most: gr.Slider
    page: gr.Number

    @property
    def inputs(self) -> list[Any]:
        """The components in the order of `Filter`'s fields, and the page."""
        return [self.label, self.uncertain, self.least, self.most, self.page]


def build(services: Services, frame: Frame) -> None:
    """Build the tab's components and their events."""
    api = services.api
    queue = frame.queue
    choice = build_file_choice(frame, name="batch", purpose="Drop a file to classify all its rows")
    with gr.Row(elem_classes="manta-actions"):
        start = gr.Button("Classify rows", variant="primary", elem_id="batch-start", interactive=False)
        stop = gr.Button("Stop", elem_id="batch-stop", interactive=False)
    with gr.Column(elem_id="batch-results", elem_classes=RESULTS):
        with gr.Row(elem_classes="manta-actions"):
            download = gr.DownloadButton("Download with the answers", elem_id="batch-download")
            unsure = gr.Button("Correct the least sure", elem_id="batch-unsure")
        plot = gr.HTML("", elem_id="batch-plot")
        filters = _build_filters()
        table = gr.HTML("", elem_id="batch-table", elem_classes="manta-data")

    choice.chosen.then(
        lambda file: (gr.Button(interactive=file is not None), ""),
        inputs=choice.file,
        outputs=[start, plot],
        **HIDDEN,
    )

    def run(rows: RowFile | None, name: str | None, other: str | None, model: ModelInfo | None) -> Iterator[dict[Any, Any]]:
        yield {start: gr.Button(interactive=False), stop: gr.Button(interactive=True), plot: ""}
        for step in classified_rows(api, rows, name, other, model=model):
            if isinstance(step, str):
                yield {choice.note: step}
                continue
            yield {
                choice.note: note_html(done_sentence(step)),
                queue: Queue.of(step),
                plot: distribution_html(step.answers),
                filters.label: gr.Dropdown([ALL_LABELS, *step.model.labels], value=ALL_LABELS),
                filters.page: 1,
                download: gr.DownloadButton(value=str(with_answers(step))),
            }
        yield {start: gr.Button(interactive=True), stop: gr.Button(interactive=False)}

    running = start.click(
        run,
        inputs=[choice.file, choice.column, choice.second, frame.answering],
        outputs=[choice.note, queue, start, stop, plot, filters.label, filters.page, download],
        **HIDDEN,
    )
    running.then(shown, inputs=[queue, *filters.inputs], outputs=table, **HIDDEN)
    running.failure(failed, outputs=[choice.note, start, stop], **HIDDEN)
    stop.click(stopped, outputs=[choice.note, start, stop], cancels=running, **HIDDEN)
    gr.on(
        [filters.label.input, filters.uncertain.input, filters.least.release, filters.most.release],
        lambda: 1,
        outputs=filters.page,
        **HIDDEN,
    ).then(shown, inputs=[queue, *filters.inputs], outputs=table, **HIDDEN)
    meant = gr.Textbox(visible=False)
    review = gr.Button("review", elem_id="batch-review", elem_classes="manta-unseen")
    review.click(turned, js="manta.said", inputs=[meant, queue], outputs=[queue, frame.tabs], **HIDDEN)
    unsure.click(lambda: gr.Tabs(selected="corrections"), outputs=frame.tabs, **HIDDEN)
    frame.tab.select(shown, inputs=[queue, *filters.inputs], outputs=table, **HIDDEN)  # with what was said meanwhile
    filters.page.input(shown, inputs=[queue, *filters.inputs], outputs=table, **HIDDEN)


def _build_filters() -> Filters:
    with gr.Row():
        label = gr.Dropdown([ALL_LABELS], value=ALL_LABELS, label="Label", elem_id="batch-label", min_width=160, scale=2)
        page = gr.Number(value=1, minimum=1, precision=0, label="Page", elem_id="batch-page", min_width=100, scale=1)
        uncertain = gr.Checkbox(label="Not sure only", container=False, elem_id="batch-uncertain", scale=1)
    with gr.Row():
        least = gr.Slider(0, 1, value=0, step=0.01, label="Score from", elem_id="batch-least", min_width=240)
        most = gr.Slider(0, 1, value=1, step=0.01, label="Score to", elem_id="batch-most", min_width=240)
    return Filters(label, uncertain, least, most, page)


def classified_rows(
    api: ServeClient, file: RowFile | None, column: str | None, second: str | None, *, model: ModelInfo | None
) -> Iterator[str | Classified]:
    """Yield the progress as HTML repeatedly, and finally the results. An error ends it."""
    if file is None or column is None:
        yield note_html("Drop a file and choose its text column first.")
        return
    yield progress_html(0, file.num_rows, left_s=None)
    started = shown_at = time.monotonic()
    answers: list[RowAnswer] = []
    try:
        model = api.model() if model is None else model
        texts = texts_in(file, column, second, model=model)
        for some in answer_rows(api, texts, version=model.version, faults=file.faults):
            answers += some
            now = time.monotonic()
            if now - shown_at >= SHOW_EVERY_S:
                shown_at = now
                left_s = (now - started) / len(answers) * (len(texts) - len(answers))
                yield progress_html(len(answers), len(texts), left_s=left_s)
    except ApiError as error:
        yield note_html(f"{error} {len(answers):,} rows were answered by then; classify them again.", is_error=True)
        return
    yield Classified(file.name, texts, answers, model, file, seconds=time.monotonic() - started)


def done_sentence(done: Classified) -> str:
    """Return a sentence about the results."""
    without = sum(answer.problem is not None for answer in done.answers)
    unsure = sum(answer.uncertain for answer in done.answers)
    tail = f" Rows without an answer: {without:,}; the table says why." if without else ""
    by = f"{done.model.name} version {done.model.version}"
    return f"{len(done.answers):,} rows by {by} in {done.seconds:.1f} s, {unsure:,} not sure.{tail}"


def with_answers(done: Classified) -> Path:
    """Write the file with the answers in added columns, and return its path for the download."""
    path = held_path(f"{done.file.stem}-answers{done.file.kind}")
    added = [
        {
            "label": "|".join(answer.labels),
            "score": None if answer.score is None else round(answer.score, 6),
            "uncertain": answer.uncertain,
            "problem": answer.problem,
            "version": done.model.version,
        }
        for answer in done.answers
    ]
    write_rows(done.file, path, added=added)
    return path


def shown(queue: Queue | None, label: str, uncertain: bool, least: float, most: float, page: float) -> str:
    """Return one page of the rows that pass the filters."""
    if queue is None:
        return ""
    chosen = Filter(label=label, uncertain_only=uncertain, least=least, most=most)
    found = queue.rows
    said = queue.said if found.model.takes_feedback else None
    return table_page_html(found.texts, found.answers, chosen, page=int(page or 1), said=said)


def turned(meant: str, queue: Queue | None) -> list[Any]:
    """Return the queue at the row that a person wants to correct, and the tab Correct."""
    if queue is None or not meant:
        return [gr.skip(), gr.skip()]
    return [queue.turned_to(int(json.loads(meant)["row"])), gr.Tabs(selected="corrections")]


def failed() -> list[Any]:
    """Return the updates after an error without a sentence of its own. Its traceback is in the page's log."""
    return [note_html(UNFORESEEN, is_error=True), gr.Button(interactive=True), gr.Button(interactive=False)]


def stopped() -> list[Any]:
    """Return the updates after a click on Stop."""
    return [note_html("Stopped. Nothing was kept."), gr.Button(interactive=True), gr.Button(interactive=False)]
