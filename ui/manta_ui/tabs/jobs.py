"""The tab Jobs: start, follow and stop runs on a cluster."""

from __future__ import annotations

import html
from collections.abc import Iterator  # at run time: gradio resolves the annotations of handlers that take a request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from manta.errors import InputError, MantaError
from manta_ui.jobs.experiment_form import GROUPS, SOURCE, FormField, form_field, readable, value_of, with_value
from manta_ui.jobs.orders import Verb, checked, run_job
from manta_ui.jobs.progress import progress_of
from manta_ui.jobs.views import job_html, jobs_html, log_html
from manta_ui.look.markup import capitalized, empty_html, note_html
from manta_ui.look.tables import section_html

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from manta_ui.jobs.cluster_jobs import ClusterJobs
    from manta_ui.tabs.services import Frame, Services

LOOK_EVERY_S = 2.0
MOST_JOBS = 40
LOG_HEIGHT = 420
FIRST = "name: demo-support\ndata:\n  train: sample:support\n"
NO_CLUSTER = (
    "This page cannot start jobs.",
    "It was started without a cluster. Start it again with one: manta ui --address http://HEAD:8265",
)
STARTING = "Starting Ray on this machine for the first job. This takes up to a minute …"
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
NO_RIGHT = "You may look, but not start or stop jobs. Ask for that right: manta ui add-user NAME --promote"


@dataclass(frozen=True)
class ShownJobs:
    """Content of the lower half of the tab."""

    jobs: tuple[str, ...] = ()
    chosen: str | None = None
    status: str = ""
    log: str = ""
    table: str = ""
    may_stop: bool = False


@dataclass(frozen=True)
class Start:
    """The components of the upper half, which start a run."""

    fields: list[tuple[FormField, Any]]
    """The fields of the form, each with its component."""
    text: gr.Textbox
    """The experiment as YAML."""
    files: gr.State
    """Paths of the uploaded files."""
    names: gr.HTML
    add: gr.UploadButton
    note: gr.HTML
    starts: dict[Verb, gr.Button]


def build(services: Services, frame: Frame) -> None:
    """Build the tab's components and their events."""
    jobs = services.jobs
    if jobs is None:
        gr.HTML(empty_html(*NO_CLUSTER))
        return
    with gr.Column(elem_classes="manta-data"):
        start = _build_start()
        gr.HTML("<h2>Jobs</h2>")
        with gr.Row(elem_classes="manta-bottom"):
            job = gr.Dropdown([], label="Job", elem_id="jobs-job", scale=4)
            stop = gr.Button("Stop the job", variant="stop", interactive=False, elem_id="jobs-stop", scale=1)
        status = gr.HTML(elem_id="jobs-status")
        log = gr.HTML(elem_id="jobs-log", max_height=LOG_HEIGHT, autoscroll=True)
        table = gr.HTML(elem_id="jobs-table")
    _wire_form(start, frame)
    seen: gr.State = gr.State(None)
    clock = gr.Timer(LOOK_EVERY_S, active=False)

    def show(chosen: str | None, before: ShownJobs | None, request: gr.Request) -> list[Any]:
        now = look(jobs, chosen, may_stop=services.may_promote(request.username))
        if now == before:  # text that someone reads stays unchanged
            return [*(gr.skip() for _ in range(5)), before, gr.Timer(active=True)]
        choices = gr.Dropdown(choices=list(now.jobs), value=now.chosen)
        return [choices, now.status, now.log, now.table, gr.Button(interactive=now.may_stop), now, gr.Timer(active=True)]

    def starter(verb: Verb) -> Callable[..., Iterator[list[Any]]]:
        def begin_run(text: str, files: list[str], request: gr.Request) -> Iterator[list[Any]]:
            if not jobs.is_up():
                yield [gr.skip(), note_html(STARTING)]
            job_id, sentence = begin(services, verb, text, uploads_of(files), user=request.username)
            chosen = gr.Dropdown(choices=[job_id], value=job_id) if job_id else gr.skip()
            yield [chosen, note_html(sentence, is_error=job_id is None)]

        return begin_run

    def end(chosen: str | None, request: gr.Request) -> None:
        if chosen and services.may_promote(request.username):
            try:
                jobs.stop(chosen, user=request.username)
            except MantaError as error:
                raise gr.Error(capitalized(str(error))) from None

    shown: dict[str, Any] = {"inputs": [job, seen], "outputs": [job, status, log, table, stop, seen, clock], **QUIET}
    gr.on([frame.tab.select, job.input, clock.tick], show, **shown)
    for verb, button in start.starts.items():
        sending: dict[str, Any] = QUIET | {"show_progress": "minimal"}
        begun = button.click(starter(verb), inputs=[start.text, start.files], outputs=[job, start.note], **sending)
        begun.then(show, **shown)
    stop.click(end, inputs=job, **QUIET).then(show, **shown)


