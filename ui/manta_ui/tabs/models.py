"""The tab Models: the versions, their metrics, and the choice of the version that answers."""

from __future__ import annotations

from collections.abc import Iterator  # at run time: gradio resolves the annotations of handlers that take a request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from manta.errors import MantaError
from manta_ui.clients.tracking import NothingRecordedError, TrackedModel, TrackingError, TrackingStartingError, Version
from manta_ui.look.markup import capitalized, empty_html, note_html
from manta_ui.look.tables import section_html
from manta_ui.models.promotions import Step, promotion_job
from manta_ui.models.views import decisions_html, last_verdict, verdict_html, version_html, versions_html

if TYPE_CHECKING:
    from collections.abc import Callable

    from manta_ui.clients.tracking import TrackingClient
    from manta_ui.tabs.services import Frame, Services

ASK_AGAIN_S = 1.5
REPORT_FILE, CARD_FILE = "report.json", "model/README.md"
NO_SERVER = (
    "Models and searches are not shown.",
    "This page knows no MLflow server. Start it again with one: manta ui --tracking http://HOST:5000",
)
NO_CLUSTER = "This page was started without a cluster, which compares versions. Type instead: manta models promote {}"
STARTING = "Starting Ray on this machine, which compares versions. This takes up to a minute …"
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
NO_RIGHT = "You may look, but not change which version answers. Ask for that right: manta ui add-user NAME --promote"


@dataclass(frozen=True)
class ShownModels:
    """Content of the tab."""

    note: str = ""
    models: tuple[str, ...] = ()
    model: str | None = None
    versions: tuple[int, ...] = ()
    version: int | None = None
    champion: int | None = None
    table: str = ""
    details: str = ""
    verdict: str = ""
    asks_again: bool = False
    """True if the server may answer in a moment."""


@dataclass(frozen=True)
class Pending:
    """A step whose job is running."""

    step: Step
    job_id: str
    model: str
    version: int


@dataclass(frozen=True)
class Parts:
    """The tab's components."""

    model: gr.Dropdown
    version: gr.Dropdown
    refresh: gr.Button
    note: gr.HTML
    table: gr.HTML
    steps: dict[Step, gr.Button]
    said: gr.HTML
    """The message about a step."""
    verdict: gr.HTML
    details: gr.HTML
    starting: gr.Timer
    """The timer that ticks while the tracking server does not answer."""

    @property
    def outputs(self) -> list[Any]:
        """The components that `_updates` updates."""
        shown = [self.note, self.model, self.version, self.table, self.verdict, self.details, self.starting, self.said]
        return [*shown, *self.steps.values()]


def build(services: Services, frame: Frame) -> None:
    """Build the tab's components and their events."""
    tracking = services.tracking
    if tracking is None:
        gr.HTML(empty_html(*NO_SERVER))
        return
    parts = _build_parts()
    chosen = [parts.model, parts.version]

    def show(model: str | None, version: int | None, request: gr.Request) -> list[Any]:
        return _updates(services, look(tracking, model=model, version=version), user=request.username)

    def show_model(model: str | None, request: gr.Request) -> list[Any]:
        return _updates(services, look(tracking, model=model), user=request.username)

    asked = [frame.tab.select, parts.refresh.click, parts.version.input, parts.starting.tick]
    gr.on(asked, show, inputs=chosen, outputs=parts.outputs, **QUIET)
    parts.model.input(show_model, inputs=parts.model, outputs=parts.outputs, **QUIET)
    _wire_steps(services, tracking, parts)


def _build_parts() -> Parts:
    with gr.Column(elem_classes="manta-data"):
        with gr.Row(elem_classes="manta-bottom"):
            model = gr.Dropdown([], label="Model", elem_id="models-model", scale=3)
            version = gr.Dropdown([], label="Version", elem_id="models-version", scale=3)
            refresh = gr.Button("Refresh", elem_id="models-refresh", scale=1, min_width=90)
        note = gr.HTML(note_html(""), elem_id="models-note")
        table = gr.HTML(elem_id="models-table")
        with gr.Row(elem_classes="manta-actions"):
            steps: dict[Step, gr.Button] = {
                "check": gr.Button("Compare with the champion", interactive=False, elem_id="models-check"),
                "promote": gr.Button("Promote", variant="primary", interactive=False, elem_id="models-promote"),
                "rollback": gr.Button("Roll back", variant="stop", interactive=False, elem_id="models-rollback"),
            }
        said = gr.HTML(note_html(""), elem_id="models-said")
        verdict = gr.HTML(elem_id="models-verdict")
        details = gr.HTML(elem_id="models-details")
    starting = gr.Timer(ASK_AGAIN_S, active=False)
    return Parts(model, version, refresh, note, table, steps, said, verdict, details, starting)


