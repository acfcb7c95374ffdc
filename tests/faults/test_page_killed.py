"""Nothing that the page started outlives it, also if the page itself is killed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest

from manta.storage.folders import Storage

from ..ui.recorded import record_versions
from ..ui.visits import chromium, page_process, visiting

if TYPE_CHECKING:
    from pathlib import Path

LATER_MS = 240_000


@pytest.mark.page
@pytest.mark.timeout(420)
def test_the_cluster_and_the_mlflow_server_end_with_a_killed_page(tiny_model: Path, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    storage = Storage(tmp_path / "storage")
    record_versions(storage, tmp_path, model=tiny_model)
    log = tmp_path / "log"
    with (
        page_process(storage.root, log=log, api="http://127.0.0.1:9") as url,
        chromium() as browser,
        visiting(browser, url, expect_faults=True) as visit,
    ):
        visit.open("Models")
        expect(visit.page.get_by_role("tabpanel").filter(visible=True)).to_contain_text("desk", timeout=LATER_MS)
        visit.open("Jobs")
        visit.part("jobs-yaml").locator("textarea").fill(
            "name: halted\ndata: {train: 'sample:support'}\ntrain: {num_epochs: 500}\n"
        )
        visit.part("jobs-train").click()
        expect(visit.part("jobs-status")).to_contain_text("halted-train-", timeout=LATER_MS)
        (page,) = (child for child in psutil.Process().children() if "ui" in child.cmdline())
        started = page.children(recursive=True)
        commands = [" ".join(process.cmdline()) for process in started]
        assert [word for word in ("mlflow server", "raylet/raylet", "gcs_server") if not any(word in it for it in commands)] == []
        page.kill()
        _, left = psutil.wait_procs(started, timeout=90)
        names = [process.name() for process in left if process.status() != psutil.STATUS_ZOMBIE]
        for process in left:
            process.kill()
        assert names == []
