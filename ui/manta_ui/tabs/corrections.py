"""The tab Correct: what people said about answers, and a fine-tuning run that learns from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gradio as gr

from manta_ui.markup import note_html

if TYPE_CHECKING:
    from manta_ui.services import Frame, Services


def build(services: Services, frame: Frame) -> None:
    """The tab's components and what they do."""
    gr.HTML(note_html("Nothing to see here yet."))
