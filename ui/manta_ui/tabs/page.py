"""The Gradio page, which holds the tabs. Everything it shows comes from services over HTTP."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import gradio as gr

from manta_ui.clients.api_watch import ApiWatch, Seen
from manta_ui.tabs import batch, classify, compare, corrections, jobs, labels, models, tuning
from manta_ui.tabs.services import Frame

if TYPE_CHECKING:
    from manta_ui.clients.api import ModelInfo
    from manta_ui.tabs.services import Services

TABS = {
    "classify": ("Classify", classify.build),
    "corrections": ("Correct", corrections.build),
    "batch": ("Batch", batch.build),
    "labels": ("Labels", labels.build),
    "compare": ("Compare", compare.build),
    "models": ("Models", models.build),
    "tuning": ("Tuning", tuning.build),
    "jobs": ("Jobs", jobs.build),
}
LOOK_EVERY_S = 1.0
"""Seconds between an open page's checks of the API. An API that goes down is noticed within two seconds."""
NEVER_SEEN = Seen()


def build_page(services: Services) -> gr.Blocks:
    """Build the page in front of the services."""
    watch = ApiWatch(services.api)
    with gr.Blocks(title="Manta", analytics_enabled=False, fill_width=False) as page:
        heading = gr.HTML(heading_html(NEVER_SEEN), elem_id="heading")
        status = gr.HTML("", elem_id="status")
        answering = gr.State(None)
        queue, prepared_config = gr.State(None), gr.State("")
        with gr.Tabs(elem_id="tabs", overflow_behavior="wrap") as tabs:
            for name, (title, build) in TABS.items():
                with gr.Tab(title, id=name, elem_id=f"tab-{name}") as tab:
                    build(services, Frame(page, tab, tabs, answering, queue, prepared_config))
        seen = gr.State(NEVER_SEEN)
        gr.on(
            [page.load, gr.Timer(LOOK_EVERY_S).tick],
            lambda before: looked(watch, before),
            inputs=seen,
            outputs=[seen, heading, status],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
        # Only a queued event notifies a state's listeners of a change. One such event each second would be too costly.
        heading.change(lambda: watch.look().model, outputs=answering, show_progress="hidden", api_visibility="private")
    return page


def looked(watch: ApiWatch, before: Seen) -> list[Any]:
    """Return the state of the API, the heading and the line above the tabs. Nothing is updated if the state equals `before`."""
    seen = watch.look()
    if seen == before:
        return [gr.skip()] * 3
    return [seen, heading_html(seen), status_html(seen)]


def heading_html(seen: Seen) -> str:
    """Return the page's heading: the model that answers, and its metric on the test rows."""
    if seen.model is None:
        line, kind, state = "Text classification", "manta-away", "no model answers" if seen.problem else "looking for the model"
    else:
        line, kind, state = model_line(seen.model), "manta-here", "answering"
    return (
        '<header class="manta-heading"><h1>Manta</h1>'
        f'<p id="model">{html.escape(line)}</p>'
        f'<p class="manta-state {kind}"><span class="manta-dot" aria-hidden="true"></span>{state}</p>'
        '<button type="button" class="manta-theme" data-manta="theme" aria-label="Light or dark">◐</button></header>'
    )


def model_line(model: ModelInfo) -> str:
    """Return a model in one line: its name, version, number of labels, and its metric on the test rows."""
    # For a multilabel model, the share of rows with all labels right says little about the quality of the labels.
    key, words = ("f1_micro", "micro F1") if model.is_multilabel else ("accuracy", "accuracy")
    score = f", test {words} {model.metrics[key]:.1%}" if key in model.metrics else ""
    return f"{model.name} version {model.version}: {len(model.labels)} labels{score}"


def status_html(seen: Seen) -> str:
    """Return the alert while no model answers: the reason, and that nothing is lost. A screen reader reads it aloud at once."""
    if seen.problem is None:
        return '<div role="alert"></div>'
    hope = "What you typed stays here. The page goes on by itself once a model answers."
    return f'<div role="alert" class="manta-alert"><p>{html.escape(seen.problem)}</p><p>{hope}</p></div>'
