"""Constant load on a service from connections of an asyncio client, and what each of them saw."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

PAUSE_S = 0.01
"""Of a connection between an answer and its next request: load that leaves the machine some breath."""
LOOK_S = 1.0
"""Between two looks at /readyz."""
HANG_S = 40.0
"""Longer than the service's deadline: whoever waits for as long was forgotten."""
Expected = dict[int, dict[str, dict[str, float]]]
"""For each version and text, the probability of each label."""


@dataclass(frozen=True)
class Asked:
    """One request and what became of it."""

    sent: float
    """On the monotonic clock."""
    ended: float
    status: int | None
    """None where the connection broke."""
    version: int | None = None
    is_right: bool = False
    """Tell whether the probabilities are that version's."""
    error: str = ""


@dataclass
class Connection:
    """One connection and its answers, in order. It is opened again after a break."""

    asked: list[Asked] = field(default_factory=list)

    @property
    def versions(self) -> list[int]:
        """The versions that answered, each as long as it did."""
        return [version for version, _ in itertools.groupby(item.version for item in self.asked if item.version is not None)]


class Load:
    """Begins at once, in a thread of its own; `stop` ends it when every request under way has come to its end."""

    def __init__(
        self,
        port: int,
        expected: Expected,
        *,
        num_connections: int = 8,
        key: str | None = None,
        heeds_readyz: bool = False,
        names_itself: bool = False,
    ) -> None:
        """With `heeds_readyz` it stops by itself when /readyz says no more that the service is ready, as load balancers do.

        With `names_itself` each connection says who asks, for a service that gives a candidate its share.
        """
        self.connections = [Connection() for _ in range(num_connections)]
        self._port, self._expected, self._key = port, expected, key
        self._texts = list(next(iter(expected.values())))
        self._stop = threading.Event()
        self._heeds_readyz, self._names_itself = heeds_readyz, names_itself
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()

    def stop(self) -> list[Asked]:
        """Everything that was asked, by any connection. One that heeds /readyz is waited for instead of stopped."""
        if not self._heeds_readyz:
            self._stop.set()
        self._thread.join(HANG_S + 10)
        assert not self._thread.is_alive()
        return self.asked

    @property
    def asked(self) -> list[Asked]:
        """The requests that are finished so far."""
        return [item for connection in self.connections for item in list(connection.asked)]

    def wait_for_answers(self, count: int, *, version: int | None = None, limit_s: float = 120.0) -> None:
        """Until each connection has so many more answers, of that version if one is given."""
        before = [len(connection.asked) for connection in self.connections]
        deadline = time.monotonic() + limit_s
        for connection, start in zip(self.connections, before, strict=True):
            while sum(version in (None, item.version) for item in list(connection.asked)[start:]) < count:
                assert time.monotonic() < deadline, self.summary()
                time.sleep(0.02)

    def summary(self) -> str:
        """A summary for the reader of a failed test."""
        kinds = Counter((item.status, item.version, item.is_right, item.error[:200]) for item in self.asked)
        return f"{kinds}; versions by connection: {[connection.versions for connection in self.connections]}"

    async def _run(self) -> None:
        looking = [self._stop_when_not_ready()] if self._heeds_readyz else []
        await asyncio.gather(*looking, *(self._ask(connection, number) for number, connection in enumerate(self.connections)))

    async def _stop_when_not_ready(self) -> None:
        while not self._stop.is_set():
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            if (await reader.readline()).split()[1] != b"200":
                self._stop.set()
            writer.close()
            await asyncio.sleep(LOOK_S)

    async def _ask(self, connection: Connection, number: int) -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        for turn in itertools.count(number):
            if self._stop.is_set():
                break
            text, sent = self._texts[turn % len(self._texts)], time.monotonic()
            try:
                async with asyncio.timeout(HANG_S):
                    if streams is None:
                        streams = await asyncio.open_connection("127.0.0.1", self._port)
                    status, closes, body = await self._exchanged(*streams, text, number)
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                connection.asked.append(Asked(sent, time.monotonic(), None, error=repr(error)))
                streams = None
                await asyncio.sleep(0.1)
                continue
            connection.asked.append(self._judged(text, sent, status, body))
            if closes:
                streams[1].close()
                streams = None
            await asyncio.sleep(PAUSE_S)
        if streams is not None:
            streams[1].close()

    async def _exchanged(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: str, number: int
    ) -> tuple[int, bool, bytes]:
        """An answer's status, whether the connection ends with it, and its body."""
        content = json.dumps({"text": text}).encode()
        key = f"Authorization: Bearer {self._key}\r\n" if self._key else ""
        key += f"Manta-Key: user-{number}\r\n" if self._names_itself else ""
        head = f"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1\r\n{key}Content-Type: application/json\r\n"
        head += f"Content-Length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = re.search(r"content-length: (\d+)", lines)
        body = b""
        if length is not None:
            body = await reader.readexactly(int(length.group(1)))
        else:
            while size := int(await reader.readline(), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
        return int(lines.split(" ", 2)[1]), "connection: close" in lines, body

    def _judged(self, text: str, sent: float, status: int, body: bytes) -> Asked:
        ended = time.monotonic()
        if status != 200:
            return Asked(sent, ended, status, error=body.decode(errors="replace"))
        answer = json.loads(body)
        version, scores = answer["model"]["version"], answer["predictions"][0]["scores"]
        wanted = self._expected[version][text]
        is_right = scores.keys() == wanted.keys() and all(abs(scores[name] - wanted[name]) < 1e-5 for name in wanted)
        return Asked(sent, ended, status, version, is_right)
