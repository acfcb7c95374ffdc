"""`manta submit` and `manta jobs`: send work to a cluster, and follow it there."""

from __future__ import annotations

import asyncio
import importlib.metadata
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manta.console import fitted, people_console, people_table, print_result, working
from manta.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from manta.cluster.connections import Connection
    from manta.cluster.jobs_api import Job, JobsApi

VERBS = ("train", "tune", "evaluate", "predict", "preflight")
STOPPED_BY_CTRL_C = 130
ClusterOption = Annotated[
    str | None, typer.Option(help="A cluster named in ~/.config/manta/clusters.yaml. Default: $MANTA_CLUSTER.", metavar="NAME")
]
AddressOption = Annotated[
    str | None,
    typer.Option(help="URL of the cluster's dashboard, such as http://10.0.0.5:8265. Default: $RAY_ADDRESS.", metavar="URL"),
]
TokenOption = Annotated[
    Path | None,
    typer.Option(help="File with the cluster's token. Default: $RAY_AUTH_TOKEN, else the file that Ray uses.", metavar="FILE"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]
JobArgument = Annotated[str, typer.Argument(help="The id that `manta submit` printed; `manta jobs list` shows all.", metavar="JOB")]

jobs = typer.Typer(help="List, follow and stop the jobs that were submitted.", no_args_is_help=True)


def submit(
    ctx: typer.Context,
    verb: Annotated[str, typer.Argument(help=f"One of {', '.join(VERBS)}; its own arguments follow.", metavar="VERB")],
    detach: Annotated[bool, typer.Option("--detach", help="Print the job's id and exit, instead of following the job.")] = False,
    image_code: Annotated[bool, typer.Option("--image-code", help="Send no code: the cluster's image has the same code.")] = False,
    cluster: ClusterOption = None,
    address: AddressOption = None,
    token_file: TokenOption = None,
    json: JsonOption = False,
) -> None:
    """Run a verb on a remote cluster: send the config, local data and this code, and follow the job.

    `manta submit tune experiment.yaml --set tune.budget.num_trials=16`
    """
    params = verb_params(verb, ctx.args)
    connection, api = _connect(cluster, address, token_file)
    from manta_jobs.runs.submission import submit as job

    console = people_console()
    job_id = job.submit(verb, params, api=api, console=console, image_code=image_code)
    if detach:
        console.print(f"{job_id} is submitted. {_how_to_go_on(job_id, connection)}", markup=False)
        print_result({"job": job_id, "status": "PENDING"}, as_json=json)
        return
    console.print(f"Job {job_id} on {api.address}", markup=False)
    _follow(api, job_id, connection=connection, console=console, json=json)


submit.__dict__["context_settings"] = {"allow_extra_args": True, "ignore_unknown_options": True}


@jobs.command("list")
def list_jobs(
    cluster: ClusterOption = None, address: AddressOption = None, token_file: TokenOption = None, json: JsonOption = False
) -> None:
    """List the submitted jobs, newest first."""
    _, api = _connect(cluster, address, token_file)
    found, console = api.jobs(), people_console()
    console.print(jobs_table(found, console) if found else f"No jobs at {api.address} yet; `manta submit VERB …` sends one.")
    print_result({"jobs": [_facts(job) for job in found]}, as_json=json)


@jobs.command()
def status(
    job: JobArgument,
    cluster: ClusterOption = None,
    address: AddressOption = None,
    token_file: TokenOption = None,
    json: JsonOption = False,
) -> None:
    """Show the status of one job."""
    _, api = _connect(cluster, address, token_file)
    found = api.job(job)
    started, took = _times(found)
    people_console().print(f"{found.id} is {found.status} (started {started}, {took})", markup=False)
    print_result(_facts(found), as_json=json)


@jobs.command()
def logs(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", help="Follow the output until the job ends.")] = False,
    cluster: ClusterOption = None,
    address: AddressOption = None,
    token_file: TokenOption = None,
    json: JsonOption = False,
) -> None:
    """Show the output of a job."""
    connection, api = _connect(cluster, address, token_file)
    console = people_console()
    if follow:
        api.job(job)
        _follow(api, job, connection=connection, console=console, json=json)
        return
    from manta_jobs.runs.submission.follow import Transcript

    transcript = Transcript(lambda line: console.print(line, markup=False))
    transcript.add(api.logs(job))
    transcript.end()
    print_result(_facts(api.job(job)), as_json=json)


@jobs.command()
def stop(
    job: JobArgument,
    cluster: ClusterOption = None,
    address: AddressOption = None,
    token_file: TokenOption = None,
    json: JsonOption = False,
) -> None:
    """Stop a job. Its run can be resumed later."""
    _, api = _connect(cluster, address, token_file)
    stopped = api.stop(job)
    people_console().print(f"{job} {'is being stopped' if stopped else 'was over already'}.", markup=False)
    print_result({"job": job, "stopped": stopped}, as_json=json)


def jobs_table(jobs: Sequence[Job], console: Console) -> Table:
    """Return a table with a row for each job."""
    table = people_table("job", "status", "started", "took")
    for job in jobs:
        table.add_row(job.id, job.status, *_times(job))
    return fitted(table, console, expendable=("started", "took"))


def verb_params(verb: str, arguments: list[str]) -> dict[str, Any]:
    """Return the arguments as the verb's own function takes them. Wrong arguments give the verb's own error message.

    Raises:
        InputError: there is no such verb, or it has nothing to do.
    """
    from typer.main import get_command

    from manta_jobs.cli import commands

    if verb not in VERBS:
        raise InputError(f"{verb} cannot be submitted; {', '.join(VERBS)} can.")
    app = typer.Typer()
    app.command(verb)(getattr(commands, verb))
    taken: dict[str, Any] = {}

    def take(**params: Any) -> None:
        taken.update(params)

    command = get_command(app)
    command.callback = take
    command.main(args=arguments, prog_name=f"manta submit {verb}", standalone_mode=False)
    if verb in {"train", "tune"}:
        commands.check_what_to_run(taken["experiment"], set_=taken["set_"], resume=taken["resume"])
    return taken


def _connect(cluster: str | None, address: str | None, token_file: Path | None) -> tuple[Connection, JobsApi]:
    from manta.cluster.connections import connection
    from manta.cluster.jobs_api import JobsApi

    found = connection(cluster=cluster, address=address, token_file=token_file)
    with working(people_console(), f"Asking {found.address}"):
        api = JobsApi(found)
        check_version(api.ray_version(), at=found.address, ours=importlib.metadata.version("ray"))
    return found, api


def check_version(theirs: str, *, at: str, ours: str) -> None:
    """Check that the cluster runs the Ray version that this code is for; only the last number may differ.

    Raises:
        InputError: it runs another version.
    """
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        raise InputError(f"{at} runs Ray {theirs}, but this is Manta for Ray {ours}; see docs/clusters.md, upgrading Ray.")


def _follow(api: JobsApi, job_id: str, *, connection: Connection, console: Console, json: bool) -> None:
    """Show the job's output until it is over, and then its result. Ctrl-C stops following, not the job."""
    from manta_jobs.runs.submission.follow import Transcript, outcome

    transcript = Transcript(lambda line: console.print(line, markup=False))
    try:
        with working(console, f"{job_id} has printed nothing yet", until=lambda: transcript.has_begun):
            job = asyncio.run(transcript.follow(api, job_id))
    except KeyboardInterrupt:
        console.print(f"{job_id} goes on. {_how_to_go_on(job_id, connection)}", markup=False)
        raise typer.Exit(STOPPED_BY_CTRL_C) from None
    result = outcome(job, transcript)
    console.print(f"{job_id} is done{whereabouts(result)}", markup=False)
    print_result({"job": job_id} | result, as_json=json)


def whereabouts(result: dict[str, Any]) -> str:
    """Return the end of a sentence that says where on the cluster the verb's result is, and the next command."""
    if "version" in result:
        return (
            f": {result['model']} version {result['version']}; on the cluster its folder is {result['artifact']}\n"
            f"Next, where that storage is reachable: manta serve {result['model']}"
        )
    return f": on the cluster the answers are in {result['out']}" if "out" in result else "."


def _how_to_go_on(job_id: str, connection: Connection) -> str:
    options = f" {connection.options}" if connection.options else ""
    return f"To follow it:\n  manta jobs logs {job_id} --follow{options}\nTo stop it:\n  manta jobs stop {job_id}{options}"


def _times(job: Job) -> tuple[str, str]:
    """Return the start time of a job, and its duration so far."""
    from manta.console import duration

    if job.started_ms is None:
        return "", ""
    started = job.started_ms / 1000
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(started)), duration(
        (job.ended_ms or time.time() * 1000) / 1000 - started
    )


def _facts(job: Job) -> dict[str, Any]:
    return {"job": job.id, "verb": job.verb, "status": job.status, "started_ms": job.started_ms, "ended_ms": job.ended_ms}
