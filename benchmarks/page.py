"""Speed of the page in a browser: `python benchmarks/page.py --api URL`, where `manta serve` answers.

It starts `manta ui` in a process of its own and opens it in headless Chromium. Measured are

- `start_s`          from starting `manta ui` until it answers
- `interactive_s`    from opening the address until a text can be typed and the model's examples are there (median)
- `overhead_ms`      from Ctrl+Enter until the answer is on the screen, less what the API took (median); `answer_ms` is all of it
- `told_s`           from the moment nothing answers any more until the page says so, while someone types (the slowest)
- `back_s`           from the moment the API answers again until the page says so (the slowest)
- `memory_mib`       resident memory of the page's process after all that

The page reaches the API through a relay of the benchmark's, which is how the API goes and comes back. It leaves with 1 if a target
is missed.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psutil
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.table import Table

from figures import write_results
from machine import machine_facts, use_cores
from manta.cluster.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

TARGETS = {"start_s": 8.0, "interactive_s": 3.0, "overhead_ms": 150.0, "told_s": 2.0, "back_s": 2.0, "memory_mib": 400.0}
CHROMIUM = ("chromium", "google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
TIMEOUT_S = 60.0
# Runs in the browser: how many milliseconds after Ctrl+Enter another answer is painted, and how many of them the API took.
TIMED_ANSWER = """(text) => new Promise((done) => {
  const box = document.querySelector("#text textarea"), answer = document.querySelector("#answer");
  box.value = text;
  box.dispatchEvent(new Event("input", { bubbles: true }));
  const latency = () => answer.querySelector("[data-latency-ms]")?.dataset.latencyMs;
  const before = latency();
  let from = 0;
  const watch = new MutationObserver(() => requestAnimationFrame(() => {
    if (latency() === undefined || latency() === before) return;
    watch.disconnect();
    done([performance.now() - from, Number(latency())]);
  }));
  watch.observe(answer, { childList: true, subtree: true, attributes: true });
  requestAnimationFrame(() => {
    from = performance.now();
    box.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", ctrlKey: true, bubbles: true }));
  });
})"""


@dataclass
class Relay:
    """A port that leads to the API while it is open."""

    api: str
    port: int
    _listening: socket.socket | None = None

    @property
    def url(self) -> str:
        """Address that the page is given."""
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        """Let connections through."""
        self._connected: set[socket.socket] = set()
        self._listening = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def close(self) -> None:
        """Cut all connections, and refuse others."""
        listening, self._listening = self._listening, None
        if listening is None:
            return
        for connected in (listening, *self._connected):
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
            connected.close()

    def _accept(self, listening: socket.socket) -> None:
        address = urlsplit(self.api)
        while True:
            try:
                client, _ = listening.accept()
                server = socket.create_connection((address.hostname, address.port))
            except OSError:
                return
            self._connected |= {client, server}
            for pair in ((client, server), (server, client)):
                for end in pair:
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=_pass_on, args=pair, daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(1 << 16):
            target.sendall(content)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def main() -> int:
    """Measure, print the table, and say whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--api", default="http://127.0.0.1:8000")
    parser.add_argument("--answers", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5, help="of opening the page and of the API's going and coming back")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    arguments = parser.parse_args()
    num_threads = use_cores(None)
    relay = Relay(arguments.api, free_ports(1)[0])
    relay.open()
    with page_process(relay.url) as (process, url, start_s), chromium() as browser:
        measured = {"start_s": [start_s], "interactive_s": [opened_in(browser, url) for _ in range(arguments.repeats)]}
        page = browser.new_page()
        page.goto(url)
        page.wait_for_selector("#examples button")
        answers = [answered_in(page, f"Where is parcel number {number}?") for number in range(arguments.answers + 1)][1:]
        measured["answer_ms"] = [whole for whole, _ in answers]
        measured["overhead_ms"] = [whole - api for whole, api in answers]
        gone = [gone_and_back(page, relay) for _ in range(arguments.repeats)]
        measured["told_s"], measured["back_s"] = [told for told, _ in gone], [back for _, back in gone]
        measured["memory_mib"] = [psutil.Process(process.pid).memory_info().rss / 2**20]
    relay.close()
    reached = {
        name: max(values) if name in {"told_s", "back_s"} else statistics.median(values) for name, values in measured.items()
    }
    Console().print(table(measured, reached))
    if arguments.json:
        write_results(arguments.json, machine_facts(num_threads), results(measured, reached))
    return 0 if all(reached[name] <= target for name, target in TARGETS.items()) else 1


@contextmanager
def page_process(api: str) -> Iterator[tuple[subprocess.Popen[bytes], str, float]]:
    """`manta ui`, its URL, and how many seconds it took to answer."""
    port = free_ports(1)[0]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "manta.cli", "ui", "--api", api, "--port", str(port)]
    started = time.monotonic()
    process = subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=5):  # our own page
                break
            if process.poll() is not None or time.monotonic() - started > TIMEOUT_S:
                raise SystemExit("manta ui did not start; try it alone to see why")
            time.sleep(0.02)
        yield process, url, time.monotonic() - started
    finally:
        process.terminate()
        process.wait()


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window."""
    import shutil

    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if found is None:
        raise SystemExit("no Chromium on this machine; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def opened_in(browser: Browser, url: str) -> float:
    """Seconds until a person who has never been there can type and sees the examples."""
    context = browser.new_context()
    page = context.new_page()
    started = time.monotonic()
    page.goto(url, wait_until="commit")
    page.wait_for_selector("#text textarea")
    page.wait_for_selector("#examples button")
    took_s = time.monotonic() - started
    context.close()
    return took_s


def answered_in(page: Page, text: str) -> tuple[float, float]:
    """Milliseconds from Ctrl+Enter to the shown answer, and those of them that the API took."""
    whole, api = page.evaluate(TIMED_ANSWER, text)
    return float(whole), float(api)


def gone_and_back(page: Page, relay: Relay) -> tuple[float, float]:
    """Seconds until the page says that the API is gone, and that it is back, while someone types."""
    page.locator("#text textarea").press_sequentially("half a sen")
    relay.close()
    started = time.monotonic()
    page.wait_for_selector(".manta-alert")
    told_s = time.monotonic() - started
    page.locator("#text textarea").press_sequentially("tence")
    relay.open()
    started = time.monotonic()
    page.wait_for_selector(".manta-alert", state="detached")
    return told_s, time.monotonic() - started


def table(measured: dict[str, list[float]], reached: dict[str, float]) -> Table:
    """The figures beside their targets."""
    found = Table(title="The page", title_justify="left")
    for heading in ("metric", "measured", "lowest", "highest", "target", ""):
        found.add_column(heading, justify="left" if heading in {"metric", ""} else "right")
    for name, values in measured.items():
        target = TARGETS.get(name)
        verdict = "" if target is None else "met" if reached[name] <= target else "NOT MET"
        figures = [f"{value:.2f}" if name.endswith("_s") else f"{value:.0f}" for value in (reached[name], min(values), max(values))]
        found.add_row(name, *figures, "" if target is None else f"{target:g}", verdict)
    return found


def results(measured: dict[str, list[float]], reached: dict[str, float]) -> list[dict[str, Any]]:
    """The figures in the benchmarks' JSON form."""
    units = {"s": "s", "ms": "ms", "mib": "MiB"}
    return [
        {
            "system": "manta",
            "case": "page",
            "metric": name,
            "value": reached[name],
            "unit": units[name.rpartition("_")[2]],
            "values": values,
        }
        for name, values in measured.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
