from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from transformers import AutoTokenizer

from manta.data import Split
from manta.data import encode as encode_module
from manta.data.encode import EncodedSplit, seen_tokens, write_encoded, write_seen_tokens

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
        batch = encoded.padded(np.array([index]), pad_id=0)
        assert list(batch) == ["input_ids", "attention_mask"]
        assert batch["input_ids"].tolist() == [row]
        assert batch["attention_mask"].tolist() == [[1] * len(row)]


def test_batches_are_padded_to_their_longest_and_masked(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    write_encoded(SPLIT, tmp_path / "train.arrow", tokenizer=tokenizer, max_length=64)
    batch = EncodedSplit(tmp_path / "train.arrow").padded(np.array([1, 0, 1]), pad_id=99)
    ids, mask = batch["input_ids"], batch["attention_mask"]
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
    ids = encoded.padded(np.array([2]), pad_id=0)["input_ids"]
    assert (ids[0, 0], ids[0, -1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)


def test_chunks_do_not_show(tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> None:
    write_encoded(SPLIT, tmp_path / "whole.arrow", tokenizer=tokenizer, max_length=64)
    monkeypatch.setattr(encode_module, "CHUNK_ROWS", 3)
    write_encoded(SPLIT, tmp_path / "chunks.arrow", tokenizer=tokenizer, max_length=64)
    whole, chunks = (EncodedSplit(tmp_path / f"{name}.arrow") for name in ("whole", "chunks"))
    np.testing.assert_array_equal(whole.lengths, chunks.lengths)
    np.testing.assert_array_equal(whole.targets, chunks.targets)
    rows = np.array([3, 2, 1, 0, 3])
    for name, values in whole.padded(rows, pad_id=0).items():
        np.testing.assert_array_equal(values, chunks.padded(rows, pad_id=0)[name])


PAIRS = Split([("my parcel is late", "refund"), ("refund", "please the card was charged"), ("my", "my")], np.array([0, 1, 0]))


@pytest.mark.parametrize("chunk_rows", [2, 100])
def test_pairs_come_back_as_the_tokenizer_has_them_with_their_token_types(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch, chunk_rows: int
) -> None:
    monkeypatch.setattr(encode_module, "CHUNK_ROWS", chunk_rows)
    write_encoded(PAIRS, tmp_path / "pairs.arrow", tokenizer=tokenizer, max_length=64)
    expected = tokenizer(*map(list, zip(*PAIRS.texts, strict=True)), padding=True, return_tensors="np")
    assert expected["token_type_ids"].max() == 1
    batch = EncodedSplit(tmp_path / "pairs.arrow").padded(np.arange(3), pad_id=tokenizer.pad_token_id)
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids"}
    for name, values in batch.items():
        assert values.dtype == np.int64
        np.testing.assert_array_equal(values, expected[name])


def test_a_tokenizer_that_does_not_tell_pairs_apart_gives_no_token_types(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As RoBERTa's, which puts separators between the texts only."""
    plain = AutoTokenizer.from_pretrained(tiny_model, model_input_names=["input_ids", "attention_mask"])
    write_encoded(PAIRS, tmp_path / "pairs.arrow", tokenizer=plain, max_length=64)
    encoded = EncodedSplit(tmp_path / "pairs.arrow")
    assert set(encoded.padded(np.array([0]), pad_id=0)) == {"input_ids", "attention_mask"}
    assert encoded.padded(np.array([0]), pad_id=0)["input_ids"].tolist() == [plain("my parcel is late", "refund")["input_ids"]]


def test_the_longer_text_of_a_pair_gives_way_first(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    split = Split([("my parcel is late and the card was charged", "refund please")], np.array([0]))
    write_encoded(split, tmp_path / "pairs.arrow", tokenizer=tokenizer, max_length=8)
    ids = EncodedSplit(tmp_path / "pairs.arrow").padded(np.array([0]), pad_id=0)["input_ids"][0]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "my", "parcel", "is", "[SEP]", "refund", "please", "[SEP]"]


def test_multilabel_targets_are_a_byte_for_each_label(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    targets = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], dtype=np.int8)
    write_encoded(Split(SPLIT.texts, targets), tmp_path / "train.arrow", tokenizer=tokenizer, max_length=64)
    encoded = EncodedSplit(tmp_path / "train.arrow")
    assert encoded.targets.dtype == np.int8
    np.testing.assert_array_equal(encoded.targets, targets)
    np.testing.assert_array_equal(encoded.targets[np.array([3, 0])], targets[[3, 0]])


@pytest.mark.parametrize("chunk_rows", [1, 100])
def test_the_tokens_of_all_chunks_are_noted_with_the_padding(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch, chunk_rows: int
) -> None:
    assert seen_tokens(tmp_path) is None
    monkeypatch.setattr(encode_module, "CHUNK_ROWS", chunk_rows)
    write_encoded(SPLIT, tmp_path / "train.arrow", tokenizer=tokenizer, max_length=64)
    write_seen_tokens(tmp_path, pad_id=43)
    expected = sorted({43, *(token for row in tokenizer(SPLIT.texts)["input_ids"] for token in row)})
    found = seen_tokens(tmp_path)
    assert found is not None
    assert found.tolist() == expected
    assert found.dtype == np.int64
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.arrow", "train.tokens.npy"]


def test_a_failed_write_leaves_no_file(tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode_module, "CHUNK_ROWS", 2)
    broken = Split([*SPLIT.texts[:3], None], SPLIT.targets)  # type: ignore[list-item]
    with pytest.raises((TypeError, ValueError)):
        write_encoded(broken, tmp_path / "train.arrow", tokenizer=tokenizer, max_length=64)
    assert list(tmp_path.iterdir()) == []


def test_token_ids_stay_in_the_file(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Opening a split maps its token ids; only lengths and targets are copied."""
    import pyarrow as pa

    split = Split(["my parcel is late please"] * 50_000, np.zeros(50_000, dtype=np.int64))
    write_encoded(split, tmp_path / "train.arrow", tokenizer=tokenizer, max_length=64)
    before = pa.total_allocated_bytes()
    encoded = EncodedSplit(tmp_path / "train.arrow")
    batch = encoded.padded(np.array([0, 49_999]), pad_id=0)
    assert pa.total_allocated_bytes() - before < 50_000
    assert batch["input_ids"].tolist() == tokenizer(split.texts[:2])["input_ids"]
