"""The input of a model: one text or a pair of texts per row. Only this module hands texts to a tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

Text = str | tuple[str, str]
NumTexts = Literal[1, 2]
TokenLists = dict[str, list[list[int]]]
"""`input_ids` and, for some models that read text pairs, `token_type_ids`. Each holds one list of ids per row."""


def first_of_wrong_kind(texts: Sequence[Text], *, num_texts: NumTexts) -> int | None:
    """Return the index of the first row that the model cannot read (a pair instead of a text, or vice versa), or None."""
    return next((index for index, text in enumerate(texts) if isinstance(text, str) is not (num_texts == 1)), None)


def wrong_kind_sentence(num_texts: NumTexts) -> str:
    """Return the advice for a row of the wrong kind, without a full stop."""
    if num_texts == 2:
        return "this model reads pairs of texts, so give two texts where there is one"
    return "this model reads single texts, so give one text where there are two"


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], *, max_length: int) -> TokenLists:
    """Return the token ids of every row, special tokens included, cut at `max_length`. Of a pair, the longer text is cut first.

    The keys are `input_ids` and, for pairs whose tokenizer distinguishes the two texts, `token_type_ids`.
    """
    first = [text if isinstance(text, str) else text[0] for text in texts]
    second = [text[1] for text in texts if not isinstance(text, str)]
    encoded = tokenizer(first, second or None, truncation="longest_first", max_length=max_length)
    names = ("input_ids", "token_type_ids") if second else ("input_ids",)
    return {name: encoded[name] for name in names if name in encoded}
