"""`Service`: the layer behind the HTTP routes, one for each model of a replica.

A plain class, so that tests can use it without Ray or a socket.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from manta.errors import MantaError
from manta_serve.batching.answer import Answer
from manta_serve.batching.batcher import DeadlineError, Done
from manta_serve.monitoring.service_metrics import ServiceMetrics

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from starlette.requests import Request

    from manta.config import ServeConfig
    from manta.texts import Text
    from manta_serve.answering.shadow import Shadow
    from manta_serve.batching.answer_cache import AnswerCache
    from manta_serve.batching.batcher import TextBatcher
    from manta_serve.feedback import FeedbackStore
    from manta_serve.monitoring.traffic_sample import TrafficSample
    from manta_serve.versions.choice import Models
    from manta_serve.versions.served_model import ServedModel

T = TypeVar("T")


class ClientGoneError(MantaError):
    """Error: the client disconnected before it was answered (499)."""


class Service:
    """A service that answers requests with the versions of one model."""

    def __init__(
        self,
        models: Models,
        batcher: TextBatcher,
        *,
        config: ServeConfig,
        metrics: ServiceMetrics,
        shadow: Shadow | None = None,
        cache: AnswerCache | None = None,
        feedback: FeedbackStore | None = None,
        sample: TrafficSample | None = None,
    ) -> None:
        """Take over the parts, which `close` ends. Other models' services may share the batcher, the metrics and the cache.

        Without a shadow, no candidate is compared; without a cache, every text is computed; without a store, feedback is refused;
        without a sample, no text is kept.
        """
        self.models = models
        self.batcher = batcher
        self.config = config
        self.metrics = metrics
        self.shadow = shadow
        self.cache = cache
        self.feedback = feedback
        self.sample = sample
        self._draining = False

    @property
    def name(self) -> str:
        """Name of the registered model."""
        return self.models.current.name

    @property
    def ready(self) -> bool:
        """True while requests should be sent here. A service that exists has its models loaded and warm."""
        return not self._draining

    def drain(self) -> None:
        """Report not ready, so that other replicas get the next requests. Requests that still arrive are answered."""
        self._draining = True

    def close(self) -> None:
        """End the threads. After that, nothing can be answered."""
        self.models.stop()
        if self.shadow is not None:
            self.shadow.close()
        self.batcher.close()

    async def choose(
        self, *, request_key: str | None = None, version: int | None = None, deadline_s: float | None = None
    ) -> ServedModel:
        """Return the version that answers a request. A pinned version is loaded within the deadline if needed.

        Raises:
            NotLoadedError, UnknownVersionError, RefusedVersionError, BusyLoadingError: the pinned version is not available.
            DeadlineError: the version was not loaded in time.
        """
        deadline_s = deadline_s or self.config.deadline_s
        try:
            async with asyncio.timeout(deadline_s) as deadline:
                return await self.models.choose(request_key=request_key, version=version)
        except TimeoutError:
            if not deadline.expired():
                raise
            raise DeadlineError(f"the version was not loaded within {deadline_s:g} s; try again later.") from None

    async def classify(
        self, texts: Sequence[Text], *, request_key: str | None = None, version: int | None = None, deadline_s: float | None = None
    ) -> Answer:
        """Return the predictions of at least one text or pair, all by one version.

        Args:
            texts: the texts or pairs to classify.
            request_key: identifies the client; the same key gets the same version while the traffic split stays the same.
            version: the version that must answer, regardless of the traffic split.
            deadline_s: seconds until the request fails; the config's deadline if that is sooner or none is given.

        Raises:
            InputError: a text is of the wrong kind for the model.
            NotLoadedError, UnknownVersionError, RefusedVersionError, BusyLoadingError: the pinned version is not available.
            QueueFullError: too many texts are already waiting.
            DeadlineError: there was no answer in time.
        """
        deadline_s = min(deadline_s or self.config.deadline_s, self.config.deadline_s)
        started = time.monotonic()
        model = await self.choose(request_key=request_key, version=version, deadline_s=deadline_s)
        left_s = deadline_s - (time.monotonic() - started)
        done, num_computed = await self._computed(model, texts, deadline_s=left_s)
        answer = Answer(
            model,
            model.predictions(done.outputs),
            done.outputs[:, : len(model.manifest.labels)],
            num_computed,
            queued_s=done.queued_s,
            computed_s=done.computed_s,
        )
        self.metrics.answer(answer)
        if self.sample is not None:
            self.sample.add(texts, answer)
        if self.shadow is not None and num_computed > 0:
            self.shadow.offer(texts, answer)
        return answer

    async def _computed(self, model: ServedModel, texts: Sequence[Text], *, deadline_s: float) -> tuple[Done, int]:
        """Return the outputs, and the number of texts that were computed: those that the cache does not have."""
        if self.cache is None:
            return await self.batcher.run(model, texts, deadline_s=deadline_s), len(texts)
        known = self.cache.find(model, texts)
        missing = [text for text, row in zip(texts, known, strict=True) if row is None]
        if not missing:
            return Done(np.stack([row for row in known if row is not None]), queued_s=0.0, computed_s=0.0), 0
        done = await self.batcher.run(model, missing, deadline_s=deadline_s)
        self.cache.add(model, missing, done.outputs)
        computed = iter(done.outputs)
        return replace(done, outputs=np.stack([next(computed) if row is None else row for row in known])), len(missing)


async def until_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`, and cancel it if the client disconnects.

    Neither FastAPI nor Starlette does this. The request's body must have been read already.

    Raises:
        ClientGoneError: the client disconnected first, so an answer would not be read.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError("the client went before it was answered.")
    finally:
        task.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
