"""The tab Models: versions, how good they are, and which one answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gradio as gr

from manta_ui.markup import note_html

if TYPE_CHECKING:
    from manta_ui.services import Frame, Services


def build(services: Services, frame: Frame) -> None:
    """The tab's components and what they do."""
    gr.HTML(note_html("Nothing to see here yet."))
