"""Some hundred bad requests on a real socket; `tests/faults/test_api_fuzz.py` sends many more."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import httpx
import pytest

from manta.labels import LabelSpace

from ..bad_bodies import VALID, bad_requests, send_all
from ..live_api import live_api
from ..untrained import artifact_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API on a real socket, with a log that shows no fault and no text."""
    folder = tmp_path_factory.mktemp("live")
    artifact = artifact_of(tiny_model, folder / "model", labels=LabelSpace.from_labels(["account", "billing", "delivery"]))
    with live_api(artifact.path, folder / "storage", log=folder / "log") as (_, address):
        yield address
    log = (folder / "log").read_text()
    assert not any(word in log for word in ("Traceback", "ERROR", "parcel", "charged"))


def test_bad_requests_are_refused_one_by_one(url: str) -> None:
    statuses, faults = send_all(url, bad_requests(400, seed=1))
    assert faults == []
    assert {400, 413, 415, 422} <= set(statuses)
    for path, body in VALID.items():
        assert httpx.post(url + path, json=body).status_code == 200
    assert httpx.get(f"{url}/readyz").status_code == 200


def test_a_client_that_goes_halfway_costs_nothing(url: str) -> None:
    address = (url.removeprefix("http://").split(":")[0], int(url.rsplit(":", 1)[1]))
    head = b"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    for rest in (b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n5\r\n{", b""):
        with socket.create_connection(address) as connection:
            connection.sendall(head + rest)
    assert httpx.post(f"{url}/v1/classify", json={"text": "my parcel"}).status_code == 200