def _build_start() -> Start:
    """Build the form on one side, and the YAML, the files and the buttons on the other."""
    gr.HTML("<h2>Start a run</h2>")
    fields: list[tuple[FormField, Any]] = []
    with gr.Row(equal_height=False):
        with gr.Column(scale=1):
            for title, names in GROUPS.items():
                with gr.Accordion(title, open=title == "Data"):
                    fields += [(field, _component(field)) for field in map(form_field, names)]
        with gr.Column(scale=1):
            text = gr.Textbox(
                FIRST,
                label="The same as YAML",
                info="This is what runs. The form fills it in; you can also type or paste here.",
                lines=14,
                max_lines=30,
                elem_id="jobs-yaml",
                elem_classes="manta-yaml",
            )
            files: gr.State = gr.State([])
            listed = gr.HTML(files_html([]), elem_id="jobs-file-names")
            with gr.Row(elem_classes=["manta-actions", "manta-small-buttons"]):
                add = gr.UploadButton("Add files from this computer", file_count="multiple", size="sm", elem_id="jobs-files")
            note = gr.HTML(note_html(""), elem_id="jobs-note")
            with gr.Row(elem_classes="manta-actions"):
                starts: dict[Verb, gr.Button] = {
                    "train": gr.Button("Train", variant="primary", elem_id="jobs-train"),
                    "tune": gr.Button("Search", elem_id="jobs-tune"),
                }
    return Start(fields, text, files, listed, add, note, starts)


def _wire_form(start: Start, frame: Frame) -> None:
    """Make the fields write into the YAML and follow it. Errors in the YAML are shown at once."""
    text, files, note = start.text, start.files, start.note
    components = [component for _, component in start.fields]

    def check(typed: str, uploaded: list[str]) -> str:
        return check_note(typed, uploads_of(uploaded))

    def filled(typed: str, uploaded: list[str]) -> list[Any]:
        document = readable(typed)
        return [check(typed, uploaded), *(value_of(document, field) for field, _ in start.fields)]

    for field, component in start.fields:
        events = [component.input] if field.kind != "text" else [component.blur, component.submit]
        gr.on(events, _writer(field), inputs=[text, component, files], outputs=[text, note], **QUIET)
    followed: dict[str, Any] = {"inputs": [text, files], "outputs": [note, *components], **QUIET}
    gr.on([text.blur, frame.tab.select], filled, **followed)
    checked_again: dict[str, Any] = {"inputs": [text, files], "outputs": note, **QUIET}
    start.add.upload(added, inputs=[start.add, files], outputs=[files, start.names], **QUIET).then(check, **checked_again)
    prepared = frame.prepared_config
    prepared.change(lambda config: config or gr.skip(), inputs=prepared, outputs=text, **QUIET).then(filled, **followed)


