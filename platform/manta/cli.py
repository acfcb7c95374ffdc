"""The `manta` command line.

Sub-commands come from the entry-point group `manta.commands`, so this package imports no sibling package. A known error prints one
message on stderr. Exit codes: 0 done, 1 the run failed, 2 the input or config is wrong, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import tempfile
import traceback
from importlib.metadata import entry_points
from typing import Annotated, Any, NoReturn

import typer
from rich.markup import escape

from manta import __version__
from manta.config import ExperimentConfig
from manta.console import people_console
from manta.errors import MantaError, last_cause, without_passwords

GROUPS = {
    "Begin": ("demo", "schema", "preflight", "data"),
    "Train": ("train", "tune", "evaluate", "predict"),
    "Run on a cluster": ("submit", "jobs", "cluster"),
    "Serve": ("models", "serve", "keys", "ui"),
}
"""The commands as `manta --help` groups them."""


def build_app() -> typer.Typer:
    """Return the command line with every installed sub-command."""
    app = typer.Typer(
        name="manta",
        help="Fine-tune a text classifier on a Ray cluster, tune it, serve the best one and let people try it.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )
    app.callback(help=app.info.help)(_global_options)
    commands = {"schema": schema} | {point.name: point.load() for point in entry_points(group="manta.commands")}
    groups = {name: group for group, names in GROUPS.items() for name in names}
    for name in sorted(commands, key=lambda name: list(groups).index(name) if name in groups else len(groups)):
        command, group = commands[name], groups.get(name)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=group)
        else:
            app.command(name, context_settings=getattr(command, "context_settings", None), rich_help_panel=group)(command)
    return app


def with_values_as_typed(command: Any) -> Any:
    """Make the help of a command and its sub-commands show what people type: --port PORT and MODEL instead of types."""
    for parameter in [*command.params, command.get_help_option(typer.Context(command))]:
        is_option = parameter.param_type_name == "option"
        if parameter.metavar is None and not parameter.type_descriptor.is_choice:
            parameter.metavar = str(parameter.name).upper().strip("_").replace("_", "-")
        if not is_option or parameter.is_flag:
            parameter.display_type_rich = lambda ctx: None  # a flag has no value, an argument is its own name
    for inner in getattr(command, "commands", {}).values():
        with_values_as_typed(inner)
    return command


def schema() -> None:
    """Print the JSON Schema of the experiment YAML, with every setting explained."""
    sys.stdout.write(json.dumps(ExperimentConfig.model_json_schema(), indent=2) + "\n")


def main() -> None:
    """Run the command line and exit with its exit code. Typer handles wrong options and Ctrl-C. No error ends in a traceback."""
    try:
        with_values_as_typed(typer.main.get_command(build_app()))()
    except MantaError as error:
        people_console().print(f"[bold red]Error:[/] {escape(str(error))}")
        sys.exit(error.exit_code)
    except Exception as error:  # noqa: BLE001  # the outermost place: what nobody foresaw is a sentence, too
        people_console().print(f"[bold red]Error:[/] {escape(unforeseen(error))}")
        sys.exit(1)


def command() -> NoReturn:
    """Run `main` as the process of the `manta` script, and end it at once.

    Python would first free every object of torch, which takes seconds. What has registered itself for the exit still runs.
    """
    code: object = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    except KeyboardInterrupt:
        code = 130
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def unforeseen(error: Exception) -> str:
    """Write the traceback of an error that nobody foresaw into a file of its own, and return a sentence about the two."""
    descriptor, path = tempfile.mkstemp(prefix="manta-error-", suffix=".txt")  # readable by its owner only
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(without_passwords("".join(traceback.format_exception(error))))
    command = " ".join(["manta", *sys.argv[1:2]])
    return f"{command} broke off on an error that it does not know: {last_cause(error)}. The full traceback is in {path}."


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"manta {__version__}\n")
        raise typer.Exit


def _global_options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Handle the options that stand before a sub-command."""


if __name__ == "__main__":
    command()
