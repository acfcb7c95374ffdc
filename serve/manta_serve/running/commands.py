"""The commands `manta serve` and `manta serve reload`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from manta.config.file import load_config
from manta.console import people_console, working
from manta.errors import InputError
from manta_serve.running.profiles import ProfileName

if TYPE_CHECKING:
    from manta.config import ServeConfig

RUN, RELOAD = "run", "reload"
ModelArgument = Annotated[
    str | None, typer.Argument(help="A registered model, or an experiment's YAML file. Not needed if there is one model.")
]


class _RunsUnlessTold(TyperGroup):
    """A command group in which `manta serve NAME` means `manta serve run NAME`, unless NAME is `reload`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the command name `run` if it was left out."""
        return super().parse_args(ctx, args if args[:1] == [RELOAD] else [RUN, *args])


serve = typer.Typer(
    cls=_RunsUnlessTold,
    help="Answer over HTTP with the model's champion; `reload` makes running services check the registry again.",
)


@serve.command(RUN)
def run(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Registered models, of which the first may be an experiment's YAML file. Not needed if there is one model.",
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (127.0.0.1).")] = None,
    profile: Annotated[
        ProfileName,
        typer.Option(help="laptop: this machine only; production: HAProxy on all interfaces, API keys required."),
    ] = "laptop",
    port: Annotated[int | None, typer.Option(help="Port to listen on (8000).", min=1, max=65535)] = None,
) -> None:
    """Answer over HTTP with the champion of each model, until Ctrl-C.

    Further models answer at /v1/models/NAME/classify. A new champion takes over automatically.
    To retry a version that was refused, use `manta serve reload [MODEL]`.
    """
    console = people_console()
    with working(console, "Loading Ray Serve"):
        from manta_serve.running.run import run_server

    others = (models or [])[1:]
    name, storage, config = _asked(models[0] if models else None)
    file = next(filter(_is_file, others), None)
    if file is not None:
        raise InputError(f"{file}: only the first may be an experiment's file; give the names of registered models after it.")
    given: dict[str, Any] = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    given["models"] = (*config.models, *others)
    run_server(name, storage=storage, config=config.model_copy(update=given), profile=profile, console=console)


@serve.command(RELOAD)
def reload(model: ModelArgument = None) -> None:
    """Make running services check for the champion and the candidate again, and retry versions that they refused."""
    from manta.registry.models import ModelRegistry
    from manta.storage.folders import Storage
    from manta_serve.running.run import champion_of

    name, storage, _ = _asked(model)
    root = Storage.resolve(storage)
    name = name or champion_of(root, None).name
    ModelRegistry(root, must_exist=True).request_reload(name)
    people_console().print(
        f"Services of {name} check again within seconds; /v1/model shows which version answers, and which was refused and why."
    )


def _asked(model: str | None) -> tuple[str | None, str | None, ServeConfig]:
    """Return the registered name, the storage and the settings that a model name or an experiment file gives."""
    from manta.config import ServeConfig

    if model and _is_file(model):
        experiment = load_config(Path(model))
        return experiment.registered_name, experiment.storage, experiment.serve
    return model, None, ServeConfig()


def _is_file(model: str) -> bool:
    return model.endswith((".yaml", ".yml"))
