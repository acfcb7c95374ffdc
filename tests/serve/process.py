"""`manta serve` as a process of its own, with all that Ray starts for it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manta.storage.folders import Storage

WAIT_S = 240.0
PORTS = Path(__file__).parents[2] / "docs" / "security.md"


@contextmanager
def running(*arguments: str, storage: Storage, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The process, once it answers. It is killed at the end, with all that it started."""
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "manta.cli", "serve", *arguments],
            stdout=output,
            stderr=output,
            env=os.environ | {"MANTA_STORAGE": str(storage.root)},
            start_new_session=True,
        )
    try:
        until(lambda: "Ctrl-C stops it" in log.read_text() or process.poll() is not None, what="a service that answers")
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        if process.poll() is None:
            for child in reversed(processes_of(process)):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            process.wait(30)


def until(condition: object, *, what: str, limit_s: float = WAIT_S) -> None:
    """Wait until `condition()` is true."""
    deadline = time.monotonic() + limit_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def leave(port: int, sent: bytes, *, at_once: bool) -> None:
    """Send a part of a request or all of it, and leave: at once, or after saying only that nothing more will come."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(sent)
        if not at_once:
            client.shutdown(socket.SHUT_WR)
            client.recv(100)


def processes_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The process and everything that it started."""
    found = psutil.Process(process.pid)
    return [found, *found.children(recursive=True)]


def listening(process: subprocess.Popen[bytes]) -> set[tuple[str, str]]:
    """Each kind of process that listens, and from where it is reached, in the words of docs/security.md."""
    found = set()
    for item in processes_of(process):
        try:
            command, connections = " ".join(item.cmdline()), item.net_connections("tcp")
        except psutil.Error:
            continue
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN:
                is_local = connection.laddr.ip.removeprefix("::ffff:").startswith("127.") or connection.laddr.ip == "::1"
                found.add((_kind(command, connection.laddr.ip), "this machine" if is_local else "every interface"))
    return found


def _kind(command: str, address: str) -> str:
    """HTTP is bound to an IPv4 address; Ray's gRPC to one that takes IPv6, too."""
    is_http = ":" not in address
    if "haproxy -db" in command:
        return "HAProxy"
    if "ServeReplica" in command:
        return "replica" if is_http else "calls between replicas" if address == "::" else "Ray"
    return "proxy" if "ProxyActor" in command and is_http else "Ray"


def documented(profile: str) -> set[tuple[str, str]]:
    """The rows of the table of ports for this profile."""
    lines = [line for line in PORTS.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {(row[0], row[2]) for row in rows if profile in row[-1].split(", ")}
