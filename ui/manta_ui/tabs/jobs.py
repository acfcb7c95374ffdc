"""The tab Jobs: start a run on a cluster, follow it, stop it."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from manta.errors import InputError
from manta_ui.experiment_form import GROUPS, SOURCE, FormField, form_field, value_of, with_value
from manta_ui.job_orders import Verb, checked, run_job
from manta_ui.job_progress import progress_of
from manta_ui.job_views import job_html, jobs_html, log_html
from manta_ui.jobs_client import JobsError
from manta_ui.markup import empty_html, note_html
from manta_ui.tables import section_html

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from manta_ui.jobs_client import JobsClient
    from manta_ui.services import Frame, Services

LOOK_EVERY_S = 2.0
MOST_JOBS = 40
LOG_HEIGHT = 420
FIRST = "name: support\ndata:\n  train: sample:support\n"
NO_CLUSTER = (
    "No cluster is named.",
    "Start the page with manta ui --address http://HEAD:8265. To try one on this machine: manta cluster local",
)
NO_RIGHT = "You may look, but not start or stop jobs: the file of users says who may."


@dataclass(frozen=True)
class Shown:
    """What is in the lower half of the tab."""

    jobs: tuple[str, ...] = ()
    chosen: str | None = None
    status: str = ""
    log: str = ""
    table: str = ""
    may_stop: bool = False


def build(services: Services, frame: Frame) -> None:
    """The tab's components and what they do."""
    jobs = services.jobs
    if jobs is None:
        gr.HTML(empty_html(*NO_CLUSTER))
        return
    with gr.Column(elem_classes="manta-data"):
        job, started = _build_start(services, frame)
        gr.HTML("<h2>Jobs</h2>")
        with gr.Row():
            job.render()
            stop = gr.Button("Stop the job", variant="stop", interactive=False, elem_id="jobs-stop", scale=1)
        status = gr.HTML(elem_id="jobs-status")
        log = gr.HTML(elem_id="jobs-log", max_height=LOG_HEIGHT, autoscroll=True)
        table = gr.HTML(elem_id="jobs-table")
    seen: gr.State = gr.State(None)
    clock = gr.Timer(LOOK_EVERY_S, active=False)

    def show(chosen: str | None, before: Shown | None, request: gr.Request) -> list[Any]:
        now = look(jobs, chosen, may_stop=services.may_promote(request.username))
        if now == before:
            return [*(gr.skip() for _ in range(5)), before, gr.Timer(active=True)]
        choices = gr.Dropdown(choices=list(now.jobs), value=now.chosen)
        return [choices, now.status, now.log, now.table, gr.Button(interactive=now.may_stop), now, gr.Timer(active=True)]

    def end(chosen: str | None, request: gr.Request) -> None:
        if chosen and services.may_promote(request.username):
            try:
                jobs.stop(chosen)
            except JobsError as error:
                raise gr.Error(str(error)) from None

    outputs = [job, status, log, table, stop, seen, clock]
    private: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    gr.on([frame.tab.select, job.input, clock.tick], show, inputs=[job, seen], outputs=outputs, **private)
    started(show, inputs=[job, seen], outputs=outputs, **private)
    stop.click(end, inputs=job, **private).then(show, inputs=[job, seen], outputs=outputs, **private)


def _build_start(services: Services, frame: Frame) -> tuple[gr.Dropdown, Callable[..., Any]]:
    """The form, the YAML and the buttons; the dropdown of jobs, not yet shown, and what to call when a job was started."""
    job = gr.Dropdown([], label="Job", elem_id="jobs-job", scale=4, render=False)
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
                label="The experiment as YAML",
                info="The fields write into it; every other setting can be typed or pasted here.",
                lines=14,
                max_lines=30,
                elem_id="jobs-yaml",
                elem_classes="manta-yaml",
            )
            files: gr.State = gr.State([])
            names = gr.HTML(files_html([]), elem_id="jobs-file-names")
            add = gr.UploadButton("Add files from this computer", file_count="multiple", size="sm", elem_id="jobs-files")
            note = gr.HTML(note_html(""), elem_id="jobs-note")
            with gr.Row():
                starts: dict[Verb, gr.Button] = {
                    "train": gr.Button("Train", variant="primary", elem_id="jobs-train"),
                    "tune": gr.Button("Search", elem_id="jobs-tune"),
                }
    private: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    def check(typed: str, uploaded: list[str]) -> str:
        return check_note(typed, uploads_of(uploaded))

    def filled(typed: str, uploaded: list[str]) -> list[Any]:
        return [check(typed, uploaded), *(value_of(typed, field) for field, _ in fields)]

    components = [component for _, component in fields]
    for field, component in fields:
        events = [component.input] if field.kind != "text" else [component.blur, component.submit]
        gr.on(events, _writer(field), inputs=[text, component, files], outputs=[text, note], **private)
    gr.on([text.blur, frame.tab.select], filled, inputs=[text, files], outputs=[note, *components], **private)
    add.upload(added, inputs=[add, files], outputs=[files, names], **private).then(
        check, inputs=[text, files], outputs=note, **private
    )
    frame.prepared_config.change(
        lambda prepared: prepared or gr.skip(), inputs=frame.prepared_config, outputs=text, **private
    ).then(filled, inputs=[text, files], outputs=[note, *components], **private)

    def starter(verb: Verb) -> Callable[..., list[Any]]:
        def start(typed: str, uploaded: list[str], request: gr.Request) -> list[Any]:
            job_id, sentence = begin(services, verb, typed, uploads_of(uploaded), user=request.username)
            chosen = gr.Dropdown(choices=[job_id], value=job_id) if job_id else gr.skip()
            return [chosen, note_html(sentence, is_error=job_id is None)]

        return start

    sent = [
        button.click(starter(verb), inputs=[text, files], outputs=[job, note], show_progress="minimal", api_visibility="private")
        for verb, button in starts.items()
    ]

    def then(*arguments: Any, **settings: Any) -> None:
        for event in sent:
            event.then(*arguments, **settings)

    return job, then


