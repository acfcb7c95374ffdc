"""Takes the README's picture from the real page: `make screenshots`, with `manta serve` and `manta ui` running."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

PAGE = "http://127.0.0.1:7860"
TEXT = "The driver left it with a neighbour who has moved out, so who has my kettle now?"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


def main() -> int:
    """Type a message, wait for its label and take the picture."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.stderr.write("no Chromium on this machine; on Debian: apt-get install chromium\n")
        return 2
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1180, "height": 760})
        page.goto(PAGE)
        page.locator("#text textarea").fill(TEXT)
        page.locator("#classify").click()
        expect(page.locator("#note")).to_contain_text("version", timeout=30_000)
        page.wait_for_timeout(1000)  # the bars grow
        page.screenshot(path=str(Path(__file__).parent / "page.png"))
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
