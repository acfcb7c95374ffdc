"""`manta serve` and `manta models`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manta.config_file import load_config
from manta.console import people_console, print_result

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]


def serve(
    model: Annotated[
        str | None, typer.Argument(help="A registered model, or an experiment's YAML file. Not needed if there is one model.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (8000).", min=1, max=65535)] = None,
) -> None:
    """Answer over HTTP with the model's champion, until Ctrl-C."""
    from manta.config import ServeConfig
    from manta_serve.run import run_server

    name, storage, config = model, None, ServeConfig()
    if model and model.endswith((".yaml", ".yml")):
        experiment = load_config(Path(model))
        name, storage, config = experiment.registered_name, experiment.storage, experiment.serve
    given = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    run_server(name, storage=storage, config=config.model_copy(update=given), console=people_console())


models = typer.Typer(help="List and change the registered models.", no_args_is_help=True)


@models.command("list")
def list_models(model: Annotated[str | None, typer.Argument(help="Only this model.")] = None, json: JsonOption = False) -> None:
    """List versions, newest first, with the one that is served marked."""
    from rich.table import Table

    from manta.registry import ModelRegistry
    from manta.storage import Storage

    versions = ModelRegistry(Storage.resolve(None)).versions(model)
    table = Table()
    for heading in ("model", "version", "alias", "test accuracy", "test macro F1", "run"):
        table.add_column(heading)
    for version in versions:
        scores = [f"{version.metrics[key]:.4f}" if key in version.metrics else "" for key in ("accuracy", "f1_macro")]
        table.add_row(version.name, str(version.version), ", ".join(version.aliases), *scores, version.run)
    console = people_console()
    if versions:
        console.print(table)
    else:
        console.print("No models yet; `manta train EXPERIMENT.yaml` makes one.")
    rows = [{"model": item.name, "version": item.version, "aliases": item.aliases, "metrics": item.metrics} for item in versions]
    print_result({"models": rows}, as_json=json)
