"""Other web pages cannot make a visitor's browser do anything to the page."""

from __future__ import annotations

import http.server
import json
import os
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from manta_ui.access import guard
from manta_ui.access.accounts import Accounts
from manta_ui.access.guard import BrowserGuard, PageNames, remove_old
from manta_ui.access.sessions import SESSION_S

from ..visits import chromium, page_process, visiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser
    from starlette.requests import Request

NO_API = "http://127.0.0.1:9"
PASSWORD = "correct horse battery"  # noqa: S105  # of nobody
# Names of a page and of a sibling that someone else runs, and a foreign name that its owner points to this machine.
NAMES = "--host-resolver-rules=MAP *.manta.test 127.0.0.1, MAP *.attacker.test 127.0.0.1"
ATTACK = """async ([url, options]) => {
  try {
    const answer = await fetch(url, options);
    return `${answer.status} ${await answer.text()}`;
  } catch (error) { return "not readable"; }
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(NAMES) as found:
        yield found


@contextmanager
def foreign_page() -> Iterator[int]:
    """A web page of someone else; its port."""

    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>prizes</title>")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.page
@pytest.mark.timeout(240)
def test_a_sibling_subdomain_reads_nothing_of_who_is_logged_in(browser: Browser, tmp_path: Path) -> None:
    users = tmp_path / "users.json"
    Accounts(users).add("ann", password=PASSWORD, may_promote=True)
    options = ("--auth", str(users), "--allow-host", "page.manta.test")
    with page_process(tmp_path, log=tmp_path / "log", api=NO_API, options=options) as address, foreign_page() as port:
        url = address.replace("127.0.0.1", "page.manta.test")
        context = browser.new_context()
        page = context.new_page()
        page.goto(url)
        page.get_by_label("username").fill("ann")
        page.get_by_label("password").fill(PASSWORD)
        page.get_by_role("button", name="Login").click()
        page.get_by_role("tab", name="Classify").wait_for(timeout=45_000)
        assert [json.loads(line)["event"] for line in (tmp_path / "audit.jsonl").read_text().splitlines()] == ["logged in"]
        cookies = {cookie["name"].split("-")[0]: cookie for cookie in context.cookies()}
        assert cookies["access"]["sameSite"] == "Lax"
        assert cookies["access"]["httpOnly"]
        assert 0 < cookies["access"]["expires"] - time.time() <= SESSION_S
        assert page.evaluate(ATTACK, [f"{url}/gradio_api/user", {}]).startswith('200 "ann"')
        assert page.evaluate(ATTACK, [f"{url}/gradio_api/token", {}]).startswith("404")
        page.goto(f"http://evil.manta.test:{port}/")
        for path in ("/gradio_api/user", "/gradio_api/token", "/config"):
            said = page.evaluate(ATTACK, [url + path, {"credentials": "include"}])
            assert said.startswith("403") or said == "not readable", (path, said)
        page.goto(f"{url}/")
        page.get_by_role("tab", name="Classify").wait_for(timeout=45_000)
        Accounts(users).remove("ann")  # an open page then asks for a login again, by itself
        page.get_by_label("password").wait_for(timeout=45_000)
        context.close()


@pytest.mark.page
@pytest.mark.timeout(240)
def test_a_rebound_name_and_a_foreign_page_do_not_reach_a_page_without_login(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "files"
    files.mkdir()
    monkeypatch.setenv("TMPDIR", str(files))
    with page_process(tmp_path, log=tmp_path / "log", api=NO_API) as url, foreign_page() as port:
        context = browser.new_context()
        page = context.new_page()
        rebound = url.replace("127.0.0.1", "now.attacker.test")
        answer = page.goto(rebound)
        assert answer is not None
        assert answer.status == 403
        assert "does not answer to the name now.attacker.test" in answer.text()
        page.goto(f"http://www.attacker.test:{port}/")
        upload = "async (url) => { const form = new FormData(); form.append('files', new Blob(['x'.repeat(1e6)]), 'x.csv');"
        upload += " try { await fetch(url, {method: 'POST', body: form, mode: 'no-cors'}) } catch {} }"
        page.evaluate(upload, f"{url}/gradio_api/upload")
        assert [path for path in files.rglob("*") if path.name == "x.csv"] == []
        order = {"method": "POST", "mode": "no-cors", "body": '{"data": [], "fn_index": 0, "session_hash": "x"}'}
        assert page.evaluate(ATTACK, [f"{url}/gradio_api/queue/join", order]) == "0 "
        denied = httpx.post(f"{url}/gradio_api/queue/join", headers={"Origin": "http://www.attacker.test"}, json={})
        assert denied.status_code == 403
        context.close()
    with page_process(tmp_path, log=tmp_path / "log", api=NO_API) as url, visiting(browser, url) as visit:
        visit.page.get_by_role("tab", name="Jobs").wait_for()  # by its own name the page works as before


def guarded(folder: Path, *, names: PageNames) -> TestClient:
    """A small application that stores what it is sent, behind the guard."""

    async def upload(request: Request) -> Response:
        (folder / f"{time.monotonic_ns()}").write_bytes(await request.body())
        return PlainTextResponse("stored")

    async def login(request: Request) -> Response:
        response = PlainTextResponse("in")
        response.set_cookie("access-token-x", "t", httponly=True, samesite="none", secure=True)
        response.set_cookie("access-token-unsecure-x", "t", httponly=True)
        return response

    routes = [Route("/gradio_api/upload", upload, methods=["POST"]), Route("/login", login), Route("/logout", login)]
    app = Starlette(routes=[*routes, Route("/", login), Route("/gradio_api/token", login)])
    return TestClient(BrowserGuard(app, names=names, uploads=folder), base_url="http://127.0.0.1:7860")


@pytest.mark.parametrize(
    ("listens", "host", "origin", "status"),
    [
        ("127.0.0.1", "localhost:7860", "http://localhost:7860", 200),
        ("127.0.0.1", "[::1]:7860", None, 200),
        ("127.0.0.1", "evil.test:7860", None, 403),
        ("127.0.0.1", "10.0.0.5:7860", None, 403),
        ("127.0.0.1", "127.0.0.1:7860", "http://127.0.0.1:3000", 403),
        ("127.0.0.1", "127.0.0.1:7860", "null", 403),
        ("0.0.0.0", "10.0.0.5:7860", "http://10.0.0.5:7860", 200),  # noqa: S104  # with a login
        ("0.0.0.0", "evil.test", None, 403),  # noqa: S104
        ("127.0.0.1", "page.example.com", "https://page.example.com", 200),
        ("127.0.0.1", "127.0.0.1:7860", "https://page.example.com", 200),  # a proxy that changes the name
        ("127.0.0.1", "page.example.com", "https://other.example.com", 403),
    ],
)
def test_only_the_pages_names_and_only_the_page_itself(
    listens: str, host: str, origin: str | None, status: int, tmp_path: Path
) -> None:
    client = guarded(tmp_path, names=PageNames(listens, allowed=["page.example.com"]))
    headers = {"Host": host} | ({"Origin": origin} if origin else {})
    assert client.get("/", headers=headers).status_code == status


def test_a_link_opens_the_page_but_a_picture_or_frame_elsewhere_does_not(tmp_path: Path) -> None:
    client = guarded(tmp_path, names=PageNames("127.0.0.1"))
    elsewhere = {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client.get("/", headers=elsewhere).status_code == 200
    assert client.get("/logout", headers=elsewhere).status_code == 403
    assert client.get("/", headers=elsewhere | {"Sec-Fetch-Dest": "iframe"}).status_code == 403
    assert client.get("/", headers=elsewhere | {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}).status_code == 403
    assert client.get("/").headers["X-Frame-Options"] == "DENY"


def test_cookies_stay_with_the_page_and_end(tmp_path: Path) -> None:
    client = guarded(tmp_path, names=PageNames("127.0.0.1"))
    (cookie,) = client.get("/login").headers.get_list("set-cookie")
    assert cookie.startswith("access-token-unsecure-x=t")
    assert "SameSite=Lax" in cookie
    assert f"Max-Age={SESSION_S:.0f}" in cookie
    over_tls = TestClient(client.app, base_url="https://127.0.0.1:7860")
    (cookie,) = over_tls.get("/login").headers.get_list("set-cookie")
    assert cookie.startswith("access-token-x=t")
    assert "Secure" in cookie
    assert client.get("/gradio_api/token").status_code == 404


def test_uploads_have_a_quota_and_old_ones_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_UPLOAD_BYTES", 600)
    monkeypatch.setattr(guard, "MOST_STORED_BYTES", 1000)
    client = guarded(tmp_path, names=PageNames("127.0.0.1"))
    sent = [client.post("/gradio_api/upload", content=b"x" * size) for size in (600, 601, 500, 400)]
    assert [answer.status_code for answer in sent] == [200, 413, 507, 200]
    assert "Try again later" in sent[2].text
    assert client.post("/gradio_api/upload", content=iter([b"x"])).status_code == 411
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    assert client.post("/gradio_api/upload", content=b"x" * 500).status_code == 200
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_of_an_old_upload_goes_with_its_file(tmp_path: Path) -> None:
    for name, age_s in (("old", 100), ("new", 10)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.csv").touch()
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    remove_old(tmp_path, older_than_s=50)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
