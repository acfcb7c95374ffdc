"""`manta serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manta.config_file import load_config
from manta.console import people_console
from manta_serve.profiles import ProfileName


def serve(
    model: Annotated[
        str | None, typer.Argument(help="A registered model, or an experiment's YAML file. Not needed if there is one model.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (127.0.0.1).")] = None,
    profile: Annotated[
        ProfileName,
        typer.Option(help="laptop: this machine only; production: HAProxy on all interfaces, API keys required."),
    ] = "laptop",
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
    run_server(name, storage=storage, config=config.model_copy(update=given), profile=profile, console=people_console())
