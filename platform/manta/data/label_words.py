"""The words of label names, such as `card not working` for `card_not_working`: a first training row for each label."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WORD_BREAKS = re.compile(r"[\W_]+|(?<=[a-z])(?=[A-Z])")
LEAST_LETTERS = 3
"""A name with fewer letters in a row is a code, such as `B2`. Names beyond ASCII may have fewer: in many scripts one is a word."""


def label_words(names: Sequence[str]) -> list[str] | None:
    """Return the words of each label name; None if the names are numbers or codes, or differ in their numbers only."""
    words = [" ".join(WORD_BREAKS.sub(" ", name).split()) for name in names]
    without_digits = {re.sub(r"\d", "", text).casefold().strip() for text in words}
    are_words = len(without_digits) == len(words) and all(map(_has_word, words))
    return words if are_words else None


def _has_word(text: str) -> bool:
    parts = re.findall(r"[^\W\d]+", text)
    return any(len(part) >= LEAST_LETTERS or not part.isascii() for part in parts)
