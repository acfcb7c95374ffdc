"""The tab Correct: people's feedback on answers, and a fine-tuning run that trains on it."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import gradio as gr
import yaml

from manta_ui.client import ApiError, FeedbackSummary, ServeClient
from manta_ui.judgement import FEEDBACK_OFF
from manta_ui.markup import empty_html, note_html
from manta_ui.tables import Cell, figure_cell, table_html

if TYPE_CHECKING:
    from manta_ui.services import Frame, Services

NOTHING_SAID = empty_html("No corrections yet", "Classify a text, then say whether its label is right.")
HIDDEN: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def build(services: Services, frame: Frame) -> None:
    """Build the tab's components and their events."""
    api = services.api
    shown = gr.HTML(empty_html("Looking for corrections …"), elem_id="corrections", elem_classes="manta-data")
    with gr.Column(visible=False, elem_id="fine-tune") as offer:
        gr.HTML(
            "<h2>Train with them</h2><p>This run repeats the champion's training with the corrections added. "
            "Validation and test rows stay the same, so the two can be compared.</p>"
        )
        with gr.Row():
            to_jobs = gr.Button("Open in Jobs", variant="primary", elem_id="to-jobs", scale=2)
            download = gr.Button("Download YAML", elem_id="download-config", scale=1)
        config = gr.Textbox(label="experiment.yaml", lines=12, max_lines=24, buttons=["copy"], elem_id="correction-config")
    outputs = [shown, offer, config]
    frame.tab.select(lambda: summarised(api), outputs=outputs, **HIDDEN)
    gr.Button("Look again", size="sm", elem_id="corrections-again").click(lambda: summarised(api), outputs=outputs, **HIDDEN)
    download.click(None, js="(text) => manta.download('experiment.yaml', text)", inputs=config, **HIDDEN)
    to_jobs.click(
        lambda text: (text, gr.Tabs(selected="jobs")), inputs=config, outputs=[frame.prepared_config, frame.tabs], **HIDDEN
    )


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
