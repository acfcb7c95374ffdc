"""`manta models`: list the registered versions, show one, compare two, and choose which is served."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manta.console import people_console, print_result, working
from manta.errors import InputError

if TYPE_CHECKING:
    from manta.registry.models import ModelRegistry
    from manta.registry.versions import RegisteredVersion

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]
VersionArgument = Annotated[str, typer.Argument(help="NAME@VERSION, or NAME for its champion.", metavar="MODEL[@VERSION]")]
OneVersionArgument = Annotated[str, typer.Argument(help="NAME@VERSION, or NAME@candidate.", metavar="MODEL@VERSION")]

models = typer.Typer(help="List the registered models, and choose which version is served.", no_args_is_help=True)


@models.command("list")
def list_models(model: Annotated[str | None, typer.Argument(help="Only this model.")] = None, json: JsonOption = False) -> None:
    """List versions, newest first, and mark the one that is served."""
    from manta.registry.listing import list_versions
    from manta.registry.tracking import SERVER
    from manta.storage.folders import Storage
    from manta_jobs.cli.show_models import versions_table

    has_server = bool(os.environ.get(SERVER))
    versions = _registry().versions(model) if has_server else list_versions(Storage.resolve(None), model)
    console = people_console()
    console.print(versions_table(versions, console) if versions else "No models yet; `manta train EXPERIMENT.yaml` makes one.")
    rows = [{"model": item.name, "version": item.version, "aliases": item.aliases, "metrics": item.metrics} for item in versions]
    print_result({"models": rows}, as_json=json)


@models.command()
def show(model: VersionArgument, json: JsonOption = False) -> None:
    """Show the origin and the metrics of a version, and the decisions about it."""
    from manta_jobs.cli.show_models import describe, show_description

    registry = _registry()
    description = describe(registry, registry.find(model))
    show_description(description, people_console())
    print_result(description, as_json=json)


@models.command()
def compare(
    first: Annotated[str, typer.Argument(help="NAME@VERSION, or NAME for its champion.", metavar="A")],
    second: Annotated[str, typer.Argument(help="NAME@VERSION, or NAME for its champion.", metavar="B")],
    json: JsonOption = False,
) -> None:
    """Compare two versions: metrics, settings, data, and the rows that only one of them answers correctly."""
    from manta_jobs.registry.compare import compare_versions, show_comparison

    registry = _registry()
    console = people_console()
    with working(console, f"Comparing {first} and {second}"):
        comparison = compare_versions(registry, registry.find(first), registry.find(second))
    show_comparison(comparison, console)
    print_result(comparison.to_dict(), as_json=json)


@models.command()
def promote(
    model: OneVersionArgument,
    force: Annotated[
        str | None, typer.Option(help="Promote it even if the gate refuses it. Give the reason; it is recorded.", metavar="WHY")
    ] = None,
    allow_equal: Annotated[
        bool, typer.Option("--allow-equal", help="Let it pass if it is at most registry.gate.equal_margin worse, with confidence.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what the gate would decide, without changing anything.")] = False,
    json: JsonOption = False,
) -> None:
    """Make a version the champion if the gate finds it better on the champion's test rows."""
    from manta_jobs.registry import promotion as job

    registry = _registry()
    version = _one_version(registry, model)
    console = people_console()
    with working(console, f"Comparing {version} with the champion"):
        result = job.promote(registry, version, force=force, allow_equal=allow_equal, dry_run=dry_run)
    job.show_promotion(result, console)
    print_result(result.to_dict(), as_json=json)
    if not (result.passes if dry_run else result.promoted):
        raise typer.Exit(1)


@models.command()
def rollback(model: Annotated[str, typer.Argument(help="The model's name.")], json: JsonOption = False) -> None:
    """Make the previous champion the champion again. Run it again to go back one more."""
    from manta_jobs.registry import promotion as job

    result = job.rollback(_registry(), model)
    job.show_promotion(result, people_console())
    print_result(result.to_dict(), as_json=json)


@models.command()
def delete(
    model: OneVersionArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    json: JsonOption = False,
) -> None:
    """Delete a version and its artifact. The champion and the candidate cannot be deleted."""
    from manta.registry.decisions import Decision

    registry = _registry()
    version = _one_version(registry, model)
    registry.check_deletable(version)
    if not yes:
        if not sys.stdin.isatty():
            raise InputError(f"{version} would be deleted for good, with its artifact; add --yes to confirm.")
        typer.confirm(f"Delete {version} with its artifact, for good?", abort=True, err=True)
    registry.record(version.name, Decision(action="deleted", version=version.version))
    registry.delete(version)
    people_console().print(f"{version} is deleted.")
    print_result({"model": version.name, "version": version.version, "deleted": True}, as_json=json)


@models.command()
def export(
    model: VersionArgument,
    to: Annotated[Path, typer.Option(help="New folder to write to.", metavar="DIR")],
    json: JsonOption = False,
) -> None:
    """Write a version with its model card to a folder that plain transformers (or sentence-transformers) can load."""
    from manta.registry.export import export_model

    registry = _registry()
    version = registry.find(model)
    folder = export_model(registry.files.fetch(version), to=to)
    people_console().print(f"{version} is in {folder}")
    print_result({"model": version.name, "version": version.version, "folder": str(folder)}, as_json=json)


def _registry() -> ModelRegistry:
    with working(people_console(), "Opening the registry"):
        from manta.registry.models import ModelRegistry
        from manta.storage.folders import Storage

        return ModelRegistry(Storage.resolve(None), must_exist=True)


def _one_version(registry: ModelRegistry, model: str) -> RegisteredVersion:
    """Return the version that `NAME@VERSION` names. Commands that change something do not guess a missing version."""
    if "@" not in model:
        raise InputError(f"{model}: which version? Give it as {model}@3; `manta models list {model}` has them.")
    return registry.find(model)
