"""The tab Compare: two versions side by side, on one text and on a file."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from manta_ui.classify.compare_views import agreement_html, compared_page_html, metrics_html, side_by_side_html
from manta_ui.classify.row_answers import RowAnswer, answer_rows
from manta_ui.clients.api import ApiError
from manta_ui.clients.tracking import TrackingError
from manta_ui.look.markup import empty_html, note_html, progress_html
from manta_ui.tabs.classify import KEYS, texts_of
from manta_ui.tabs.file_choice import RESULTS, build_file_choice, texts_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manta_ui.classify.row_files import RowFile
    from manta_ui.clients.api import ModelInfo, ServeClient, Text
    from manta_ui.clients.tracking import TrackingClient
    from manta_ui.tabs.services import Frame, Services

HIDDEN: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
NOTHING_YET = empty_html("Two versions answer here, side by side", "Choose them, then type a text.")


@dataclass(frozen=True)
class Compared:
    """A file's rows with the answers of two versions."""

    texts: list[Text]
    left: list[RowAnswer]
    right: list[RowAnswer]
    versions: tuple[int, int]


def build(services: Services, frame: Frame) -> None:
    """Build the tab's components and their events."""
    api = services.api
    with gr.Row():
        left = gr.Dropdown([], label="Version", allow_custom_value=True, elem_id="compare-left", min_width=120)
        right = gr.Dropdown([], label="Compared with", allow_custom_value=True, elem_id="compare-right", min_width=120)
    metrics = gr.HTML("", elem_id="compare-metrics", elem_classes="manta-data")
    text = gr.Textbox(label="Text", lines=3, max_lines=10, placeholder="Type or paste a text", elem_id="compare-text")
    second = gr.Textbox(label="Second text", value="", lines=3, max_lines=10, visible=False, elem_id="compare-second")
    with gr.Row(elem_classes="manta-actions"):
        button = gr.Button("Compare on this text", variant="primary", elem_id="compare-button")
        gr.HTML(KEYS)
    shown = gr.HTML(NOTHING_YET, elem_id="compare-answers")
    gr.HTML("<h2>On a file</h2>", elem_id="compare-file-title")
    _build_file(api, frame, left, right)

    versions = [left, right]
    gr.on(
        [frame.tab.select, frame.answering.change],  # a quick visitor opens the tab before the model is known
        lambda model, one, other: choices(services.tracking, model, one, other),
        inputs=[frame.answering, *versions],
        outputs=[*versions, second],
        trigger_mode="always_last",  # otherwise an event is dropped while the other one runs
        **HIDDEN,
    )
    gr.on([left.change, right.change], lambda one, other: metrics_of(api, one, other), inputs=versions, outputs=metrics, **HIDDEN)
    gr.on(
        [button.click, text.submit, second.submit],
        lambda typed, more, one, other: compared_text(api, texts_of(typed, more), one, other),
        inputs=[text, second, *versions],
        outputs=shown,
        **HIDDEN,
    )


def _build_file(api: ServeClient, frame: Frame, left: gr.Dropdown, right: gr.Dropdown) -> None:
    compared = gr.State(None)
    choice = build_file_choice(frame, name="compare", purpose="Drop a file to compare both versions on all its rows")
    with gr.Row(elem_classes="manta-actions"):
        start = gr.Button("Compare on the file", variant="primary", interactive=False, elem_id="compare-start")
        stop = gr.Button("Stop", interactive=False, elem_id="compare-stop")
    with gr.Column(elem_classes=RESULTS):
        agreement = gr.HTML("", elem_id="compare-agreement")
        page = gr.Number(value=1, minimum=1, precision=0, label="Page", elem_id="compare-page")
        table = gr.HTML("", elem_id="compare-table", elem_classes="manta-data")

    def run(
        file: RowFile | None, column: str | None, other: str | None, one: Any, two: Any, model: ModelInfo | None
    ) -> Iterator[dict[Any, Any]]:
        yield {start: gr.Button(interactive=False), stop: gr.Button(interactive=True), agreement: ""}
        for step in compared_rows(api, file, column, other, (one, two), model=model):
            if isinstance(step, str):
                yield {choice.note: step}
                continue
            yield {
                choice.note: note_html(f"{len(step.texts):,} rows by versions {step.versions[0]} and {step.versions[1]}."),
                compared: step,
                agreement: agreement_html(step.left, step.right, versions=step.versions),
                page: 1,
                table: _page(step, 1),
            }
        yield {start: gr.Button(interactive=True), stop: gr.Button(interactive=False)}

    choice.chosen.then(
        lambda file: (gr.Button(interactive=file is not None), ""),
        inputs=choice.file,
        outputs=[start, agreement],
        **HIDDEN,
    )
    running = start.click(
        run,
        inputs=[choice.file, choice.column, choice.second, left, right, frame.answering],
        outputs=[choice.note, compared, start, stop, agreement, page, table],
        **HIDDEN,
    )
    stop.click(
        lambda: (
            note_html("Stopped. Nothing was kept."),
            gr.Button(interactive=True),
            gr.Button(interactive=False),
        ),
        outputs=[choice.note, start, stop],
        cancels=running,
        **HIDDEN,
    )
    page.input(_page, inputs=[compared, page], outputs=table, **HIDDEN)


