"""The order and batches in which texts are computed; time is counted in tokens and batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from manta_serve.batching.text_queue import PATIENCE, QueuedRequest, TextQueue, like_length


@dataclass(frozen=True)
class Bound:
    """All that the queue asks of a model."""

    name: str = "desk"
    batch_tokens: int = 64


DESK: Any = Bound()


def added(queue: TextQueue, *lengths: int, model: Any = DESK, owner: str = "") -> QueuedRequest:
    request = QueuedRequest(model, arrived=queue.clock, owner=owner)
    queue.add(request, {"input_ids": [[7] * length for length in lengths]})
    return request


def owners(queue: TextQueue) -> list[list[str]]:
    """The owners of each batch, until the queue is empty."""
    batches = []
    while len(queue):
        batches.append([text.request.owner for text in queue.take()])
    return batches


def test_texts_of_all_requests_share_batches_of_like_length() -> None:
    queue = TextQueue()
    for length in (30, 5, 31, 6, 5, 32, 6):
        added(queue, length)
    batches = []
    while len(queue):
        batches.append([text.length for text in queue.take()])
    assert batches == [[5, 5, 6, 6], [30, 31], [32]]
    assert queue.clock == 4 * 6 + 2 * 31 + 32


def test_a_batch_is_bounded_by_tokens_with_padding_and_not_by_count() -> None:
    queue = TextQueue()
    added(queue, *[3] * 100)
    added(queue, 500)
    sizes = []
    while len(queue):
        batch = queue.take()
        sizes.append(len(batch) * max(text.length for text in batch))
    assert sizes == [63, 63, 63, 63, 48, 500]


@pytest.mark.parametrize(
    ("lengths", "lead", "expected"),
    [
        ([4, 4, 4], 0, (0, 3)),
        ([4, 8, 12], 0, (0, 2)),  # the third would bring 2 x 4 of padding where a batch may have 4
        ([4, 8, 20], 2, (2, 3)),
        ([2, 60, 61], 1, (1, 2)),  # two of them do not fit
        ([100], 0, (0, 1)),
        ([30, 32, 32], 1, (1, 3)),
    ],
)
def test_what_brings_little_padding_joins(lengths: list[int], lead: int, expected: tuple[int, int]) -> None:
    assert like_length(lengths, lead, max_tokens=64) == expected


def test_a_request_with_hundreds_of_texts_does_not_hold_up_a_single_one() -> None:
    queue = TextQueue()
    added(queue, *[20] * 200, owner="many")
    for _ in range(3):
        queue.take()
    added(queue, 20, owner="one")
    assert "one" in [text.request.owner for text in queue.take()]


def test_a_long_text_does_not_hold_up_short_ones_that_came_after_it() -> None:
    queue = TextQueue()
    added(queue, 400, owner="giant")
    for _ in range(6):
        added(queue, 10, owner="short")
    assert owners(queue) == [["short"] * 6, ["giant"]]


def test_a_long_text_is_not_starved_by_short_ones_that_keep_coming() -> None:
    queue = TextQueue()
    added(queue, 40, owner="long")
    num_batches = 0
    while True:
        for _ in range(3):
            added(queue, 20, owner="short")
        num_batches += 1
        if "long" in [text.request.owner for text in queue.take()]:
            break
        assert queue.clock <= PATIENCE * 40
    assert num_batches > 2  # it did let others pass


def test_models_never_share_a_batch() -> None:
    queue = TextQueue()
    first, second = Bound("first"), Bound("second")
    for _ in range(4):
        added(queue, 8, model=first, owner="first")
        added(queue, 8, model=second, owner="second")
    batches = owners(queue)
    assert sorted(map(tuple, batches)) == [("first",) * 4, ("second",) * 4]


def test_a_request_that_is_removed_leaves_nothing_behind() -> None:
    queue = TextQueue()
    gone = added(queue, *[9] * 30, owner="gone")
    added(queue, 12, owner="here")
    queue.take()
    queue.remove(gone)
    assert owners(queue) in ([["here"]], [])
    assert (len(queue), queue._by_length, gone.texts) == (0, {}, set())


def test_rows_are_known_by_their_place_in_the_request() -> None:
    queue = TextQueue()
    request = QueuedRequest(DESK, arrived=0)
    queue.add(request, {"input_ids": [[1, 2, 3], [4]], "token_type_ids": [[0, 0, 1], [0]]})
    queue.add(request, {"input_ids": [[5, 6]], "token_type_ids": [[0, 1]]}, first_row=2)
    found = {text.row: text.tokens for text in queue.take()}
    assert found == {
        0: {"input_ids": [1, 2, 3], "token_type_ids": [0, 0, 1]},
        1: {"input_ids": [4], "token_type_ids": [0]},
        2: {"input_ids": [5, 6], "token_type_ids": [0, 1]},
    }
