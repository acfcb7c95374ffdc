"""Every tab on a phone and on a desk, light and dark: no text is cut or overlaps, and axe finds nothing serious."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ..gallery import SCENES, opened
from ..layout import layout_faults
from ..visits import chromium, violations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

    from ..exhibits import Exhibit

AT_ONCE = "*, *::before, *::after { transition: none !important; animation: none !important }"
"""Style that shows the colors of the other theme without a fade."""
pytestmark = [pytest.mark.page, pytest.mark.server, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.mark.parametrize("width", [375, 1280])
def test_no_text_is_cut_or_overlaps_and_all_can_be_read(width: int, shown: Exhibit, browser: Browser) -> None:
    visit = opened(browser, shown, width=width, scheme="light")
    visit.page.add_style_tag(content=AT_ONCE)
    faults = []
    for name, go in SCENES.items():
        go(visit, shown)
        faults += [f"{name}: {fault}" for fault in layout_faults(visit.page)]
        for scheme in ("light", "dark"):
            faults += [f"{name}, {scheme}: {fault}" for fault in violations(visit)]
            visit.page.locator("button[data-manta=theme]").click()
    visit.page.context.close()
    assert not faults, "\n".join(faults)


def test_faults_are_found(browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 375, "height": 600})
    page.set_content(
        """<div style="width: 60px; overflow: hidden; white-space: nowrap">words that are cut</div>
        <p style="position: absolute; top: 100px; left: 20px">one text</p>
        <p style="position: absolute; top: 103px; left: 30px">another</p>
        <p style="position: absolute; top: 200px; left: 340px; white-space: nowrap">words out of sight</p>
        <div style="width: 300px"><p>fine</p></div>"""
    )
    found = layout_faults(page)
    page.close()
    kinds = {fault.partition(":")[0] for fault in found}
    assert {"cut", "overlap", "out of sight"} <= kinds
    assert not any("fine" in fault for fault in found)
