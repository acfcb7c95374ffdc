"""API keys: what is kept of them, who is let in, and `manta keys`."""

from __future__ import annotations

import json
import re
import stat
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from manta.errors import InputError
from manta.storage.folders import Storage
from manta_serve.access import keys as keys_module
from manta_serve.access.keys import SCOPES, KeyFile, KeyStore
from manta_serve.running.key_commands import keys as commands


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyStore:
    """It looks at its file each time."""
    monkeypatch.setattr(keys_module, "LOOK_EVERY_S", 0.0)
    return KeyStore(Storage(tmp_path / "keys"))


def name_of(store: KeyStore, key: str) -> str | None:
    found = store.check(key)
    return None if found is None else found.name


def test_a_key_lets_in_until_it_is_revoked(store: KeyStore) -> None:
    service = KeyStore(Storage(store.path.parent))  # as another process has it
    assert (store.any(), store.list(), name_of(service, "manta_x")) == (False, [], None)
    ada, bob = store.create("ada"), store.create("bob")
    assert (name_of(service, ada), name_of(service, bob)) == ("ada", "bob")
    assert [name_of(service, wrong) for wrong in ("", ada[:-1], ada + "x", ada.upper(), "x" * 10_000, "\ud800", "é")] == [None] * 7
    assert store.any()
    store.revoke("ada")
    assert (name_of(service, ada), name_of(service, bob)) == (None, "bob")
    assert [item.name for item in store.list()] == ["bob"]
    store.path.unlink()
    assert name_of(service, bob) is None


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
    assert name_of(store, key) == "ada"
    store.path.write_text('{"keys": [')
    assert name_of(store, key) is None
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
    assert [name_of(store, key) for key in made] == [f"service-{number}" for number in range(20)]


def test_a_key_ends_and_an_older_file_has_keys_for_all(store: KeyStore) -> None:
    key = store.create("ada", scopes=["metrics"], days=30)
    (item,) = store.list()
    assert item.scopes == ("metrics",)
    assert item.ends is not None
    assert timedelta(days=29) < datetime.fromisoformat(item.ends) - datetime.now(UTC) <= timedelta(days=30)
    ended = item.model_copy(update={"ends": datetime.now(UTC).isoformat()})
    store.path.write_text(KeyFile(keys=(ended,)).model_dump_json())
    assert store.check(key) is None
    store.path.write_text(json.dumps({"keys": [{"name": "ada", "sha256": item.sha256, "created": item.created}]}))
    (old,) = store.list()
    assert (name_of(store, key), old.scopes, old.ends) == ("ada", SCOPES, None)


def audited(root: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (root / "audit.jsonl").read_text(encoding="utf-8").splitlines()]


def test_who_made_and_revoked_keys_is_on_record(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANTA_USER", "carol")
    key = store.create("ada", scopes=["classify"])
    store.revoke("ada")
    root = store.path.parent
    assert stat.S_IMODE((root / "audit.jsonl").stat().st_mode) == 0o600
    lines = audited(root)
    assert [(line["event"], line["by"], line["key"]) for line in lines] == [
        ("key created", "carol", "ada"),
        ("key revoked", "carol", "ada"),
    ]
    assert all(datetime.fromisoformat(str(line["at"])).tzinfo for line in lines)
    assert key not in (root / "audit.jsonl").read_text()


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
    assert name_of(KeyStore(Storage(own_storage)), made["key"]) == "ada"
    shown = runner.invoke(commands, ["create", "bob"])
    assert "manta_" in shown.stderr
    listed = runner.invoke(commands, ["list", "--json"])
    assert [item["name"] for item in json.loads(listed.stdout)["keys"]] == ["ada", "bob"]
    assert "manta_" not in listed.output
    bounded = runner.invoke(commands, ["create", "prometheus", "--scope", "metrics", "--days", "90", "--json"])
    assert bounded.exit_code == 0
    shown = runner.invoke(commands, ["list"]).stderr
    assert re.search(r"prometheus  since \S+  until \S+  for metrics\n", shown)
    refused = runner.invoke(commands, ["create", "eve", "--scope", "metric"])
    assert "there are classify, feedback, review, metrics" in str(refused.exception)
    assert json.loads(runner.invoke(commands, ["revoke", "ada", "--json"]).stdout) == {"name": "ada", "revoked": True}
    assert name_of(KeyStore(Storage(own_storage)), made["key"]) is None
