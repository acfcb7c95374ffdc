"""The commands `manta keys`, which manage the API's keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from manta.console import people_console, print_result

if TYPE_CHECKING:
    from manta_serve.keys import KeyStore

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]
NameArgument = Annotated[str, typer.Argument(help="Name of the person or service that will use the key.")]

keys = typer.Typer(help="Create, list and revoke the API's keys.", no_args_is_help=True)


@keys.command()
def create(name: NameArgument, json: JsonOption = False) -> None:
    """Create a key and show it once. Only its hash is stored, so the key cannot be shown again."""
    key = _store().create(name)
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
        console.print(f"{item.name}  since {item.created}", markup=False)
    if not found:
        console.print("No keys yet; `manta keys create NAME` makes one.")
    print_result({"keys": [{"name": item.name, "created": item.created} for item in found]}, as_json=json)


@keys.command()
def revoke(name: NameArgument, json: JsonOption = False) -> None:
    """Revoke a key. Running services refuse it within two seconds."""
    _store().revoke(name)
    people_console().print(f"The key of {name} is revoked.", markup=False)
    print_result({"name": name, "revoked": True}, as_json=json)


def _store() -> KeyStore:
    from manta.storage.folders import Storage
    from manta_serve.keys import KeyStore

    return KeyStore(Storage.resolve(None))
