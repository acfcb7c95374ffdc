"""The clients: `wrk` for sentences of like length, and our own for a stream of texts, for short and long ones, at an even pace."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SCRIPT = """
local bodies = {{}}
for line in io.lines("{bodies}") do bodies[#bodies + 1] = line end
local headers = {{ ["Content-Type"] = "application/json"{authorization} }}
local next = 0
request = function()
  next = next % #bodies + 1
  return wrk.format("{method}", "{path}", headers, bodies[next])
end
done = function(summary, latency, requests)
  io.write(string.format("RESULT %d %d %d %d %d\\n", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout))
end
"""


@dataclass(frozen=True)
class Target:
    """Destination of the requests."""

    port: int
    path: str
    key: str | None = None
    """An API key."""
    method: str = "POST"


@dataclass(frozen=True)
class Load:
    """Results that a client saw."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    num_errors: int


def wrk(target: Target, texts: list[str], *, connections: int, seconds: float, folder: Path) -> Load:
    """One thread of wrk with so many connections, each of which sends its next request when it has its answer.

    Raises:
        FileNotFoundError: wrk is not installed.
    """
    if shutil.which("wrk") is None:
        raise FileNotFoundError("wrk is not installed; on Debian: apt-get install wrk")
    bodies, script = folder / "bodies.jsonl", folder / "wrk.lua"
    bodies.write_text("".join(json.dumps({"texts": [text]}) + "\n" for text in texts), encoding="utf-8")
    authorization = f', ["Authorization"] = "Bearer {target.key}"' if target.key else ""
    script.write_text(
        SCRIPT.format(bodies=bodies, method=target.method, path=target.path, authorization=authorization), encoding="utf-8"
    )
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "60s", "-s", str(script)]
    output = subprocess.run([*command, f"http://127.0.0.1:{target.port}"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", output)
    if found is None:
        raise ValueError(f"wrk said nothing of its result: {output[-500:]}")
    num_requests, duration_us, p50_us, p99_us, num_errors = map(int, found.groups())
    return Load(num_requests / duration_us * 1e6, p50_us / 1e3, p99_us / 1e3, num_errors)


def mixed(target: Target, texts: list[str], long_text: str, *, connections: int, seconds: float) -> dict[str, Load]:
    """Every tenth request has the long text: what the short ones and the long ones saw."""
    return asyncio.run(_mixed(target, texts, long_text, connections=connections, seconds=seconds))


async def _mixed(target: Target, texts: list[str], long_text: str, *, connections: int, seconds: float) -> dict[str, Load]:
    took: dict[str, list[float]] = {"short": [], "long": []}
    errors = {"short": 0, "long": 0}
    number = 0
    started = time.perf_counter()

    async def client() -> None:
        nonlocal number
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
        while time.perf_counter() - started < seconds:
            number += 1
            kind, text = ("long", long_text) if number % 10 == 0 else ("short", texts[number % len(texts)])
            sent = time.perf_counter()
            writer.write(_request(target, text))
            status = await _status(reader)
            took[kind].append(time.perf_counter() - sent)
            errors[kind] += status != 200
        writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    elapsed = time.perf_counter() - started
    return {kind: _load(times, elapsed, errors[kind]) for kind, times in took.items() if times}


def closed(target: Target, texts: Iterator[str], *, connections: int, seconds: float) -> Load:
    """So many connections, each of which sends the next text when it has its answer."""
    return asyncio.run(_closed(target, texts, connections=connections, seconds=seconds))


async def _closed(target: Target, texts: Iterator[str], *, connections: int, seconds: float) -> Load:
    took: list[float] = []
    num_errors = 0
    started = time.perf_counter()

    async def client() -> None:
        nonlocal num_errors
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
        while (sent := time.perf_counter()) - started < seconds:
            writer.write(_request(target, next(texts)))
            num_errors += await _status(reader) != 200
            took.append(time.perf_counter() - sent)
        writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return _load(took, time.perf_counter() - started, num_errors)


def steady(target: Target, texts: list[str], *, connections: int, rate: float, seconds: float) -> Load:
    """So many requests a second at even intervals. A connection that breaks is an error, and is opened again."""
    return asyncio.run(_steady(target, texts, connections=connections, rate=rate, seconds=seconds))


async def _steady(target: Target, texts: list[str], *, connections: int, rate: float, seconds: float) -> Load:
    took: list[float] = []
    num_errors = 0
    started = time.perf_counter()

    async def client(number: int) -> None:
        nonlocal num_errors
        streams = None
        for turn in range(number, int(rate * seconds), connections):
            await asyncio.sleep(max(0.0, started + turn / rate - time.perf_counter()))
            sent = time.perf_counter()
            try:
                streams = streams or await asyncio.open_connection("127.0.0.1", target.port)
                streams[1].write(_request(target, texts[turn % len(texts)]))
                num_errors += await _status(streams[0]) != 200
                took.append(time.perf_counter() - sent)
            except (OSError, asyncio.IncompleteReadError):
                num_errors += 1
                streams = None
        if streams is not None:
            streams[1].close()

    await asyncio.gather(*(client(number) for number in range(connections)))
    return _load(took, time.perf_counter() - started, num_errors)


def _load(times: list[float], elapsed_s: float, num_errors: int) -> Load:
    cuts = statistics.quantiles(times, n=100, method="inclusive") if len(times) > 1 else times * 99
    return Load(len(times) / elapsed_s, cuts[49] * 1e3, cuts[98] * 1e3, num_errors)


def _request(target: Target, text: str) -> bytes:
    body = json.dumps({"texts": [text]}).encode()
    key = f"Authorization: Bearer {target.key}\r\n" if target.key else ""
    head = f"POST {target.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{key}Content-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


async def _status(reader: asyncio.StreamReader) -> int:
    """Read one answer to its end."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = re.search(r"content-length: (\d+)", head)
    if length is not None:
        await reader.readexactly(int(length.group(1)))
    else:
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    return int(head.split(" ", 2)[1])
