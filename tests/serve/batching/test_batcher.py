"""The batcher with real models and real threads, without Ray. What the computing thread does is held up by hand, not by time."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from manta.errors import InputError
from manta.inference.predictor import Predictor
from manta.labels import Floats, LabelSpace
from manta_serve.batching.batcher import BatchDone, ClosedError, DeadlineError, QueueFullError, TextBatcher, pieces
from manta_serve.versions.served_model import ServedModel

from ..untrained import artifact_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from manta.texts import TokenLists

LABELS = LabelSpace.from_labels(["account", "billing", "delivery"])
TEXTS = ["the parcel is late", "my password", "charged twice and now it is still of today", "card", "hello it is the driver"]
WAIT_S = 60.0


class HeldModel(ServedModel):
    """Computes only while `gate` is open, and remembers how many texts each batch had."""

    def __init__(self, predictor: Predictor, *, version: int = 1) -> None:
        super().__init__(predictor, name="desk", version=version)
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()
        self.sizes: list[int] = []
        self.poison: int | None = None

    def logits(self, tokens: TokenLists) -> Floats:
        self.sizes.append(len(tokens["input_ids"]))
        self.entered.set()
        assert self.gate.wait(WAIT_S)
        if any(self.poison in row for row in tokens["input_ids"]):
            raise RuntimeError("out of memory")
        return super().logits(tokens)


@pytest.fixture(scope="module")
def predictor(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("batching") / "model"
    return Predictor(artifact_of(tiny_model, folder, labels=LABELS), device="cpu")


@pytest.fixture
def model(predictor: Predictor) -> HeldModel:
    return HeldModel(predictor)


@pytest.fixture
def batcher(model: HeldModel) -> Iterator[TextBatcher]:
    made = TextBatcher(max_queued_texts=300)
    yield made
    model.gate.set()
    made.close()


def in_loop(work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(WAIT_S):
            await work()

    asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def held(batcher: TextBatcher, model: HeldModel) -> asyncio.Task[object]:
    """A request that the computing thread is busy with until the gate opens."""
    model.gate.clear()
    model.entered.clear()
    task: asyncio.Task[object] = asyncio.create_task(batcher.run(model, ["hello"], deadline_s=WAIT_S))
    await until(model.entered.is_set)
    return task


def test_every_request_gets_what_the_predictor_says_of_its_texts(
    batcher: TextBatcher, model: HeldModel, predictor: Predictor
) -> None:
    requests = [TEXTS, TEXTS[:1], TEXTS[2:4], TEXTS[::-1], *([text] for text in TEXTS * 8)]

    async def work() -> None:
        first = await held(batcher, model)
        tasks = [asyncio.create_task(batcher.run(model, texts, deadline_s=WAIT_S)) for texts in requests]
        num_texts = sum(map(len, requests))
        await until(lambda: len(batcher._queue) == num_texts)
        assert batcher.num_queued_texts == num_texts
        model.gate.set()
        await first
        for texts, done in zip(requests, await asyncio.gather(*tasks), strict=True):
            np.testing.assert_allclose(done.logits, predictor.logits(texts), atol=1e-5)
            assert done.queued_s >= 0
            assert done.computed_s > 0
        assert len(model.sizes) < len(requests)  # they shared batches
        assert batcher.num_queued_texts == 0

    in_loop(work)


def test_a_lone_request_is_one_batch(batcher: TextBatcher, model: HeldModel) -> None:
    in_loop(lambda: batcher.run(model, TEXTS[:1], deadline_s=WAIT_S))  # type: ignore[arg-type,return-value]
    assert model.sizes == [1]


def test_a_full_queue_refuses_and_says_when_to_come_again(batcher: TextBatcher, model: HeldModel) -> None:
    async def work() -> None:
        first = await held(batcher, model)
        waiting = asyncio.create_task(batcher.run(model, ["card"] * 300, deadline_s=WAIT_S))
        await until(lambda: batcher.num_queued_texts == 300)
        with pytest.raises(QueueFullError, match="300 texts wait already, and 300 may at most; try again in 1 s") as refused:
            await batcher.run(model, ["card"], deadline_s=WAIT_S)
        assert refused.value.retry_after_s == 1
        model.gate.set()
        await asyncio.gather(first, waiting)
        await batcher.run(model, ["card"] * 300, deadline_s=WAIT_S)

    in_loop(work)


def test_nothing_is_computed_for_requests_that_are_gone(batcher: TextBatcher, model: HeldModel) -> None:
    async def work() -> None:
        first = await held(batcher, model)
        gone = [asyncio.create_task(batcher.run(model, TEXTS, deadline_s=WAIT_S)) for _ in range(40)]
        await until(lambda: len(batcher._queue) == 200)
        for task in gone:
            task.cancel()
        results = await asyncio.gather(*gone, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        assert (batcher.num_queued_texts, len(batcher._queue)) == (0, 0)
        model.gate.set()
        await first
        await batcher.run(model, ["card"], deadline_s=WAIT_S)
        assert model.sizes == [1, 1]

    in_loop(work)


def test_a_client_that_goes_while_its_text_is_computed_harms_nobody(batcher: TextBatcher, model: HeldModel) -> None:
    async def work() -> None:
        first = await held(batcher, model)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        model.gate.set()
        done = await batcher.run(model, TEXTS, deadline_s=WAIT_S)
        assert done.logits.shape == (5, 3)

    in_loop(work)


def test_a_loop_that_ended_harms_nobody(batcher: TextBatcher, model: HeldModel) -> None:
    async def left() -> None:
        await held(batcher, model)  # asyncio.run cancels it and closes the loop

    in_loop(left)
    model.gate.set()
    in_loop(lambda: batcher.run(model, TEXTS, deadline_s=WAIT_S))  # type: ignore[arg-type,return-value]


def test_a_request_that_is_late_is_given_up(batcher: TextBatcher, model: HeldModel) -> None:
    async def work() -> None:
        first = await held(batcher, model)
        with pytest.raises(DeadlineError, match=r"no answer within 0\.05 s"):
            await batcher.run(model, TEXTS, deadline_s=0.05)
        assert (batcher.num_queued_texts, len(batcher._queue)) == (0, 0)
        model.gate.set()
        await first
        assert model.sizes == [1]

    in_loop(work)


def test_a_batch_that_fails_fails_its_own_requests_only(
    batcher: TextBatcher, model: HeldModel, caplog: pytest.LogCaptureFixture
) -> None:
    poison = ["password password"]
    model.poison = model.tokenise(poison)["input_ids"][0][1]

    async def work() -> None:
        first = await held(batcher, model)
        long = ["the a my is was please hello it and why now still today of the a my is was please hello it and why now still"]
        failing = asyncio.create_task(batcher.run(model, poison, deadline_s=WAIT_S))
        other = asyncio.create_task(batcher.run(model, long, deadline_s=WAIT_S))
        split = asyncio.create_task(batcher.run(model, poison + long * 40, deadline_s=WAIT_S))
        await until(lambda: len(batcher._queue) == 43)
        model.gate.set()
        results = await asyncio.gather(failing, split, return_exceptions=True)
        assert [str(result) for result in results] == ["out of memory"] * 2
        await asyncio.gather(first, other)
        await batcher.run(model, ["card"], deadline_s=WAIT_S)
        assert batcher.num_queued_texts == 0

    in_loop(work)
    assert "texts failed" in caplog.text


def test_two_versions_answer_their_own_requests(batcher: TextBatcher, model: HeldModel, tiny_model: Path, tmp_path: Path) -> None:
    other = Predictor(artifact_of(tiny_model, tmp_path / "other", labels=LABELS, seed=9), device="cpu")
    second = HeldModel(other, version=2)

    async def work() -> None:
        first = await held(batcher, model)
        tasks = [
            asyncio.create_task(batcher.run(version, [text], deadline_s=WAIT_S)) for text in TEXTS for version in (model, second)
        ]
        await until(lambda: len(batcher._queue) == 10)
        model.gate.set()
        results = await asyncio.gather(*tasks)
        await first
        for index, text in enumerate(TEXTS):
            for version, done in ((model, results[2 * index]), (second, results[2 * index + 1])):
                np.testing.assert_allclose(done.logits, version._predictor.logits([text]), atol=1e-5)

    in_loop(work)


def test_a_text_of_the_wrong_kind_is_refused_and_leaves_nothing(batcher: TextBatcher, model: HeldModel) -> None:
    async def work() -> None:
        with pytest.raises(InputError, match="reads single texts"):
            await batcher.run(model, [("a", "b")], deadline_s=WAIT_S)
        assert batcher.num_queued_texts == 0

    in_loop(work)


def test_batches_are_told_to_who_counts_them(model: HeldModel) -> None:
    seen: list[BatchDone] = []

    def count(batch: BatchDone) -> None:
        seen.append(batch)
        raise ValueError("the counter is broken")

    batcher = TextBatcher(max_queued_texts=10, on_batch=count)
    for _ in range(2):  # a broken counter stops nothing
        in_loop(lambda: batcher.run(model, ["card", "parcel"], deadline_s=WAIT_S))  # type: ignore[arg-type,return-value]
    batcher.close()
    assert [(batch.num_texts, batch.num_tokens) for batch in seen] == [(2, 6), (2, 6)]


def test_what_waits_when_it_is_closed_is_told_so(model: HeldModel) -> None:
    batcher = TextBatcher(max_queued_texts=10)

    async def work() -> None:
        first = await held(batcher, model)
        waiting = asyncio.create_task(batcher.run(model, ["card"], deadline_s=WAIT_S))
        await until(lambda: len(batcher._queue) == 1)
        closing = asyncio.get_running_loop().run_in_executor(None, batcher.close)
        model.gate.set()
        await asyncio.gather(first, closing)
        with pytest.raises(ClosedError):
            await waiting
        with pytest.raises(ClosedError):
            await batcher.run(model, ["card"], deadline_s=WAIT_S)

    in_loop(work)


def test_much_text_is_tokenised_in_pieces() -> None:
    texts = ["x" * 9_000] * 5 + ["y" * 50_000, "z"]
    found = list(pieces(texts))
    assert [len(piece) for piece in found] == [2, 2, 1, 1, 1]
    assert [text for piece in found for text in piece] == texts


def test_texts_that_repeat_in_a_batch_are_computed_once(model: HeldModel) -> None:
    async def answered() -> tuple[Floats, Floats]:
        batcher = TextBatcher(max_queued_texts=100)
        try:
            model.gate.clear()
            first = asyncio.ensure_future(batcher.run(model, ["card"], deadline_s=WAIT_S))
            await asyncio.to_thread(model.entered.wait, WAIT_S)  # the others wait for it, so they are one batch
            others = [
                asyncio.ensure_future(batcher.run(model, texts, deadline_s=WAIT_S)) for texts in (TEXTS[:2] * 3, TEXTS[1::-1])
            ]
            while batcher.num_queued_texts < 8 or len(batcher._queue) < 8:
                await asyncio.sleep(0.005)
            model.gate.set()
            await first
            one, other = [(await item).logits for item in others]
            return one, other
        finally:
            batcher.close()

    one, other = asyncio.run(answered())
    assert sum(model.sizes[1:]) == 2
    expected = model.logits(model.tokenise(TEXTS[:2]))
    assert np.allclose(one, np.concatenate([expected] * 3), atol=1e-5)
    assert np.allclose(other, expected[::-1], atol=1e-5)
