"""The commands `manta ui`, which opens the page, and `manta ui add-user` and `remove-user`, which manage who may log in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from manta.console import people_console, working

AuthOption = Annotated[Path, typer.Option("--auth", help="The file of users.")]
NameArgument = Annotated[str, typer.Argument(help="The name to log in with.")]

ui = typer.Typer(help="Open the page where people try the model; `add-user` and `remove-user` say who may log in to it.")


@ui.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    api: Annotated[
        str, typer.Option(help="URL of `manta serve`. Its API key is taken from $MANTA_API_KEY.")
    ] = "http://127.0.0.1:8000",
    host: Annotated[str, typer.Option(help="Address to listen on; beyond this machine only with --auth.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 7860,
    auth: Annotated[
        Path | None, typer.Option(help="People log in as a user of this file; make it with `manta ui add-user`.")
    ] = None,
    tracking: Annotated[
        str | None,
        typer.Option(
            help="URL of the MLflow server; unless given, $MLFLOW_TRACKING_URI, else the storage's registry.",
            envvar="MLFLOW_TRACKING_URI",
        ),
    ] = None,
    cluster: Annotated[str | None, typer.Option(help="A cluster of ~/.config/manta/clusters.yaml, for the tab Jobs.")] = None,
    address: Annotated[
        str | None, typer.Option(help="URL of its dashboard, such as http://HEAD:8265, instead of --cluster.")
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the cluster's token. Default: as for manta submit.")] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name under which people reach the page, such as a proxy's. May be repeated.")
    ] = None,
) -> None:
    """Open the page where people try the model, until Ctrl-C."""
    if context.invoked_subcommand is not None:
        return
    console = people_console()
    with working(console, "Loading the page"):
        from manta_ui.running.run import PageSettings, run_page

    settings = PageSettings(
        api=api,
        host=host,
        port=port,
        auth=auth,
        tracking=tracking,
        cluster=cluster,
        address=address,
        token_file=token_file,
        allowed_hosts=tuple(allow_host or ()),
    )
    run_page(settings, console=console)


@ui.command()
def add_user(
    name: NameArgument,
    auth: AuthOption,
    promote: Annotated[bool, typer.Option("--promote", help="May change which version answers, and start and stop jobs.")] = False,
) -> None:
    """Add a user who may log in, or give an existing user a new password and rights.

    The password is asked for, or read from stdin if stdin is not a terminal.
    """
    from manta_ui.access.accounts import Accounts

    if sys.stdin.isatty():
        password = str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    Accounts(auth).add(name, password=password, may_promote=promote)
    rights = "and change which version answers" if promote else "without the right to promote"
    people_console().print(f"{name} may log in {rights}: manta ui --auth {auth}", markup=False)


@ui.command()
def remove_user(name: NameArgument, auth: AuthOption) -> None:
    """Remove a user, who can then no longer log in."""
    from manta_ui.access.accounts import Accounts

    Accounts(auth).remove(name)
    people_console().print(f"{name} may log in no more.", markup=False)
