"""`TextQueue`: decides which texts are computed next, and which together. Without threads or a clock, its order is testable.

Time is counted in computed tokens. When a request arrives after `clock` tokens, its first `n` tokens are due at
`clock + PATIENCE * n`. The text that is due first leads the next batch. So short texts overtake long ones, and single texts
overtake the end of a request with hundreds of texts. No text waits forever: a text that arrives after another one's due time is
computed after it, however short it is.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from manta.texts import TokenLists
    from manta_serve.versions.served_model import ServedModel

PATIENCE = 8
"""Tokens of other texts that may be computed, per token of a text, before that text is due."""
PADDING_SHARE = 16
"""A text joins a batch if it adds padding of at most 1/PADDING_SHARE of a full batch, which is about the fixed cost of a batch."""


@dataclass(eq=False)
class QueuedRequest:
    """A request with queued texts, all for one model."""

    model: ServedModel
    arrived: int
    """The queue's clock when it arrived."""
    owner: Any = None
    """The caller's own object, which it finds again through the texts."""
    num_tokens: int = 0
    """Tokens of its texts that were added so far."""
    texts: set[QueuedText] = field(default_factory=set)
    """Its texts that are waiting."""


@dataclass(eq=False, frozen=True, slots=True)
class QueuedText:
    """One tokenized text or pair that is waiting."""

    request: QueuedRequest
    row: int
    """Index of the text in its request."""
    tokens: dict[str, list[int]]
    length: int
    due: int
    number: int
    """Unique number within the queue."""


class TextQueue:
    """Waiting texts in the order in which they are due, and for each model by length. Not thread-safe."""

    def __init__(self) -> None:
        self.clock = 0
        """Tokens of all batches so far, including padding."""
        self._due: list[tuple[int, int, QueuedText]] = []
        self._by_length: dict[ServedModel, list[tuple[int, int, QueuedText]]] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._due)

    def __iter__(self) -> Iterator[QueuedText]:
        """Yield every text, in the order in which they are due."""
        return (text for _, _, text in self._due)

    def add(self, request: QueuedRequest, tokens: TokenLists, *, first_row: int = 0) -> None:
        """Add tokenized texts of a request. The first of them has index `first_row` in the request."""
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
        """Remove the waiting texts of a request."""
        for text in request.texts:
            self._drop(text)
        request.texts.clear()

    def take(self) -> list[QueuedText]:
        """Remove and return the next batch: the text that is due first, and the texts of its model that are nearest in length.

        Including padding, it has at most the model's `batch_tokens`, unless one text alone has more.
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
    """Return the bounds of the batch around `lead` in ascending lengths. Texts join by least added padding, while it is little.

    Including padding, the batch has at most `max_tokens`, unless the lead alone has more.
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
