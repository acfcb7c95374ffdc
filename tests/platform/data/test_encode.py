from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from transformers import AutoTokenizer

from manta.data import Split
from manta.data import encode as encode_module
from manta.data.encode import EncodedSplit, write_encoded

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

SPLIT = Split(["my parcel is late", "refund", "please the card was charged twice today", "hello zzz"], np.array([2, 0, 1, 0]))


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_model)


def test_rows_come_back_as_the_tokenizer_has_them(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    write_encoded(SPLIT, tmp_path / "train.arrow", tokenizer=tokenizer, max_length=64)
    encoded = EncodedSplit(tmp_path / "train.arrow")
    expected = tokenizer(SPLIT.texts)["input_ids"]
    assert len(encoded) == 4
    assert encoded.targets.tolist() == [2, 0, 1, 0]
    assert encoded.lengths.tolist() == [len(row) for row in expected]
    for index, row in enumerate(expected):
        ids, mask = encoded.padded(np.array([index]), pad_id=0)
        assert ids.tolist() == [row]
        assert mask.tolist() == [[1] * len(row)]


def test_batches_are_padded_to_their_longest_and_masked(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    write_encoded(SPLIT, tmp_path / "train.arrow", tokenizer=tokenizer, max_length=64)
    ids, mask = EncodedSplit(tmp_path / "train.arrow").padded(np.array([1, 0, 1]), pad_id=99)
    short, long = tokenizer(["refund", "my parcel is late"])["input_ids"]
    padding = [99] * (len(long) - len(short))
    assert ids.tolist() == [short + padding, long, short + padding]
    assert mask.tolist() == [[1] * len(short) + [0] * len(padding), [1] * len(long), [1] * len(short) + [0] * len(padding)]
    assert ids.dtype == mask.dtype == np.int64


@pytest.mark.parametrize("max_length", [4, 6])
def test_long_texts_are_cut_with_their_special_tokens_kept(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> None:
    write_encoded(SPLIT, tmp_path / "train.arrow", tokenizer=tokenizer, max_length=max_length)
    encoded = EncodedSplit(tmp_path / "train.arrow")
    assert encoded.lengths.tolist() == [min(len(row), max_length) for row in tokenizer(SPLIT.texts)["input_ids"]]
    ids, _ = encoded.padded(np.array([2]), pad_id=0)
    assert (ids[0, 0], ids[0, -1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)


def test_chunks_do_not_show(tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> None:
    write_encoded(SPLIT, tmp_path / "whole.arrow", tokenizer=tokenizer, max_length=64)
    monkeypatch.setattr(encode_module, "CHUNK_ROWS", 3)
    write_encoded(SPLIT, tmp_path / "chunks.arrow", tokenizer=tokenizer, max_length=64)
    rows = np.array([3, 2, 1, 0])
    whole, chunks = (EncodedSplit(tmp_path / f"{name}.arrow").padded(rows, pad_id=0) for name in ("whole", "chunks"))
    np.testing.assert_array_equal(whole, chunks)
