"""Which label names are words, and which words."""

from __future__ import annotations

import pytest

from manta.data.label_words import label_words


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["card_arrival", "Refund-not/showing.up", "lostCard"], ["card arrival", "Refund not showing up", "lost Card"]),
        (["World", "Sci/Tech"], ["World", "Sci Tech"]),
        (["café", "帮助", "да"], ["café", "帮助", "да"]),
        (["covid19", "flu"], ["covid19", "flu"]),
        (["0", "1"], None),
        (["A", "B"], None),
        (["B2", "C1x"], None),
        (["class_1", "class_2"], None),
        (["billing", "7"], None),
    ],
)
def test_names_are_words_or_codes(names: list[str], words: list[str] | None) -> None:
    assert label_words(names) == words