def _wire_steps(services: Services, tracking: TrackingClient, parts: Parts) -> None:
    """Make each button send the job of its step, and a timer wait for the result."""
    pending: gr.State = gr.State(None)
    waiting = gr.Timer(ASK_AGAIN_S, active=False)
    buttons = list(parts.steps.values())

    def taker(step: Step) -> Callable[..., Iterator[dict[Any, Any]]]:
        def take(model: str, version: int, request: gr.Request) -> Iterator[dict[Any, Any]]:
            if services.jobs is not None and not services.jobs.is_up():
                yield {parts.said: note_html(STARTING)}
            found, sentence = begin(services, step, model, version, user=request.username)
            if found is None:
                yield {parts.said: note_html(sentence, is_error=True)}
                return
            begun = {parts.said: note_html(sentence), pending: found, waiting: gr.Timer(active=True)}
            yield begun | {button: gr.Button(interactive=False) for button in buttons}

        return take

    def follow(watched: Pending | None, request: gr.Request) -> dict[Any, Any]:
        if watched is None:
            return {waiting: gr.Timer(active=False)}
        is_over, sentence, compared = came_of(services, watched)
        if not is_over:
            return {parts.said: sentence}
        now = look(tracking, model=watched.model, version=watched.version)
        updates = dict(zip(parts.outputs, _updates(services, now, user=request.username), strict=True))
        updates |= {parts.verdict: compared} if compared else {}
        return updates | {parts.said: sentence, pending: None, waiting: gr.Timer(active=False)}

    for step, button in parts.steps.items():
        button.click(taker(step), inputs=[parts.model, parts.version], outputs=[parts.said, pending, waiting, *buttons], **QUIET)
    waiting.tick(follow, inputs=pending, outputs=[pending, waiting, *parts.outputs], **QUIET)


def look(tracking: TrackingClient, *, model: str | None = None, version: int | None = None) -> ShownModels:
    """Return the current registry at the chosen model and version, by default at the first model and its champion."""
    try:
        models = tracking.models()
        if not models:
            nothing = empty_html("No models yet.", "Train one in the tab Jobs, or type: manta train EXPERIMENT.yaml")
            return ShownModels(table=nothing)
        chosen = next((item for item in models if item.name == model), models[0])
        versions = tracking.versions(chosen)
        found = _version_of(chosen, versions, version)
        names = tuple(item.name for item in models)
        if found is None:
            return ShownModels(models=names, model=chosen.name, table=empty_html(f"{chosen.name} has no versions."))
        report, card = tracking.document(found.run_id, REPORT_FILE), tracking.file(found.run_id, CARD_FILE)
    except TrackingStartingError as error:
        return ShownModels(note=note_html(str(error)), asks_again=True)
    except NothingRecordedError as error:
        return ShownModels(table=empty_html("No models yet.", str(error)))
    except TrackingError as error:
        return ShownModels(note=note_html(str(error), is_error=True), asks_again=True)
    return ShownModels(
        models=names,
        model=chosen.name,
        versions=tuple(item.number for item in versions),
        version=found.number,
        champion=chosen.aliases.get("champion"),
        table=versions_html(versions, chosen=found.number),
        details=version_html(found, report, (card or b"").decode(errors="replace")) + decided_html(chosen),
        verdict=recorded_verdict(chosen, found),
    )


def why_not(services: Services, user: str | None, *, model: str | None, version: int | None) -> str:
    """Return the reason why a person cannot change which version answers; empty if they can."""
    if model is None or version is None:
        return ""
    if not services.may_promote(user):
        return NO_RIGHT
    return NO_CLUSTER.format(f"{model}@{version}") if services.jobs is None else ""