def look(jobs: ClusterJobs, chosen: str | None, *, may_stop: bool = True) -> ShownJobs:
    """Return the cluster's current jobs, and the chosen job or else the newest."""
    try:
        found = jobs.jobs()[:MOST_JOBS]
        if not found:
            return ShownJobs(table=empty_html("No jobs yet.", "Fill in the form and press Train."))
        job = next((item for item in found if item.id == chosen), found[0])
        logs = {item.id: jobs.log(item) for item in found if item.is_over or item is job}
    except MantaError as error:
        return ShownJobs(status=note_html(capitalized(str(error)), is_error=True))
    log = logs[job.id]
    return ShownJobs(
        jobs=tuple(item.id for item in found),
        chosen=job.id,
        status=job_html(job, log, progress_of(job, log.lines)),
        log=log_html(log),
        table=section_html("All jobs", jobs_html(found, logs, chosen=job.id)),
        may_stop=may_stop and not job.is_over,
    )


def begin(services: Services, verb: Verb, text: str, uploads: Mapping[str, Path], *, user: str | None) -> tuple[str | None, str]:
    """Send the job for an experiment. Return its id, or None, and a sentence about it."""
    if services.jobs is None:
        return None, NO_CLUSTER[0]
    if not services.may_promote(user):
        return None, NO_RIGHT
    try:
        job = run_job(verb, text, uploads, user=user)
        services.jobs.send(job, user=user)
    except MantaError as error:
        return None, capitalized(str(error))
    return job.id, f"{job.id} is on its way. Its log appears below."


def check_note(text: str, uploads: Mapping[str, Path]) -> str:
    """Return a note that the experiment can be sent, or its error."""
    try:
        config = checked(text, uploads)
    except InputError as error:
        return note_html(str(error).replace(f"{SOURCE}: ", "").replace(f"{SOURCE}:", "line "), is_error=True)
    return note_html(f"Ready: {config.name}, registered as {config.registered_name}.")


def uploads_of(paths: list[str]) -> dict[str, Path]:
    """Return the uploaded files by name. Of two with the same name, the later one counts."""
    return {Path(path).name: Path(path) for path in paths}


def added(new: list[str] | None, before: list[str]) -> tuple[list[str], str]:
    """Return all uploaded files, including the new ones, and their names as HTML."""
    paths = [*before, *(new or [])]
    return paths, files_html(list(uploads_of(paths)))


def files_html(names: list[str]) -> str:
    """Return the names of the files that are sent with the job if the YAML names them."""
    words = f"Added: {', '.join(names)}. Write their names where the form asks for rows." if names else "No files added yet."
    return f'<p class="manta-quiet">{html.escape(words)}</p>'


def _component(field: FormField) -> Any:
    explained = field.explanation.replace("*", "∗")  # gradio reads it as Markdown, where a plain star starts italics
    words = f"`{field.name}` {explained}"
    shared: dict[str, Any] = {"label": field.label, "info": words, "elem_id": f"jobs-{field.name.replace('.', '-')}"}
    value = value_of(readable(FIRST), field)
    if field.kind == "switch":
        return gr.Checkbox(bool(value), **shared)
    if field.kind == "choice":
        return gr.Dropdown([(f"default ({field.default})", ""), *field.choices], value=value or "", **shared)
    return gr.Textbox(str(value or ""), placeholder=f"default: {field.default}" if field.default else "", **shared)


def _writer(field: FormField) -> Callable[..., list[Any]]:
    """Return a field's event handler. It returns the YAML with the field's value, and a note about whether that can be sent."""

    def write(text: str, value: Any, uploaded: list[str]) -> list[Any]:
        if value == value_of(readable(text), field):
            return [gr.skip(), gr.skip()]  # visiting a field changes nothing and keeps comments in the YAML
        try:
            written = with_value(text, field, value)
        except InputError as error:
            return [gr.skip(), note_html(str(error), is_error=True)]
        return [written, check_note(written, uploads_of(uploaded))]

    return write
