"""Takes the README's pictures from the real page: `make pictures`, with `manta serve` and `manta ui` running.

Any model will do; the pictures were made with the one of `manta demo` as champion, another candidate, `serve.feedback` and
`serve.sample_texts` turned on, and a check of labels (`manta data check`) in the page's storage. Tabs of services that the page was
not given show what to set.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import expect, sync_playwright

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FOLDER = Path(__file__).parent
TEXT = "The driver left it with a neighbour who has moved out, so who has my kettle now?"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
SIZE, PHONE = (1180, 860), (375, 760)
SETTLED_MS = 1500
LONGEST_MS = 120_000


def main() -> int:
    """Take every picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", default="http://127.0.0.1:7860")
    parser.add_argument("--rows", type=Path, help="a file of texts for the tab Batch, instead of the model's examples")
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.stderr.write("no Chromium on this machine; on Debian: apt-get install chromium\n")
        return 2
    expect.set_options(timeout=LONGEST_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        for name, size, scheme in (("page", SIZE, "light"), ("page-dark", SIZE, "dark"), ("page-phone", PHONE, "light")):
            page = opened(browser, arguments.page, size=size, scheme=scheme)
            classify(page)
            take(page, arguments.out / f"{name}.png")
        page = opened(browser, arguments.page, size=SIZE, scheme="light")
        for tab in ("Models", "Tuning", "Jobs"):
            page.get_by_role("tab", name=tab, exact=True).click()
            page.wait_for_timeout(8 * SETTLED_MS)  # a page without a tracking server starts one, and then asks it
            expect(page.get_by_text("Loading models and searches")).to_be_hidden()
            take(page, arguments.out / f"page-{tab.lower()}.png")
        batch(page, arguments.rows)
        take(page, arguments.out / "page-batch.png")
        correct(page)
        take(page, arguments.out / "page-correct.png")
        labels(page)
        take(page, arguments.out / "page-labels.png")
        compare(page)
        take(page, arguments.out / "page-compare.png")
        browser.close()
    return 0


def opened(browser: Browser, url: str, *, size: tuple[int, int], scheme: str) -> Page:
    """The page in a browser of its own, once a model answers."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(url)
    expect(page.locator("#examples button").first).to_be_visible()
    return page


def take(page: Page, path: Path) -> None:
    """A picture, once nothing moves."""
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(SETTLED_MS)
    page.screenshot(path=str(path))


def classify(page: Page) -> None:
    """Type a message, wait for its label, and ask why."""
    page.locator("#text textarea").fill(TEXT)
    page.locator("#text textarea").press("Control+Enter")
    expect(page.locator("#answer .manta-label").first).to_be_visible()
    page.wait_for_timeout(SETTLED_MS)
    page.locator("#why-button").click()
    expect(page.locator("#why .manta-words").first).to_be_visible()


def batch(page: Page, rows: Path | None) -> None:
    """Classify a file."""
    examples = page.locator("#examples button > span:first-child").all_text_contents()
    page.get_by_role("tab", name="Batch", exact=True).click()
    with tempfile.TemporaryDirectory() as folder:
        if rows is None:
            rows = Path(folder) / "messages.csv"
            with rows.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([("id", "message"), *enumerate(examples, start=1)])
        page.locator("#batch-file input[type=file]").set_input_files(rows)
        expect(page.locator("#batch-start")).to_be_enabled()
        page.locator("#batch-start").click()
        expect(page.locator("#batch-table table")).to_be_visible()


def correct(page: Page) -> None:
    """Judge random texts that the service was asked, the last one with another label; if it keeps none, rows of the file."""
    page.locator("#batch-unsure").click()
    expect(page.locator("#queue-card .manta-queue")).to_be_visible()
    if page.locator("#queue-random").is_visible():
        page.locator("#queue-random").click()
        expect(page.locator("#queue-card")).to_contain_text("Random text")
    for key in ("Enter", "Enter", "Enter", "2"):
        row = page.locator("#queue-card .manta-queue")
        expect(row).to_be_visible()
        number = row.get_attribute("data-row")
        page.keyboard.press(key)
        expect(row).not_to_have_attribute("data-row", number or "")


def labels(page: Page) -> None:
    """Open the first row whose label is in doubt, if labels were checked."""
    page.get_by_role("tab", name="Labels", exact=True).click()
    page.wait_for_timeout(SETTLED_MS)


def compare(page: Page) -> None:
    """Compare two versions on a text; where there is one version, it is compared with itself."""
    page.get_by_role("tab", name="Compare", exact=True).click()
    expect(page.locator("#compare-left input")).not_to_have_value("")
    right = page.locator("#compare-right input")
    if not right.input_value():
        right.fill(page.locator("#compare-left input").input_value())
        right.press("Enter")
    page.locator("#compare-text textarea").fill(TEXT)
    page.locator("#compare-text textarea").press("Control+Enter")
    expect(page.locator("#compare-answers .manta-answer").first).to_be_visible()


if __name__ == "__main__":
    sys.exit(main())
