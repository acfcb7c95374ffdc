"""API keys: what is kept of them, who is let in, and `manta keys`."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from manta.errors import InputError
from manta.storage.folders import Storage
from manta_serve import keys as keys_module
from manta_serve.key_commands import keys as commands
from manta_serve.keys import KeyStore


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyStore:
    """It looks at its file each time."""
    monkeypatch.setattr(keys_module, "LOOK_EVERY_S", 0.0)
    return KeyStore(Storage(tmp_path / "keys"))


def test_a_key_lets_in_until_it_is_revoked(store: KeyStore) -> None:
    service = KeyStore(Storage(store.path.parent))  # as another process has it
    assert (store.any(), store.list(), service.check("manta_x")) == (False, [], None)
    ada, bob = store.create("ada"), store.create("bob")
    assert (service.check(ada), service.check(bob)) == ("ada", "bob")
    assert [service.check(wrong) for wrong in ("", ada[:-1], ada + "x", ada.upper(), "x" * 10_000, "\ud800", "é")] == [None] * 7
    assert store.any()
    store.revoke("ada")
    assert (service.check(ada), service.check(bob)) == (None, "bob")
    assert [item.name for item in store.list()] == ["bob"]
    store.path.unlink()
    assert service.check(bob) is None


def test_only_the_owner_reads_the_file_and_it_holds_no_key(store: KeyStore) -> None:
    key = store.create("ada")
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    for file in store.path.parent.iterdir():
        assert key not in file.read_text()
        assert key.removeprefix("manta_") not in file.read_text()
    assert len(key) > 40
    assert store.create("bob") != key


def test_a_damaged_file_lets_nobody_in_and_is_not_written_over(store: KeyStore) -> None:
    key = store.create("ada")
    assert store.check(key) == "ada"
    store.path.write_text('{"keys": [')
    assert store.check(key) is None
    for act in (store.list, store.any, lambda: store.create("bob"), lambda: store.revoke("ada")):
        with pytest.raises(InputError, match=r"keys\.json: damaged"):
            act()
    assert store.path.read_text() == '{"keys": ['


def _create(root: Path, name: str) -> str:
    return KeyStore(Storage(root)).create(name)


def test_keys_made_at_once_are_all_kept(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2) as pool:
        made = list(pool.map(_create, [tmp_path] * 20, [f"service-{number}" for number in range(20)]))
    store = KeyStore(Storage(tmp_path))
    assert [store.check(key) for key in made] == [f"service-{number}" for number in range(20)]


def test_names_are_checked(store: KeyStore) -> None:
    store.create("ada")
    with pytest.raises(InputError, match="ada: there is a key of that name"):
        store.create("ada")
    with pytest.raises(InputError, match="not a name for a key"):
        store.create("ada lovelace")
    with pytest.raises(InputError, match="bob: no key of that name; there are: ada"):
        store.revoke("bob")


def test_the_commands_show_a_key_once(own_storage: Path) -> None:
    runner = CliRunner()
    made = json.loads(runner.invoke(commands, ["create", "ada", "--json"]).stdout)
    assert KeyStore(Storage(own_storage)).check(made["key"]) == "ada"
    shown = runner.invoke(commands, ["create", "bob"])
    assert "manta_" in shown.stderr
    listed = runner.invoke(commands, ["list", "--json"])
    assert [item["name"] for item in json.loads(listed.stdout)["keys"]] == ["ada", "bob"]
    assert "manta_" not in listed.output
    assert json.loads(runner.invoke(commands, ["revoke", "ada", "--json"]).stdout) == {"name": "ada", "revoked": True}
    assert KeyStore(Storage(own_storage)).check(made["key"]) is None
