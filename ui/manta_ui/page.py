"""The Gradio page: one tab for each module of `tabs`. Everything it shows comes from services over HTTP."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import gradio as gr

from manta_ui.client import ApiError, ModelInfo, ServeClient
from manta_ui.services import Frame
from manta_ui.tabs import batch, classify, compare, corrections, jobs, models, tuning

if TYPE_CHECKING:
    from manta_ui.services import Services

TABS = {
    "classify": ("Classify", classify.build),
    "corrections": ("Correct", corrections.build),
    "batch": ("Batch", batch.build),
    "compare": ("Compare", compare.build),
    "models": ("Models", models.build),
    "tuning": ("Tuning", tuning.build),
    "jobs": ("Jobs", jobs.build),
}


def build_page(services: Services) -> gr.Blocks:
    """The page in front of the services."""
    with gr.Blocks(title="Manta", analytics_enabled=False) as page:
        heading = gr.HTML(heading_html(None))
        prepared_config = gr.State("")
        with gr.Tabs(elem_id="tabs") as tabs:
            for name, (title, build) in TABS.items():
                with gr.Tab(title, id=name, elem_id=f"tab-{name}") as tab:
                    build(services, Frame(page=page, tab=tab, tabs=tabs, prepared_config=prepared_config))
        page.load(lambda: describe(services.api), outputs=heading, api_visibility="private")
    return page


def describe(client: ServeClient) -> str:
    """The heading for the model that answers now."""
    try:
        return heading_html(client.model())
    except ApiError:
        return heading_html(None)


def heading_html(model: ModelInfo | None) -> str:
    """The page's heading: which model answers, and how good it was on its test rows."""
    if model is None:
        return "<h1>Manta</h1><p>Text classification</p>"
    # Where several labels may apply, the share of rows with all of them right says little of how good the labels are.
    key, words = ("f1_micro", "micro F1") if model.task == "multilabel" else ("accuracy", "accuracy")
    score = f", test {words} {model.metrics[key]:.1%}" if key in model.metrics else ""
    line = f"{model.name} version {model.version}: {len(model.labels)} labels{score}"
    return f'<h1>Manta</h1><p id="model">{html.escape(line)}</p>'
