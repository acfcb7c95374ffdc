"""A page that runs, and people who visit it with a browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from manta.cluster.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Locator, Page

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
START_TIMEOUT_S = 120
SOON_MS = 45_000


@dataclass
class Visit:
    """One person's browser."""

    page: Page
    url: str
    faults: list[str] = field(default_factory=list)
    """The errors in the browser's console."""
    requested: list[str] = field(default_factory=list)
    """Requests to any other server."""

    def open(self, tab: str) -> None:
        self.page.get_by_role("tab", name=tab, exact=True).click()

    def part(self, name: str) -> Locator:
        return self.page.locator(f"#{name}")

    def ask(self, text: str, *, box: str = "text") -> None:
        """Type a text and press Ctrl+Enter."""
        self.part(box).locator("textarea").fill(text)
        self.part(box).locator("textarea").press("Control+Enter")


@contextmanager
def page_process(storage: Path, *, log: Path, api: str, options: tuple[str, ...] = ()) -> Iterator[str]:
    """`manta ui` in a process of its own; its URL, once it can be opened."""
    port = free_ports(1)[0]
    command = [sys.executable, "-m", "manta.cli", "ui", "--port", str(port), "--api", api, *options]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=os.environ | {"MANTA_STORAGE": str(storage)}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while "The page is at" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """A browser without a window; the test is skipped where there is none."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on this machine; on Debian: apt-get install chromium")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=SOON_MS)  # unlike the page's own limit, this one does not follow from it
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=[*ARGUMENTS, *arguments])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visiting(browser: Browser, url: str, *, expect_faults: bool = False, at: str = "") -> Iterator[Visit]:
    """One person's visit; at its end nothing has gone wrong in the browser and nothing has left the machine."""
    context = browser.new_context(viewport={"width": 1180, "height": 900}, permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(SOON_MS)
    visit = Visit(page, url)
    page.on("request", lambda request: visit.requested.append(request.url))
    page.on("console", lambda message: visit.faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: visit.faults.append(str(error)))
    page.on("dialog", lambda dialog: visit.faults.append(f"a dialog: {dialog.message}"))
    page.goto(url + at)
    yield visit
    context.close()
    assert expect_faults or visit.faults == []
    assert [asked for asked in visit.requested if not asked.startswith((url, "data:", "blob:"))] == []


def violations(visit: Visit) -> list[str]:
    """The serious or worse findings of axe-core on the shown page."""
    from axe_playwright_python.sync_playwright import Axe

    found = [item for item in Axe().run(visit.page).response["violations"] if item["impact"] in {"serious", "critical"}]
    return [f"{item['id']}: {node['html']}" for item in found for node in item["nodes"]]


def choose(visit: Visit, name: str, option: str) -> None:
    """Take an option of a dropdown, as a person does with the mouse."""
    visit.part(name).locator("input").click()
    visit.page.get_by_role("option", name=option, exact=True).click()
