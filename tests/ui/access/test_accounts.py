"""Users may log in, and the page is closed to everyone else."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from manta.errors import InputError
from manta_ui.access.accounts import Accounts
from manta_ui.running.commands import ui
from manta_ui.running.run import PageSettings, checked_accounts, jobs_of, tracking_of

from ..visits import page_process

PASSWORD = "correct horse battery"  # noqa: S105  # of nobody


def settings(**changed: object) -> PageSettings:
    facts = {"api": "http://127.0.0.1:9", "host": "127.0.0.1", "port": 7860, "auth": None, "tracking": None}
    facts |= {"cluster": None, "address": None, "token_file": None}
    return PageSettings(**(facts | changed))  # type: ignore[arg-type]  # names of its fields


@pytest.fixture
def accounts(tmp_path: Path) -> Accounts:
    accounts = Accounts(tmp_path / "users.json")
    accounts.add("ann", password=PASSWORD, may_promote=True)
    accounts.add("bob", password=PASSWORD, may_promote=False)
    return accounts


@pytest.mark.slow
def test_a_password_lets_its_owner_in_and_no_one_else(accounts: Accounts) -> None:
    tried = [("ann", PASSWORD), ("bob", PASSWORD), ("ann", PASSWORD + " "), ("cleo", PASSWORD), ("ann", ""), ("ann", "x" * 5000)]

    async def answers() -> list[bool]:
        return await asyncio.gather(*(accounts.check(*pair) for pair in tried))

    assert asyncio.run(answers()) == [True, True, False, False, False, False]
    assert [accounts.may_promote(name) for name in ("ann", "bob", "cleo")] == [True, False, False]


def test_each_wrong_password_makes_the_next_attempt_wait_longer(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("manta_ui.access.accounts.FIRST_WAIT_S", 0.1)

    async def took(name: str, password: str) -> tuple[bool, float]:
        started = time.monotonic()
        return await accounts.check(name, password), time.monotonic() - started

    async def attempts() -> None:
        for least_s in (0.0, 0.1, 0.2, 0.4):
            is_in, took_s = await took("ann", "wrong")
            assert not is_in
            assert took_s >= least_s
        last = time.monotonic()
        assert (await took("bob", PASSWORD))[0]  # others do not wait
        since_s = time.monotonic() - last
        together = await asyncio.gather(*(took("ann", PASSWORD) for _ in range(8)))
        assert [is_in for is_in, _ in together] == [True] * 5 + [False] * 3  # one after the other, and not without end
        assert since_s + together[0][1] >= 0.75  # 0.8 since the last wrong password

    asyncio.run(attempts())
    assert "wrong password for 'ann', 4 in a row" in caplog.text


def test_log_ins_are_on_record_without_what_unknown_people_typed(
    accounts: Accounts, own_storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manta_ui.access.accounts.FIRST_WAIT_S", 0.0)

    async def attempts() -> None:
        for name, password in [("ann", "wrong"), ("ann", "wrong"), ("ann", PASSWORD), ("typed secret", "x"), ("cleo", "x")]:
            await accounts.check(name, password)
        monkeypatch.setattr("manta_ui.access.accounts.CALM_S", 0.0)  # as if a minute had passed
        await accounts.check("dora", "x")

    asyncio.run(attempts())
    path = own_storage / "audit.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(line["event"], line["by"], line.get("count")) for line in lines] == [
        ("log-in refused", "ann", 1),
        ("log-in refused", "ann", 2),
        ("logged in", "ann", None),
        ("log-in refused", "an unknown name", 1),
        ("log-in refused", "an unknown name", 2),
    ]
    assert not any(word in path.read_text(encoding="utf-8") for word in (PASSWORD, "wrong", "secret", "cleo", "dora"))


def test_the_file_holds_salted_hashes_and_is_its_owners_only(accounts: Accounts) -> None:
    assert stat.S_IMODE(accounts.path.stat().st_mode) == 0o600
    content = accounts.path.read_text()
    assert PASSWORD not in content
    ann, bob = json.loads(content)["accounts"]
    assert ann["scrypt"] != bob["scrypt"]


@pytest.mark.slow
def test_a_new_password_takes_the_old_ones_place_and_who_is_removed_is_out(accounts: Accounts) -> None:
    accounts.add("ann", password=PASSWORD[::-1], may_promote=False)
    assert not asyncio.run(accounts.check("ann", PASSWORD))
    assert asyncio.run(accounts.check("ann", PASSWORD[::-1]))
    assert not accounts.may_promote("ann")
    accounts.remove("ann")
    assert not asyncio.run(accounts.check("ann", PASSWORD[::-1]))
    with pytest.raises(InputError, match=r"ann: there is no such user in .*, which has bob\."):
        accounts.remove("ann")


@pytest.mark.slow
@pytest.mark.parametrize("mode", [0o604, 0o620, 0o660])
def test_a_file_that_others_can_read_or_change_is_refused(accounts: Accounts, mode: int) -> None:
    accounts.path.chmod(mode)
    with pytest.raises(InputError, match=f"open to others \\(mode {mode:o}\\); chmod 600"):
        checked_accounts(settings(auth=accounts.path))
    assert not asyncio.run(accounts.check("ann", PASSWORD))


def test_beyond_this_machine_people_have_to_log_in(accounts: Accounts, tmp_path: Path) -> None:
    for host in ("0.0.0.0", "192.168.1.5", "desk.example", "::"):  # noqa: S104  # what is refused
        with pytest.raises(InputError, match=f"listen on {host}, for everybody .* --auth FILE"):
            checked_accounts(settings(host=host))
    assert checked_accounts(settings()) is None
    assert checked_accounts(settings(host="localhost")) is None
    assert checked_accounts(settings(host="0.0.0.0", auth=accounts.path)) is not None  # noqa: S104  # with a login
    with pytest.raises(InputError, match="no such file; make it with: manta ui add-user NAME --auth"):
        checked_accounts(settings(auth=tmp_path / "none.json"))
    (tmp_path / "empty.json").write_text('{"accounts": []}')
    (tmp_path / "empty.json").chmod(0o600)
    with pytest.raises(InputError, match="nobody is in it"):
        checked_accounts(settings(auth=tmp_path / "empty.json"))
    (tmp_path / "empty.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        checked_accounts(settings(auth=tmp_path / "empty.json"))


def test_users_are_added_and_removed_by_the_command(tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    added = CliRunner().invoke(ui, ["add-user", "ann", "--auth", str(path), "--promote"], input=f"{PASSWORD}\n")
    assert added.exit_code == 0, added.output
    assert asyncio.run(Accounts(path).check("ann", PASSWORD))
    assert Accounts(path).may_promote("ann")
    assert CliRunner().invoke(ui, ["remove-user", "ann", "--auth", str(path)]).exit_code == 0
    assert Accounts(path).all() == ()
    for name, password, message in [("a b", PASSWORD, "not a name"), ("ann", "short", "has 5 characters; take 10 or more")]:
        refused = CliRunner().invoke(ui, ["add-user", name, "--auth", str(path)], input=f"{password}\n")
        assert message in str(refused.exception)


def test_a_cluster_is_named_as_for_submitting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MANTA_CLUSTER", raising=False)
    for address in ("", "10.0.0.5:6379"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with jobs_of(settings(host="0.0.0.0")) as none:  # noqa: S104  # with a login
            assert none is None
        with jobs_of(settings()) as own:  # a cluster that only a job starts
            assert own is not None
            assert (own.is_up(), own.jobs()) == (False, [])
    monkeypatch.setenv("RAY_ADDRESS", "http://10.0.0.5:8265/")
    for changed, expected in (({}, "http://10.0.0.5:8265"), ({"address": "10.0.0.6"}, "http://10.0.0.6:8265")):
        with jobs_of(settings(**changed)) as found:
            assert found is not None
            assert found.api().address == expected
    with (
        pytest.raises(InputError, match="the token cannot be read"),
        jobs_of(settings(address="10.0.0.6", token_file=tmp_path / "none")),
    ):
        pass


def test_a_server_that_is_named_is_the_registry(own_storage: Path) -> None:
    with tracking_of(settings(tracking="http://10.0.0.7:5000")) as tracking:
        assert tracking.environment == {"MLFLOW_TRACKING_URI": "http://10.0.0.7:5000"}
    with tracking_of(settings(tracking="sqlite:///somewhere.db")) as tracking:
        assert tracking.environment == {"MANTA_STORAGE": str(own_storage)}
    assert not own_storage.exists()


@pytest.mark.slow
def test_the_page_opens_and_ends_in_an_environment_with_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with page_process(tmp_path, log=tmp_path / "log", api="http://127.0.0.1:9") as url:
        assert httpx.get(url, trust_env=False, timeout=30).status_code == 200
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_tracking_server_without_http_is_one_sentence() -> None:
    with pytest.raises(InputError, match=r"^--tracking localhost:5000 is no URL; write http://localhost:5000\.$"):
        tracking_of(settings(tracking="localhost:5000")).__enter__()


@pytest.mark.slow
def test_a_port_that_another_process_takes_in_the_meantime_is_one_sentence(own_storage: Path) -> None:
    code = (
        "import manta_ui.running.run as run; real, asked = run.check_port, []\n"
        "run.check_port = lambda *place: real(*place) if asked else asked.append(place)\n"
        "from manta.cli import main; main()"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-c", code, "ui", "--port", str(port)],
            env=os.environ | {"COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 2, done.stderr
    assert f"Error: 127.0.0.1:{port} cannot be listened on (Address already in use); choose another with --port." in done.stderr
    assert "Traceback" not in done.stderr
