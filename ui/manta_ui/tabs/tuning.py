"""The tab Tuning: searches and their trials, while they run and afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from manta_ui.clients.tracking import NothingRecordedError, TrackingError, TrackingStartingError
from manta_ui.look.markup import empty_html, note_html
from manta_ui.look.tables import section_html
from manta_ui.tabs.models import NO_SERVER
from manta_ui.tuning.searches import read_search
from manta_ui.tuning.views import charts_html, config_html, search_line, trials_html

if TYPE_CHECKING:
    from manta_ui.clients.tracking import TrackingClient
    from manta_ui.tabs.services import Frame, Services

LOOK_EVERY_S = 3.0
NONE_YET = ("No searches yet.", "Press Search in the tab Jobs, or type: manta tune EXPERIMENT.yaml")


@dataclass(frozen=True)
class ShownSearch:
    """Content of the tab."""

    note: str
    searches: tuple[tuple[str, str], ...] = ()
    """Name and id of each search."""
    chosen: str | None = None
    trials: str = ""
    charts: str = ""
    config: str = ""
    best_config: str = ""
    """As YAML, for the tab Jobs."""
    is_over: bool = False
    """True if nothing more happens in the shown search."""


def build(services: Services, frame: Frame) -> None:
    """Build the tab's components and their events."""
    tracking = services.tracking
    if tracking is None:
        gr.HTML(empty_html(*NO_SERVER))
        return
    with gr.Column(elem_classes="manta-data"):
        search = gr.Dropdown([], label="Search", elem_id="tuning-search")
        note = gr.HTML(note_html(""), elem_id="tuning-note")
        charts = gr.HTML(elem_id="tuning-charts")
        trials = gr.HTML(elem_id="tuning-trials")
        config = gr.HTML(elem_id="tuning-config")
        with gr.Row(elem_classes="manta-actions"):
            use = gr.Button("Start a run from this config", visible=False, elem_id="tuning-use")
    seen: gr.State = gr.State(None)
    clock = gr.Timer(LOOK_EVERY_S, active=False)

    def show(chosen: str | None, before: ShownSearch | None) -> list[Any]:
        now = look(tracking, chosen, before=before)
        timer = gr.Timer(active=True)  # a search may begin, end or reappear at any time
        if now == before:  # text and charts in use stay unchanged
            return [*(gr.skip() for _ in range(6)), before, timer]
        return [
            gr.Dropdown(choices=list(now.searches), value=now.chosen),
            now.note,
            now.charts,
            now.trials,
            now.config,
            gr.Button(visible=bool(now.best_config)),
            now,
            timer,
        ]

    outputs = [search, note, charts, trials, config, use, seen, clock]
    private: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    gr.on([frame.tab.select, search.input, clock.tick], show, inputs=[search, seen], outputs=outputs, **private)
    handed_on = [frame.prepared_config, frame.tabs]
    use.click(lambda shown: (shown.best_config, gr.Tabs(selected="jobs")), inputs=seen, outputs=handed_on, **private)


def look(tracking: TrackingClient, chosen: str | None, *, before: ShownSearch | None = None) -> ShownSearch:
    """Return the current searches, and the trials of the chosen search or else of the newest.

    A finished search is not requested again: `before` is returned.
    """
    try:
        searches = tracking.searches()
        if not searches:
            return ShownSearch(note=empty_html(*NONE_YET))
        names = tuple((f"{run.name} ({run.status.lower()})", run.id) for run in searches)
        run_id = next((run.id for run in searches if run.id == chosen), searches[0].id)
        if before is not None and before.is_over and (before.chosen, before.searches) == (run_id, names):
            return before
        search = read_search(tracking, run_id)
    except NothingRecordedError as error:
        return ShownSearch(note=empty_html(NONE_YET[0], str(error)))
    except TrackingError as error:
        return ShownSearch(note=note_html(str(error), is_error=not isinstance(error, TrackingStartingError)))
    return ShownSearch(
        note=note_html(search_line(search)),
        searches=names,
        chosen=search.run.id,
        trials=section_html("Trials", trials_html(search)) if search.trials else "",
        charts=charts_html(search),
        config=section_html("Settings of the best", config_html(search)),
        best_config=search.best_config,
        is_over=search.run.is_over and bool(search.best_config or search.run.status != "FINISHED"),
    )
