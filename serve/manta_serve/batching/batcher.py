"""`TextBatcher`: gathers the texts of all requests and runs them in batches of similar length, limited by tokens.

    batcher = TextBatcher(max_queued_texts=1024)
    done = await batcher.run(model, ["Where is my parcel?"], deadline_s=30)

Tokenization has its own thread, and so has computing; the event loop does neither. A batch never waits for more texts: when the
computing thread is free, it takes texts that are already waiting. `TextQueue` chooses them. Of the texts of a batch with the same
tokens, one is computed.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from manta.errors import MantaError
from manta_serve.batching.text_queue import QueuedRequest, QueuedText, TextQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from manta.labels import Floats
    from manta.texts import Text, TokenLists
    from manta_serve.versions.served_model import ServedModel

PIECE_CHARACTERS = 20_000
"""Characters tokenized at a time, approximately: some milliseconds of work. Other requests' texts can be tokenized in between."""
RATE_MEMORY = 0.9
"""Weight of the old value when a batch updates the moving average of seconds per text."""
MOST_RETRY_S = 60
logger = logging.getLogger(__name__)


class QueueFullError(MantaError):
    """Error: too many texts are already waiting (429)."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineError(MantaError):
    """Error: there was no answer in time (504)."""


class ClosedError(MantaError):
    """Error: the batcher was closed before it computed the request."""


@dataclass(frozen=True)
class Done:
    """Result of one request."""

    logits: Floats
    """`(texts, labels)`, in the order of the texts."""
    queued_s: float
    """Seconds from its arrival until computing of its first text starts."""
    computed_s: float
    """Seconds from then until its last text is computed."""


@dataclass(frozen=True)
class BatchDone:
    """One computed batch."""

    model: ServedModel
    num_texts: int
    num_tokens: int
    """Including padding."""
    computed_s: float


class TextBatcher:
    """A batcher that computes the texts of many requests at once. Event loops call its methods; `close` ends its two threads."""

    def __init__(self, *, max_queued_texts: int, on_batch: Callable[[BatchDone], None] | None = None) -> None:
        """Start the threads. `on_batch` is called on the computing thread after each batch, and must be quick."""
        self._max_queued_texts = max_queued_texts
        self._on_batch = on_batch
        self._queue = TextQueue()
        self._num_queued = 0
        self._text_s = 0.0
        self._closed = False
        # Guards the queue, the counts and the flag above. Notified when texts arrive and on close.
        self._changed = threading.Condition()
        self._tokenising = ThreadPoolExecutor(1, thread_name_prefix="tokenise")
        self._computing = threading.Thread(target=self._compute, name="compute", daemon=True)
        self._computing.start()

    @property
    def num_queued_texts(self) -> int:
        """Number of accepted texts whose computing has not started."""
        return self._num_queued

    async def run(self, model: ServedModel, texts: Sequence[Text], *, deadline_s: float) -> Done:
        """Return the logits of at least one text or pair. If the caller cancels or the deadline passes, no more texts are computed.

        Raises:
            InputError: a text is of the wrong kind for the model.
            QueueFullError: too many texts are already waiting.
            DeadlineError: there was no answer in time.
            ClosedError: the batcher was closed.
        """
        work = self._accepted(model, len(texts))
        try:
            async with asyncio.timeout(deadline_s) as deadline:
                row = 0
                for piece in pieces(texts):
                    tokens = await work.loop.run_in_executor(self._tokenising, model.tokenise, piece)
                    if work.done.done():
                        break  # one of its texts failed already
                    self._add(work, tokens, first_row=row)
                    row += len(piece)
                return await work.done
        except TimeoutError:
            if not deadline.expired():
                raise
            raise DeadlineError(f"there was no answer within {deadline_s:.2g} s; try again later, or with fewer texts.") from None
        finally:
            self._forget(work)

    def close(self) -> None:
        """End the threads. Waiting texts fail with `ClosedError`."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._computing.join()
        self._tokenising.shutdown(cancel_futures=True)

    def _accepted(self, model: ServedModel, num_texts: int) -> _Work:
        with self._changed:
            if self._closed:
                raise ClosedError("the service is stopping.")
            waiting = self._num_queued
            if waiting + num_texts > self._max_queued_texts:
                seconds = min(max(1, math.ceil(waiting * self._text_s)), MOST_RETRY_S)
                raise QueueFullError(
                    f"{waiting} texts wait already, and {self._max_queued_texts} may at most; try again in {seconds} s.",
                    retry_after_s=seconds,
                )
            self._num_queued += num_texts
            return _Work(model, num_texts, arrived=self._queue.clock)

    def _add(self, work: _Work, tokens: TokenLists, *, first_row: int) -> None:
        with self._changed:
            if self._closed:
                raise ClosedError("the service is stopping.")
            self._queue.add(work.request, tokens, first_row=first_row)
            self._changed.notify()

    def _forget(self, work: _Work) -> None:
        work.done.cancel()
        with self._changed:
            self._queue.remove(work.request)
            self._num_queued -= work.num_queued
            work.num_queued = 0

    def _compute(self) -> None:
        """Compute batch after batch on the computing thread, until closed."""
        while self._compute_next():
            pass
        for work in {text.request.owner: None for text in self._queue}:
            work.fail(ClosedError("the service is stopping."))

    def _compute_next(self) -> bool:
        """Wait for a batch and compute it; return False once closed. An error in a batch must not end the thread."""
        batch = self._taken()
        if not batch:
            return False
        works = {text.request.owner: None for text in batch}
        texts, places = distinct(batch)
        started = time.monotonic()
        try:
            logits = batch[0].request.model.logits(merged(texts))
        except Exception as error:
            logger.exception("a batch of %d texts failed", len(batch))
            for work in works:
                work.fail(error)
            return True
        ended = time.monotonic()
        for text, place in zip(batch, places, strict=True):
            text.request.owner.fill(text.row, logits[place])
        for work in works:
            work.computed(started=started, ended=ended)
        self._account(batch, ended - started, num_distinct=len(texts))
        return True

    def _taken(self) -> list[QueuedText]:
        """Wait for the next batch and return it; return an empty list once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._queue) > 0)
            if self._closed:
                return []
            batch = self._queue.take()
            self._num_queued -= len(batch)
            for text in batch:
                text.request.owner.num_queued -= 1
            return batch

    def _account(self, batch: list[QueuedText], computed_s: float, *, num_distinct: int) -> None:
        text_s = computed_s / len(batch)
        self._text_s = RATE_MEMORY * self._text_s + (1 - RATE_MEMORY) * text_s if self._text_s else text_s
        if self._on_batch is None:
            return
        num_tokens = num_distinct * max(text.length for text in batch)
        try:
            self._on_batch(BatchDone(batch[0].request.model, len(batch), num_tokens, computed_s))
        except Exception:
            logger.exception("a batch was not counted")


class _Work:
    """One request in progress.

    `done` belongs to its event loop. The batcher's lock guards `request` and `num_queued`. The computing thread changes the rest.
    """

    def __init__(self, model: ServedModel, num_texts: int, *, arrived: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[Done] = self.loop.create_future()
        self.request = QueuedRequest(model, arrived=arrived, owner=self)
        self.num_queued = num_texts
        self._arrived_at = time.monotonic()
        self._started_at: float | None = None
        self._rows: list[Floats | None] = [None] * num_texts
        self._num_missing = num_texts

    def fill(self, row: int, logits: Floats) -> None:
        self._rows[row] = logits
        self._num_missing -= 1

    def computed(self, *, started: float, ended: float) -> None:
        """Record that some of its texts were computed. If they were the last ones, settle `done` with the result."""
        if self._started_at is None:
            self._started_at = started
        if self._num_missing == 0:
            rows = [row for row in self._rows if row is not None]
            queued_s, computed_s = self._started_at - self._arrived_at, ended - self._started_at
            self._tell(lambda: self.done.set_result(Done(np.stack(rows), queued_s, computed_s)))

    def fail(self, error: Exception) -> None:
        """Settle `done` with an error."""
        self._tell(lambda: self.done.set_exception(error))

    def _tell(self, settle: Callable[[], None]) -> None:
        """Settle `done` on its event loop. Do nothing if it is settled already (the client left) or if the loop is closed."""

        def settle_once() -> None:
            if not self.done.done():
                settle()

        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(settle_once)


def pieces(texts: Sequence[Text]) -> Iterator[list[Text]]:
    """Yield the texts in order, in lists of about PIECE_CHARACTERS characters, or of one text."""
    piece: list[Text] = []
    size = 0
    for text in texts:
        length = len(text) if isinstance(text, str) else len(text[0]) + len(text[1])
        if piece and size + length > PIECE_CHARACTERS:
            yield piece
            piece, size = [], 0
        piece.append(text)
        size += length
    yield piece


def distinct(batch: Sequence[QueuedText]) -> tuple[list[QueuedText], list[int]]:
    """Return the texts of a batch without those that repeat another's tokens, and for each of the batch its index among them."""
    found: dict[tuple[tuple[int, ...], ...], int] = {}
    texts: list[QueuedText] = []
    places = []
    for text in batch:
        place = found.setdefault(tuple(map(tuple, text.tokens.values())), len(texts))
        if place == len(texts):
            texts.append(text)
        places.append(place)
    return texts, places


def merged(batch: Sequence[QueuedText]) -> TokenLists:
    """Return the tokens of a batch, in its order."""
    return {name: [text.tokens[name] for text in batch] for name in batch[0].tokens}