def choices(tracking: TrackingClient | None, model: ModelInfo | None, left: Any, right: Any) -> list[Any]:
    """Return the versions to choose from: all in the registry if it answers, else those that the API knows."""
    if model is None:
        return [gr.skip()] * 3
    candidate = model.candidate
    known = {model.version, *([model.candidate] if model.candidate else [])}
    if tracking is not None:
        with suppress(TrackingError):  # a number can still be typed
            mine = [item for item in tracking.models() if item.name == model.name]
            known |= {version.number for item in mine for version in tracking.versions(item)}
            candidate = next((item.aliases.get("candidate") for item in mine), candidate)
    newest = [str(number) for number in sorted(known, reverse=True)]
    other = str(candidate) if candidate in known else next((number for number in newest if number != str(model.version)), None)
    return [
        gr.Dropdown(newest, value=left or str(model.version)),
        gr.Dropdown(newest, value=right or other),
        gr.Textbox(visible=model.num_texts == 2),
    ]


def metrics_of(api: ServeClient, left: Any, right: Any) -> str:
    """Return both versions' metrics on their test rows; empty until two versions are chosen."""
    try:
        one, other = numbers_of(left, right)
        return metrics_html(api.model(version=one), api.model(version=other))
    except ValueError:
        return ""
    except ApiError as error:
        return note_html(str(error), is_error=True)


def compared_text(api: ServeClient, texts: Text, left: Any, right: Any) -> str:
    """Return both answers to one text."""
    if not texts[0].strip():
        return note_html("Type a text first.")
    try:
        versions = numbers_of(left, right)
        with ThreadPoolExecutor(len(versions)) as pool:  # a version that is not loaded yet takes longer
            one, other = pool.map(lambda version: (api.classify(*texts, version=version), api.model(version=version)), versions)
    except (ValueError, ApiError) as error:
        return note_html(str(error), is_error=True)
    return side_by_side_html(one, other)


def compared_rows(
    api: ServeClient,
    file: RowFile | None,
    column: str | None,
    second: str | None,
    chosen: tuple[Any, Any],
    *,
    model: ModelInfo | None,
) -> Iterator[str | Compared]:
    """Yield the progress as HTML repeatedly, and finally the answers of both versions. An error ends it."""
    if file is None or column is None:
        yield note_html("Drop a file and choose its text column first.")
        return
    yield progress_html(0, 2 * file.num_rows, left_s=None)
    answers: list[list[RowAnswer]] = [[], []]
    try:
        versions = numbers_of(*chosen)
        texts = texts_in(file, column, second, model=model or api.model())
        for given, version in zip(answers, versions, strict=True):
            for some in answer_rows(api, texts, version=version, faults=file.faults):
                given.extend(some)
                yield progress_html(sum(map(len, answers)), 2 * len(texts), left_s=None)
    except (ValueError, ApiError) as error:
        yield note_html(str(error), is_error=True)
        return
    yield Compared(texts, answers[0], answers[1], versions)


def numbers_of(left: Any, right: Any) -> tuple[int, int]:
    """Return the two versions as numbers.

    Raises:
        ValueError: one of them is not a number; the message is for the person who chose it.
    """
    found = []
    for chosen in (left, right):
        if not str(chosen or "").strip().isdecimal():
            raise ValueError("Choose two versions, by their numbers.")
        found.append(int(str(chosen)))
    return found[0], found[1]


def _page(compared: Compared | None, page: float) -> str:
    if compared is None:
        return ""
    return compared_page_html(compared.texts, compared.left, compared.right, versions=compared.versions, page=int(page or 1))