def begin(services: Services, step: Step, model: str, version: int, *, user: str | None) -> tuple[Pending | None, str]:
    """Send the job for a step. Return the step to wait for, or None, and a sentence about it."""
    problem = why_not(services, user, model=model, version=version)
    if problem or services.jobs is None or services.tracking is None:
        return None, problem
    job = promotion_job(step, model, version, registry=services.tracking.environment, user=user)
    try:
        services.jobs.send(job, user=user)
    except MantaError as error:
        return None, capitalized(str(error))
    return Pending(step, job.id, model, version), f"{_what(step, model, version)} … (job {job.id})"


def came_of(services: Services, pending: Pending) -> tuple[bool, str, str]:
    """Return whether a step is over, a message about it, and as HTML its verdict, if it has one that is not recorded."""
    if services.jobs is None:
        return True, note_html(""), ""
    try:
        job = services.jobs.job(pending.job_id)
        if not job.is_over:
            return False, note_html(f"{_what(pending.step, pending.model, pending.version)} … (job {pending.job_id})"), ""
        log = services.jobs.log(job)
    except MantaError as error:
        return True, note_html(capitalized(str(error)), is_error=True), ""
    if log.result is None:
        return True, note_html(log.error or job.message or f"{pending.job_id} was stopped.", is_error=True), ""
    lines, notes = log.result.get("lines") or [], " ".join(log.result.get("notes") or [])
    title = f"{pending.model}@{pending.version}"
    if pending.step == "check":
        refusing = [line["sentence"] for line in lines if not line["passed"]]
        sentence = f"{title} would not be promoted: {refusing[0]}" if refusing else f"{title} would be promoted. {notes}"
        return (
            True,
            note_html(sentence),
            _verdict(lines, pending.model, log.result.get("previous"), pending.version, "Compared now"),
        )
    if pending.step == "rollback":
        return True, note_html(f"{pending.model}@{log.result['version']} is the champion again. {notes}"), ""
    if log.result.get("promoted"):
        return True, note_html(f"{title} is the champion now. {notes}"), ""
    return (
        True,
        note_html(f"{title} is not promoted; the table below says why. {notes}"),
        "",
    )


def recorded_verdict(model: TrackedModel, version: Version) -> str:
    """Return the gate's last recorded verdict on a version; empty if there is none."""
    decision = last_verdict(model, version.number)
    if decision is None:
        return ""
    at = decision.at[:16].replace("T", " ")
    lines = [line.model_dump() for line in decision.figures]
    return _verdict(lines, model.name, decision.previous, version.number, f"{decision.action.capitalize()} on {at} UTC")


def decided_html(model: TrackedModel) -> str:
    """Return the log of decisions, under its heading."""
    return section_html("Decisions", decisions_html(model))


def _updates(services: Services, shown: ShownModels, *, user: str | None) -> list[Any]:
    problem = why_not(services, user, model=shown.model, version=shown.version)
    can = shown.version is not None and not problem
    is_other = shown.version != shown.champion
    return [
        shown.note or note_html(""),
        gr.Dropdown(choices=list(shown.models), value=shown.model),
        gr.Dropdown(choices=[(str(number), number) for number in shown.versions], value=shown.version),
        shown.table,
        shown.verdict,
        shown.details,
        gr.Timer(active=shown.asks_again),
        note_html(problem),
        gr.Button(interactive=can and is_other),
        gr.Button(interactive=can and is_other),
        gr.Button(interactive=can and shown.champion is not None and len(shown.versions) > 1),
    ]


def _version_of(model: TrackedModel, versions: list[Version], wanted: int | None) -> Version | None:
    """Return the chosen version, else the champion, else the newest."""
    number = wanted if wanted is not None else model.aliases.get("champion")
    return next((item for item in versions if item.number == number), versions[0] if versions else None)


def _verdict(lines: list[dict[str, Any]], model: str, champion: int | None, version: int, title: str) -> str:
    return verdict_html(
        lines,
        champion="champion" if champion is None else f"{model}@{champion}",
        candidate=f"{model}@{version}",
        title=f"{title}: {model}@{version} beside the champion, on the champion's test rows",
    )


def _what(step: Step, model: str, version: int) -> str:
    return {
        "check": f"Comparing {model}@{version} with the champion",
        "promote": f"Promoting {model}@{version}, if it is better than the champion",
        "rollback": f"Rolling {model} back",
    }[step]
