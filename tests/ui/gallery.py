"""Takes pictures of every tab, wide and narrow, light and dark, with 2, 12 and 80 labels: `make screenshots`.

It starts all that it needs itself, on tiny models, and writes `<labels>-<tab>-<width>-<scheme>.png`.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..conftest import write_tiny_model
from .exhibits import exhibit
from .visits import Visit, chromium

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser

    from .exhibits import Exhibit

WIDTHS = {1280: 900, 375: 760}
SCHEMES = ("light", "dark")
SETTLED_MS = 700


def main() -> int:
    """Take every picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("dist/screenshots"))
    parser.add_argument("--labels", type=int, nargs="+", default=[2, 12, 80])
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    parser.add_argument("--schemes", nargs="+", default=list(SCHEMES))
    parser.add_argument("--tabs", nargs="+", default=list(SCENES))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        (Path(folder) / "encoder").mkdir()
        encoder = write_tiny_model(Path(folder) / "encoder")
        for num_labels in arguments.labels:
            with exhibit(Path(folder) / str(num_labels), num_labels=num_labels, encoder=encoder) as shown:
                for width in arguments.widths:
                    for scheme in arguments.schemes:
                        started = time.monotonic()
                        visit = opened(browser, shown, width=width, scheme=scheme)
                        for name in arguments.tabs:
                            SCENES[name](visit, shown)
                            visit.page.wait_for_timeout(SETTLED_MS)
                            visit.page.screenshot(path=arguments.out / f"{num_labels}-{name}-{width}-{scheme}.png", full_page=True)
                        visit.page.context.close()
                        sys.stdout.write(f"{num_labels} labels, {width} px, {scheme}: {time.monotonic() - started:.0f} s\n")
    return 0


def opened(browser: Browser, shown: Exhibit, *, width: int, scheme: str) -> Visit:
    """The page in a browser of its own, once a model answers."""
    from playwright.sync_api import expect

    context = browser.new_context(
        viewport={"width": width, "height": WIDTHS.get(width, 900)},
        color_scheme=scheme,  # type: ignore[arg-type]
        has_touch=width < 640,
    )
    page = context.new_page()
    page.goto(shown.url)
    expect(page.locator("#model")).to_contain_text("desk version 1")
    return Visit(page, shown.url)


def classify_empty(visit: Visit, shown: Exhibit) -> None:
    """Open Classify as one finds it."""
    visit.open("Classify")


def classify(visit: Visit, shown: Exhibit) -> None:
    """Ask about a text, and why."""
    from playwright.sync_api import expect

    visit.open("Classify")
    visit.ask(shown.texts[0])
    expect(visit.part("answer").locator(".manta-label").first).to_be_visible()
    visit.part("why-button").click()
    expect(visit.part("why").locator(".manta-words").first).to_be_visible()


def correct(visit: Visit, shown: Exhibit) -> None:
    """Open Correct, at the least sure row of the file that was classified."""
    from playwright.sync_api import expect

    visit.open("Correct")
    expect(visit.part("queue-card").locator(".manta-queue")).to_be_visible()
    expect(visit.part("corrections")).not_to_contain_text("Looking for")


def batch(visit: Visit, shown: Exhibit) -> None:
    """Classify a file."""
    from playwright.sync_api import expect

    visit.open("Batch")
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "messages.csv"
        with rows.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("id", "message"), *enumerate(shown.texts[:60], start=1)])
        if visit.part("batch-table").locator("table").count():
            return
        visit.page.locator("#batch-file input[type=file]").set_input_files(rows)
        expect(visit.part("batch-start")).to_be_enabled()
        visit.part("batch-start").click()
        expect(visit.part("batch-table").locator("table")).to_be_visible()


def labels(visit: Visit, shown: Exhibit) -> None:
    """Open Labels, at a row whose label is in doubt."""
    from playwright.sync_api import expect

    visit.open("Labels")
    expect(visit.part("labels-card").locator(".manta-suspect")).to_be_visible()


def compare(visit: Visit, shown: Exhibit) -> None:
    """Compare two versions on a text."""
    from playwright.sync_api import expect

    visit.open("Compare")
    expect(visit.part("compare-right").locator("input")).to_have_value("2")
    visit.ask(shown.texts[1], box="compare-text")
    expect(visit.part("compare-answers").locator(".manta-answer").first).to_be_visible()


def models(visit: Visit, shown: Exhibit) -> None:
    """Open Models."""
    from playwright.sync_api import expect

    visit.open("Models")
    expect(visit.part("models-details").locator(".manta-confusion")).to_be_visible()


def tuning(visit: Visit, shown: Exhibit) -> None:
    """Open Tuning."""
    from playwright.sync_api import expect

    visit.open("Tuning")
    expect(visit.part("tuning-trials").locator("table")).to_be_visible()


def jobs(visit: Visit, shown: Exhibit) -> None:
    """Open Jobs."""
    from playwright.sync_api import expect

    visit.open("Jobs")
    expect(visit.part("jobs-table").locator("table")).to_be_visible()


SCENES: dict[str, Callable[[Visit, Exhibit], None]] = {
    "classify-empty": classify_empty,
    "classify": classify,
    "batch": batch,
    "correct": correct,
    "labels": labels,
    "compare": compare,
    "models": models,
    "tuning": tuning,
    "jobs": jobs,
}

if __name__ == "__main__":
    sys.exit(main())