def look(jobs: JobsClient, chosen: str | None, *, may_stop: bool = True) -> Shown:
    """The cluster's jobs as they are now, and the one that was chosen; else the newest."""
    try:
        found = jobs.jobs()[:MOST_JOBS]
        if not found:
            return Shown(table=empty_html("No jobs yet.", "Start one above, or type: manta submit train EXPERIMENT.yaml"))
        job = next((item for item in found if item.id == chosen), found[0])
        logs = {item.id: jobs.log(item) for item in found if item.is_over or item is job}
    except JobsError as error:
        return Shown(status=note_html(str(error), is_error=True))
    log = logs[job.id]
    return Shown(
        jobs=tuple(item.id for item in found),
        chosen=job.id,
        status=job_html(job, log, progress_of(job, log.lines)),
        log=log_html(log),
        table=section_html("All jobs", jobs_html(found, logs, chosen=job.id)),
        may_stop=may_stop and not job.is_over,
    )


def begin(services: Services, verb: Verb, text: str, uploads: Mapping[str, Path], *, user: str | None) -> tuple[str | None, str]:
    """Send the job for an experiment; its id, or None, and a sentence about it."""
    if services.jobs is None:
        return None, NO_CLUSTER[0]
    if not services.may_promote(user):
        return None, NO_RIGHT
    try:
        job_id = services.jobs.send(run_job(verb, text, uploads))
    except (InputError, JobsError) as error:
        return None, str(error)
    return job_id, f"{job_id} is on its way; its log is below."


def check_note(text: str, uploads: Mapping[str, Path]) -> str:
    """Whether an experiment could be sent, and what is wrong with it."""
    try:
        config = checked(text, uploads)
    except InputError as error:
        return note_html(str(error).replace(f"{SOURCE}: ", ""), is_error=True)
    return note_html(f"Ready: {config.name}, registered as {config.registered_name}.")


def uploads_of(paths: list[str]) -> dict[str, Path]:
    """The uploaded files by name; of two with the same name, the later one."""
    return {Path(path).name: Path(path) for path in paths}


def added(new: list[str] | None, before: list[str]) -> tuple[list[str], str]:
    """The uploaded files with those that are new, and their names for people."""
    paths = [*before, *(new or [])]
    return paths, files_html(list(uploads_of(paths)))


def files_html(names: list[str]) -> str:
    """Which files travel with the job, where the YAML names them."""
    words = f"Files that travel where data.train … names them: {', '.join(names)}" if names else "Files that data.train … may name:"
    return f'<p class="manta-quiet">{html.escape(words)}</p>'


def _component(field: FormField) -> Any:
    words = field.explanation.replace("*", "∗")  # gradio reads it as Markdown, where a plain star begins italics
    shared: dict[str, Any] = {"label": field.label, "info": words, "elem_id": f"jobs-{field.name.replace('.', '-')}"}
    value = value_of(FIRST, field)
    if field.kind == "switch":
        return gr.Checkbox(bool(value), **shared)
    if field.kind == "choice":
        return gr.Dropdown([(f"default ({field.default})", ""), *field.choices], value=value or "", **shared)
    return gr.Textbox(str(value or ""), placeholder=f"default: {field.default}" if field.default else "", **shared)


def _writer(field: FormField) -> Callable[..., list[Any]]:
    """What a field does when it was filled in: the YAML with its value, and whether that could be sent."""

    def write(text: str, value: Any, uploaded: list[str]) -> list[Any]:
        if value == value_of(text, field):
            return [gr.skip(), gr.skip()]  # to look at a field changes nothing, least of all comments in the YAML
        try:
            written = with_value(text, field, value)
        except InputError as error:
            return [gr.skip(), note_html(str(error), is_error=True)]
        return [written, check_note(written, uploads_of(uploaded))]

    return write
