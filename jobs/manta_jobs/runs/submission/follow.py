"""Following a job: its output as it comes, and its result."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from manta.cluster.http import proxy_of
from manta.cluster.job import MARK
from manta.cluster.jobs_api import last_line
from manta.errors import InputError, RunError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from manta.cluster.connections import Connection
    from manta.cluster.jobs_api import Job, JobsApi

ASK_AGAIN_S = 1.0
CONNECT_TIMEOUT_S = 10.0


@dataclass
class Transcript:
    """A job's output, split into lines for people and messages for `manta submit`."""

    show: Callable[[str], None]
    result: dict[str, Any] | None = None
    error: str | None = None
    _num_seen: int = 0
    _rest: str = field(default="", repr=False)

    @property
    def has_begun(self) -> bool:
        """True once the job has printed something."""
        return self._num_seen > 0

    def add(self, text: str) -> None:
        """Add the next piece of output."""
        self._num_seen += len(text)
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._line(line)

    def end(self) -> None:
        """End the output, and handle its last line even without a newline."""
        if self._rest:
            self._line(self._rest)
            self._rest = ""

    async def follow(self, api: JobsApi, job_id: str) -> Job:
        """Add the output until the job is over. A lost connection is made again, and nothing is shown twice."""
        while True:
            skip = self._num_seen
            async for text in output_of(job_id, api.connection):
                new = text[skip:]
                skip = max(0, skip - len(text))
                if new:
                    self.add(new)
            job = await asyncio.to_thread(api.job, job_id)
            if job.is_over:
                # The stream may end before the last lines were written.
                whole = await asyncio.to_thread(api.logs, job_id)
                self.add(whole[self._num_seen :])
                self.end()
                return job
            await asyncio.sleep(ASK_AGAIN_S)

    def _line(self, line: str) -> None:
        if line.startswith(MARK):
            said = json.loads(line.removeprefix(MARK))
            self.result, self.error = said.get("result"), said.get("error")
        elif line.strip():
            self.show(line)


async def output_of(job_id: str, connection: Connection) -> AsyncIterator[str]:
    """Yield the job's output from its start, until the job or the connection ends."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S)
    address = f"{connection.address}/api/jobs/{job_id}/logs/tail"
    try:
        async with (
            aiohttp.ClientSession(headers=connection.headers, timeout=timeout) as session,
            session.ws_connect(address, heartbeat=30.0, proxy=proxy_of(address)) as stream,
        ):
            async for message in stream:
                if message.type == aiohttp.WSMsgType.TEXT:
                    yield message.data
    except (aiohttp.ClientError, TimeoutError, OSError):
        return


def outcome(job: Job, transcript: Transcript) -> dict[str, Any]:
    """Return the verb's own result from a job that is over.

    Raises:
        InputError: the config or the input was wrong.
        RunError: it failed or was stopped; the message is the cause.
    """
    if job.status == "STOPPED":
        raise RunError(f"{job.id} was stopped.")
    if job.status == "SUCCEEDED" and transcript.result is not None:
        return transcript.result
    kind = InputError if job.exit_code == InputError.exit_code and transcript.error else RunError
    raise kind(transcript.error or last_line(job.message))
