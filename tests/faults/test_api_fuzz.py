"""Twenty thousand bad requests: no 5xx, no hang, flat memory, a healthy service after. $MANTA_FUZZ_REQUESTS sets another number."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from manta.labels import LabelSpace

from ..serve.bad_bodies import VALID, bad_requests, send_all
from ..serve.live_api import live_api
from ..serve.untrained import artifact_of

if TYPE_CHECKING:
    from pathlib import Path

COUNT = int(os.environ.get("MANTA_FUZZ_REQUESTS", "20000"))
MOST_GROWTH_BYTES = 20 * 1024**2


@pytest.mark.timeout(1800)
def test_bad_requests_leave_no_trace(tiny_model: Path, tmp_path: Path) -> None:
    artifact = artifact_of(tiny_model, tmp_path / "model", labels=LabelSpace.from_labels(["account", "billing", "delivery"]))
    with live_api(artifact.path, tmp_path / "storage", log=tmp_path / "log") as (process, url):
        memory = psutil.Process(process.pid).memory_info
        assert send_all(url, bad_requests(COUNT // 10, seed=2))[1] == []
        before = memory().rss
        statuses, faults = send_all(url, bad_requests(COUNT, seed=3))
        assert faults == []
        assert statuses.total() == COUNT
        assert memory().rss - before < MOST_GROWTH_BYTES
        for path, body in VALID.items():
            assert httpx.post(url + path, json=body).status_code == 200
        assert httpx.get(f"{url}/readyz").status_code == 200
    log = (tmp_path / "log").read_text()
    assert not any(word in log for word in ("Traceback", "ERROR", "parcel", "charged"))
