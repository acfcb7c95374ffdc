"""The page as a Ray Serve application: one replica, behind a login."""

from __future__ import annotations

import urllib.error
import urllib.parse
import urllib.request
from http.cookiejar import CookieJar
from typing import TYPE_CHECKING

import pytest

from manta.errors import InputError
from manta_ui.access.accounts import Accounts
from manta_ui.running.app import PageArguments, build, settings_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWORD = "correct horse"  # noqa: S105  # of nobody


@pytest.fixture(scope="module")
def address(serve_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from ray import serve

    users = tmp_path_factory.mktemp("users") / "users.json"
    Accounts(users).add("ann", password=PASSWORD, may_promote=False)
    arguments = PageArguments(api="http://127.0.0.1:9", auth=users, tracking="http://127.0.0.1:9")
    try:
        serve.run(build(arguments), name="page", route_prefix="/page")
        yield f"http://127.0.0.1:{serve_port}/page"
    finally:
        serve.delete("page")


def test_who_logs_in_gets_the_page_and_nobody_else_does(address: str) -> None:
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    with pytest.raises(urllib.error.HTTPError, match="401"):
        opener.open(f"{address}/config", timeout=60)
    body = urllib.parse.urlencode({"username": "ann", "password": PASSWORD}).encode()
    assert opener.open(f"{address}/login", data=body, timeout=60).status == 200
    config = opener.open(f"{address}/config", timeout=60).read().decode()
    assert '"elem_id":"classify"' in config.replace(" ", "")


def test_a_file_of_users_is_asked_for(tmp_path: Path) -> None:
    from manta_ui.running.run import checked_accounts

    with pytest.raises(InputError, match="no such file"):
        checked_accounts(settings_of(PageArguments(api="http://x", auth=tmp_path / "none.json")))
    with pytest.raises(ValueError, match="auth"):
        PageArguments.model_validate({"api": "http://x"})
