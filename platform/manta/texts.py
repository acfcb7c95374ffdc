"""The input of a model: one text or a pair of texts per row. Only this module hands texts to a tokenizer."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

Text = str | tuple[str, str]
NumTexts = Literal[1, 2]
LongTexts = Literal["cut", "windows"]
"""Part that is read of a text with more tokens than the model takes: its start, or all of it in overlapping windows."""
TokenLists = dict[str, list[list[int]]]
"""`input_ids` and, for some models that read text pairs, `token_type_ids`. Each holds one list of ids per row. A text in windows
has them one after another."""
WINDOW_OVERLAP = 0.25
"""Share of a window that the next one repeats, so that a phrase at the end of one is whole in another."""

UNDECODED = re.compile("[\udc80-\udcff]")
"""Bytes of a column of Parquet that are not UTF-8, as Python's `surrogateescape` keeps them."""
UNSEEN_CATEGORIES = ("Cc", "Cf", "Zs", "Zl", "Zp")
"""Unicode's categories of control and format characters (such as the zero-width space) and of blanks."""
UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | frozenset(map(chr, range(0xFE00, 0xFE10)))
"""Characters of other categories that show nothing: fillers, the blank of Braille, and selectors of variants."""


def is_empty(text: str) -> bool:
    """Tell whether a text shows nothing: it has no characters, or only blanks, zero-width and control characters."""
    if text[:1].isascii() and text[:1].isalnum():  # most texts: quick, as every text is checked
        return False
    return all(character in UNSEEN or unicodedata.category(character) in UNSEEN_CATEGORIES for character in text)


def has_lone_surrogate(text: str) -> bool:
    """Tell whether a text holds half of a surrogate pair, which JSON can write but UTF-8 cannot."""
    if text.isascii():
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def text_fault(text: Any) -> str | None:
    """Return why a value is not a text that can be classified, as the end of a sentence about it; None if it is one."""
    if text is None or (isinstance(text, float) and math.isnan(text)):
        return "is missing"
    if not isinstance(text, str):
        return f"is of type {type(text).__name__}, not a string"
    if has_lone_surrogate(text):
        return (
            "holds bytes that are not UTF-8" if UNDECODED.search(text) else "holds half of a surrogate pair, which is no character"
        )
    return "is empty" if is_empty(text) else None


def first_of_wrong_kind(texts: Sequence[Text], *, num_texts: NumTexts) -> int | None:
    """Return the index of the first row that the model cannot read (a pair instead of a text, or vice versa), or None."""
    return next((index for index, text in enumerate(texts) if isinstance(text, str) is not (num_texts == 1)), None)


def wrong_kind_sentence(num_texts: NumTexts) -> str:
    """Return the advice for a row of the wrong kind, without a full stop."""
    if num_texts == 2:
        return "this model reads pairs of texts, so give two texts where there is one"
    return "this model reads single texts, so give one text where there are two"


def token_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], *, max_length: int, long_texts: LongTexts = "cut"
) -> TokenLists:
    """Return the token ids of every row, special tokens included, cut at `max_length`. Of a pair, the longer text is cut first.

    With `windows`, a single text is not cut: its windows follow each other, see `manta.windows`. The keys are `input_ids` and, for
    pairs whose tokenizer distinguishes the two texts, `token_type_ids`.
    """
    first, second = _parts(texts)
    if long_texts == "windows":
        return {"input_ids": _in_windows(tokenizer, first, max_length=max_length)}
    encoded = tokenizer(first, second, truncation="longest_first", max_length=max_length)
    names = ("input_ids", "token_type_ids") if second else ("input_ids",)
    return {name: encoded[name] for name in names if name in encoded}


def num_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text]) -> list[int]:
    """Return the number of tokens of every row, special tokens included, if nothing is cut."""
    return [len(ids) for ids in tokenizer(*_parts(texts), verbose=False)["input_ids"]]


def _parts(texts: Sequence[Text]) -> tuple[list[str], list[str] | None]:
    first = [text if isinstance(text, str) else text[0] for text in texts]
    return first, [text[1] for text in texts if not isinstance(text, str)] or None


def window_overlap(max_length: int, *, num_special: int) -> int:
    """Return how many tokens of a window the next one repeats."""
    return max(0, min(int(max_length * WINDOW_OVERLAP), max_length - num_special - 1))


def _in_windows(tokenizer: PreTrainedTokenizerBase, texts: list[str], *, max_length: int) -> list[list[int]]:
    """Return the windows of each text one after another, those of `max_length` tokens first."""
    overlap = window_overlap(max_length, num_special=tokenizer.num_special_tokens_to_add())
    encoded = tokenizer(texts, truncation=True, max_length=max_length, stride=overlap, return_overflowing_tokens=True)
    windows: list[list[list[int]]] = [[] for _ in texts]
    for row, ids in zip(encoded["overflow_to_sample_mapping"], encoded["input_ids"], strict=True):
        windows[row].append(ids)
    return [[token for ids in sorted(parts, key=len, reverse=True) for token in ids] for parts in windows]
