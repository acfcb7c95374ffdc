"""The choice of a file of rows and of its text columns, for the tabs that take a file."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from manta_ui.classify.row_files import ENDINGS, FileProblem, RowFile, read_rows
from manta_ui.look.markup import note_html

if TYPE_CHECKING:
    from manta_ui.clients.api import ModelInfo
    from manta_ui.tabs.services import Frame

HIDDEN: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
NO_FILE = f"{', '.join(ENDINGS)}, with a name for each column and a text in each row."

RESULTS = "manta-results"
"""Class of a column that is shown while it contains something of the class `manta-found`.

It replaces `visible`: a column that is hidden and shown again before the browser has built it may stay hidden (Gradio's issue
13494). That happened in 2 of 15 visits with a small file, and in 13 of 23 with "hidden" instead of False.
"""


@dataclass(frozen=True)
class FileChoice:
    """The components for choosing a file."""

    file: gr.State
    """The `RowFile`, or None."""
    column: gr.Dropdown
    second: gr.Dropdown
    """The second text column, for models that read pairs."""
    note: gr.HTML
    """Messages about the file and about the work on it."""
    chosen: Any
    """The event after which `file` has a new value; `.then` continues from it."""


def build_file_choice(frame: Frame, *, name: str, purpose: str) -> FileChoice:
    """Build the components. Their ids begin with `name`; `purpose` says what dropping a file is for."""
    no_file = f'<p class="manta-quiet">{html.escape(f"{purpose}: {NO_FILE}")}</p>'
    file = gr.State(None)
    with gr.Row(equal_height=False, elem_classes="manta-choose"):
        with gr.Column(scale=2, min_width=260):
            upload = gr.File(label="File", file_types=list(ENDINGS), elem_id=f"{name}-file", elem_classes="manta-file", height=140)
        with gr.Column(scale=3, min_width=260, elem_classes="manta-columns"):
            column = gr.Dropdown([], label="Text column", elem_id=f"{name}-column")
            second = gr.Dropdown([], label="Second text column", elem_id=f"{name}-second", visible=False)
    note = gr.HTML(no_file, elem_id=f"{name}-progress")
    frame.answering.change(
        lambda model: gr.skip() if model is None else gr.Dropdown(visible=model.num_texts == 2),
        inputs=frame.answering,
        outputs=second,
        **HIDDEN,
    )
    chosen = upload.change(
        lambda path, model: opened(path, model, no_file=no_file),
        inputs=[upload, frame.answering],
        outputs=[file, column, second, note],
        **HIDDEN,
    )
    return FileChoice(file, column, second, note, chosen)


def opened(path: str | None, model: ModelInfo | None, *, no_file: str) -> list[Any]:
    """Return the file, the columns to choose from, and a message about it."""
    nothing = [None, gr.Dropdown([], value=None), gr.Dropdown([], value=None)]
    if path is None:
        return [*nothing, no_file]
    try:
        file = read_rows(Path(path))
    except FileProblem as problem:
        return [*nothing, note_html(str(problem), is_error=True)]
    first, *other = file.likely_columns(2)
    columns, left_out = file.text_columns, f" {len(file.faults):,} of them cannot be read." if file.faults else ""
    is_pair = model is not None and model.num_texts == 2
    return [
        file,
        gr.Dropdown(columns, value=first),
        gr.Dropdown(columns, value=other[0] if other else None, visible=is_pair),
        note_html(f"{file.name}: {file.num_rows:,} rows.{left_out} {file.note} Check the column."),
    ]


def texts_in(file: RowFile, column: str, second: str | None, *, model: ModelInfo) -> list[tuple[str, ...]]:
    """Return the texts that a model reads: one column, or two for pairs."""
    return file.texts(column, *([second] if second and model.num_texts == 2 else []))
