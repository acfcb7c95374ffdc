"""The API on a real socket, without Ray: in a thread, or the whole of it in a process.

The process is `python live_api.py MODEL STORAGE PORT SETTINGS [CANDIDATE]`. MODEL and CANDIDATE are folders of artifacts, versions
1 and 2. SETTINGS are those of `serve` as JSON. PORT may be 0. It prints its port and answers until its stdin is closed.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp

WAIT_S = 60.0


@contextmanager
def on_socket(app: ASGIApp) -> Iterator[str]:
    """The URL of an application that uvicorn serves on this machine, in a thread."""
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        deadline = time.monotonic() + WAIT_S
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(WAIT_S)


@contextmanager
def live_api(
    model: Path,
    storage: Path,
    *,
    log: Path,
    port: int = 0,
    settings: dict[str, Any] | None = None,
    candidate: Path | None = None,
    may_end: bool = False,
) -> Iterator[tuple[Popen[str], str]]:
    """The process and its URL."""
    command = [sys.executable, __file__, model, storage, str(port), json.dumps(settings or {}), *([candidate] if candidate else [])]
    with log.open("w") as errors, Popen(command, stdin=PIPE, stdout=PIPE, stderr=errors, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, f"http://127.0.0.1:{int(process.stdout.readline())}"
            assert may_end or process.poll() is None
        finally:
            process.kill()


def main(model: Path, storage: Path, port: int, settings: dict[str, Any], candidate: Path | None = None) -> None:
    """Serve until stdin is closed."""
    import uvicorn
    from untrained import service_of

    from manta.inference.artifact import ModelArtifact
    from manta.inference.predictor import Predictor
    from manta.storage.folders import Storage
    from manta_serve.access.guard import guarded
    from manta_serve.api.routes import create_api
    from manta_serve.feedback import FeedbackStore
    from manta_serve.versions.served_model import ServedModel

    folders = [model] if candidate is None else [model, candidate]
    served = [
        ServedModel(Predictor(ModelArtifact.load(folder), device="cpu"), name="desk", version=version)
        for version, folder in enumerate(folders, start=1)
    ]
    service = service_of(served[0], candidate=served[1] if candidate else None, **settings)
    if settings.get("feedback", True):
        service.feedback = FeedbackStore(Storage(storage), "desk", max_bytes=1 << 20)
    api = create_api(service)
    server = uvicorn.Server(
        uvicorn.Config(guarded(api, config=service.config, keys=None, metrics=service.metrics), log_config=None, access_log=False)
    )
    logging.basicConfig(level=logging.WARNING)
    listening = socket.create_server(("127.0.0.1", port))
    print(listening.getsockname()[1], flush=True)  # noqa: T201

    def stop_at_the_end() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=stop_at_the_end, daemon=True).start()
    server.run([listening])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]), *map(Path, sys.argv[5:]))
