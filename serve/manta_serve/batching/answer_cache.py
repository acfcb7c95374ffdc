"""`AnswerCache`: what a version computed for the texts that were asked most recently, so that they are not computed again.

It holds outputs and a hash of each text, never the text. What was computed for a version goes with it: it is bound to the loaded
model, not to its number, so that another inference format of the version, or another version of that number, begins anew.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.labels import Floats
    from manta.texts import Text
    from manta_serve.versions.served_model import ServedModel

DIGEST_BYTES = 16


@dataclass(slots=True)
class _Row:
    """Outputs for one text."""

    outputs: Floats
    asked: int
    """Number of the latest find or add that was about it."""


class AnswerCache:
    """A cache of up to `most` texts of all versions together. The one asked least recently makes room. It is for one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        # Of each version, the text that was asked most recently is last.
        self._rows: WeakKeyDictionary[ServedModel, OrderedDict[bytes, _Row]] = WeakKeyDictionary()
        self._number = 0
        self.num_hits = self.num_misses = 0
        """Texts that were found, and texts that were not."""

    def __len__(self) -> int:
        """Return the number of texts."""
        return sum(map(len, self._rows.values()))

    def find(self, model: ServedModel, texts: Sequence[Text]) -> list[Floats | None]:
        """Return the outputs `(columns,)` of each text, or None where the version has not computed it lately."""
        rows = self._rows.get(model, OrderedDict())
        found: list[Floats | None] = []
        for digest in map(text_digest, texts):
            row = rows.get(digest)
            if row is None:
                self.num_misses += 1
                found.append(None)
            else:
                self.num_hits += 1
                rows.move_to_end(digest)
                row.asked = self._next()
                found.append(row.outputs)
        return found

    def add(self, model: ServedModel, texts: Sequence[Text], outputs: Floats) -> None:
        """Keep the outputs `(texts, columns)` that a version computed."""
        rows = self._rows.setdefault(model, OrderedDict())
        for text, row in zip(texts, outputs, strict=True):
            digest = text_digest(text)
            rows[digest] = _Row(row.copy(), asked=self._next())  # a copy: a row of an array would keep all of it
            rows.move_to_end(digest)
        for _ in range(len(self) - self._most):
            oldest = min(filter(None, self._rows.values()), key=lambda rows: next(iter(rows.values())).asked)
            oldest.popitem(last=False)

    def _next(self) -> int:
        self._number += 1
        return self._number


def text_digest(text: Text, *, salt: bytes = b"") -> bytes:
    """Return the hash of a text or pair. With a secret salt, nobody can construct a text that has a given hash."""
    whole = text if isinstance(text, str) else f"{len(text[0])} {text[0]}{text[1]}"
    return hashlib.blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES, key=salt).digest()
