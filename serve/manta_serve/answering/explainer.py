"""`Explainer`: explains answers outside the batcher, one at a time and at low priority, so that other answers do not wait.

Gradients need the safetensors weights. The first explanation loads them, whichever inference format answers.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from manta_serve.batching.low_priority import give_way
from manta_serve.http.problems import ApiProblem

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from manta.inference.artifact import ModelArtifact
    from manta.inference.attribution import Attributor, Explanation
    from manta.texts import Text

MOST_WAITING = 4
RETRY_S = 5


class Explainer:
    """An explainer for the answers of one replica. Its methods are for one event loop."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explain", initializer=give_way)
        self._num_asked = 0
        self._loaded: tuple[Path, Attributor] | None = None

    async def explain(
        self, artifact: ModelArtifact, texts: Sequence[Text], *, labels: Sequence[str], deadline_s: float
    ) -> list[Explanation]:
        """Return the words' contributions to each text's label. If the caller cancels or the deadline passes, computing stops.

        Raises:
            ApiProblem: too many requests wait for explanations (429), or the deadline passed (504).
        """
        if self._num_asked > MOST_WAITING:
            message = f"{MOST_WAITING} requests wait for explanations already; try again in {RETRY_S} s, or without explain."
            raise ApiProblem(429, "queue_full", message, headers={"Retry-After": str(RETRY_S)})
        self._num_asked += 1
        stop = threading.Event()
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._explained, artifact, texts, labels, stop)
        try:
            async with asyncio.timeout(deadline_s):
                return await work
        except TimeoutError:
            message = f"The texts could not be explained within {deadline_s:.3g} s; ask for fewer, or without explain."
            raise ApiProblem(504, "deadline", message) from None
        finally:
            stop.set()
            self._num_asked -= 1

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _explained(
        self, artifact: ModelArtifact, texts: Sequence[Text], labels: Sequence[str], stop: threading.Event
    ) -> list[Explanation]:
        from manta.inference.attribution import StoppedError

        if stop.is_set():
            return []
        attributor = self._attributor(artifact)
        try:
            return [
                attributor.explain(text, label=label, should_stop=stop.is_set) for text, label in zip(texts, labels, strict=True)
            ]
        except StoppedError:
            return []

    def _attributor(self, artifact: ModelArtifact) -> Attributor:
        """Return the attributor of a version. Only the last one is kept in memory; another version replaces it."""
        from manta.inference.attribution import Attributor

        if self._loaded is None or self._loaded[0] != artifact.path:
            self._loaded = None
            manifest = artifact.manifest
            self._loaded = (
                artifact.path,
                Attributor(
                    artifact.path, labels=manifest.label_space, max_length=manifest.max_length, long_texts=manifest.long_texts
                ),
            )
        return self._loaded[1]
