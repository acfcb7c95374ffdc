"""The commands `manta keys`, which manage the API's keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from manta.console import people_console, print_result

if TYPE_CHECKING:
    from manta_serve.access.keys import KeyStore

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]
NameArgument = Annotated[str, typer.Argument(help="Name of the person or service that will use the key.")]

keys = typer.Typer(help="Create, list and revoke the API's keys.", no_args_is_help=True)


ScopeOption = Annotated[
    list[str] | None,
    typer.Option(help="What the key may do: classify, feedback, review, metrics; may be repeated. Default: all."),
]
DaysOption = Annotated[int | None, typer.Option(min=1, help="Days after which the key is refused. Default: never.")]


@keys.command()
def create(name: NameArgument, scope: ScopeOption = None, days: DaysOption = None, json: JsonOption = False) -> None:
    """Create a key and show it once. Only its hash is stored, so the key cannot be shown again."""
    from manta.errors import InputError
    from manta_serve.access.keys import SCOPES

    scopes = tuple(item for item in SCOPES if item in (scope or SCOPES))
    unknown = [item for item in scope or [] if item not in SCOPES]
    if unknown:
        raise InputError(f"--scope {unknown[0]}: no such scope; there are {', '.join(SCOPES)}.")
    key = _store().create(name, scopes=scopes, days=days)
    if json:
        print_result({"name": name, "key": key}, as_json=True)
        return
    console = people_console()
    console.print(f"The key of {name}. It is shown only once:\n\n  {key}\n\nSend it as the header  Authorization: Bearer KEY")


@keys.command("list")
def list_keys(json: JsonOption = False) -> None:
    """List the names of all keys, and the time at which each was created."""
    found = _store().list()
    console = people_console()
    for item in found:
        until = "" if item.ends is None else f"  until {item.ends}"
        console.print(f"{item.name}  since {item.created}{until}  for {', '.join(item.scopes)}", markup=False)
    if not found:
        console.print("No keys yet; `manta keys create NAME` makes one.")
    print_result({"keys": [item.model_dump(exclude={"sha256"}, mode="json") for item in found]}, as_json=json)


@keys.command()
def revoke(name: NameArgument, json: JsonOption = False) -> None:
    """Revoke a key. Running services refuse it within two seconds."""
    _store().revoke(name)
    people_console().print(f"The key of {name} is revoked.", markup=False)
    print_result({"name": name, "revoked": True}, as_json=json)


def _store() -> KeyStore:
    from manta.storage.folders import Storage
    from manta_serve.access.keys import KeyStore

    return KeyStore(Storage.resolve(None))
