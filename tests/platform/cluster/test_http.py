"""A proxy in the environment is for the internet, not for this machine and its clusters."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from manta.cluster.http import proxy_of

if TYPE_CHECKING:
    from collections.abc import Iterator

PROXY = "http://127.0.0.1:9"  # where nobody is


@pytest.fixture
def dashboard() -> Iterator[str]:
    """Address of a server that answers as Ray's dashboard does for a cluster without jobs."""
    import ray

    class Dashboard(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = json.dumps({"ray_version": ray.__version__} if self.path == "/api/version" else []).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dashboard) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_jobs_are_listed_past_a_proxy_of_the_environment(dashboard: str) -> None:
    command = [sys.executable, "-m", "manta.cli", "jobs", "list", "--json", "--address", dashboard]
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), PROXY)
    done = subprocess.run(command, env=os.environ | proxies, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"jobs": []}


def test_a_proxy_of_our_own_is_for_what_is_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MANTA_PROXY", raising=False)
    monkeypatch.setenv("HTTP_PROXY", PROXY)
    assert proxy_of("http://10.0.0.5:8265") is None
    monkeypatch.setenv("MANTA_PROXY", PROXY)
    assert proxy_of("http://10.0.0.5:8265") == PROXY
    assert proxy_of("http://127.0.0.1:8265") is None
    assert proxy_of("http://localhost:8265") is None
