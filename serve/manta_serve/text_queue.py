"""`TextQueue` decides which texts are computed next, and which together. It has no threads and no clock, so tests see its order.

Time is counted in tokens computed. When a request arrives after `clock` tokens, its first `n` tokens are due at
`clock + PATIENCE * n`. The text that is due first leads the next batch. So short texts overtake long ones, and single texts
overtake the end of a request with hundreds of texts. No text waits for ever: one that arrives after another's due time is
computed later than it, however short it is.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from manta.texts import TokenLists
    from manta_serve.served_model import ServedModel

PATIENCE = 8
"""Tokens of others that may be computed before a token is due."""
PADDING_SHARE = 16
"""A text joins a batch if the padding that brings is at most this part of a full one: about what a batch costs itself."""


@dataclass(eq=False)
class QueuedRequest:
    """Whose texts they are. All of them are for one model."""

    model: ServedModel
    arrived: int
    """The queue's clock when it arrived."""
    owner: Any = None
    """What the caller wants to find again at its texts."""
    num_tokens: int = 0
    """Of its texts that were added so far."""
    texts: set[QueuedText] = field(default_factory=set)
    """Those that wait."""


@dataclass(eq=False, frozen=True, slots=True)
class QueuedText:
    """One tokenised text or pair that waits."""

    request: QueuedRequest
    row: int
    """Which of the request's texts it is."""
    tokens: dict[str, list[int]]
    length: int
    due: int
    number: int
    """No two texts of a queue have the same one."""


class TextQueue:
    """Texts that wait, in the order in which they are due, and for each model by length. Not thread-safe."""

    def __init__(self) -> None:
        self.clock = 0
        """Tokens of all batches so far, padding included."""
        self._due: list[tuple[int, int, QueuedText]] = []
        self._by_length: dict[ServedModel, list[tuple[int, int, QueuedText]]] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._due)

    def __iter__(self) -> Iterator[QueuedText]:
        """Every text, the one that is due first first."""
        return (text for _, _, text in self._due)

    def add(self, request: QueuedRequest, tokens: TokenLists, *, first_row: int = 0) -> None:
        """More texts of a request, tokenised; the first of them is its text `first_row`."""
        lengths = [len(ids) for ids in tokens["input_ids"]]
        for index in sorted(range(len(lengths)), key=lengths.__getitem__):
            request.num_tokens += lengths[index]
            self._number += 1
            text = QueuedText(
                request,
                row=first_row + index,
                tokens={name: rows[index] for name, rows in tokens.items()},
                length=lengths[index],
                due=request.arrived + PATIENCE * request.num_tokens,
                number=self._number,
            )
            request.texts.add(text)
            insort(self._due, (text.due, text.number, text))
            insort(self._by_length.setdefault(request.model, []), (text.length, text.number, text))

    def remove(self, request: QueuedRequest) -> None:
        """Forget the texts of a request that still wait."""
        for text in request.texts:
            self._drop(text)
        request.texts.clear()

    def take(self) -> list[QueuedText]:
        """The next batch, at least one text: the one that is due first, and those of its model that are nearest in length.

        With padding it has at most the model's `batch_tokens`, unless one text alone has more.
        """
        lead = self._due[0][2]
        model = lead.request.model
        peers = self._by_length[model]
        position = bisect_left(peers, (lead.length, lead.number))
        low, high = like_length([length for length, _, _ in peers], position, max_tokens=model.batch_tokens)
        longest = peers[high - 1][0]
        batch = [text for _, _, text in peers[low:high]]
        for text in batch:
            text.request.texts.discard(text)
            self._drop(text)
        self.clock += len(batch) * longest
        return batch

    def _drop(self, text: QueuedText) -> None:
        del self._due[bisect_left(self._due, (text.due, text.number))]
        peers = self._by_length[text.request.model]
        del peers[bisect_left(peers, (text.length, text.number))]
        if not peers:
            del self._by_length[text.request.model]


def like_length(lengths: Sequence[int], lead: int, *, max_tokens: int) -> tuple[int, int]:
    """Bounds of the batch around `lead` in ascending lengths: what brings least padding joins, as long as it brings little.

    With padding it has at most `max_tokens`, unless the lead alone has more.
    """
    low, high = lead, lead + 1
    most_padding = max_tokens // PADDING_SHARE
    while True:
        size, longest = high - low, lengths[high - 1]
        shorter = longer = most_padding + 1
        if low > 0 and (size + 1) * longest <= max_tokens:
            shorter = longest - lengths[low - 1]
        if high < len(lengths) and (size + 1) * lengths[high] <= max_tokens:
            longer = size * (lengths[high] - longest)
        if min(shorter, longer) > most_padding:
            return low, high
        if shorter <= longer:
            low -= 1
        else:
            high += 1
