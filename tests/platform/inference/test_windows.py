"""`data.long_texts: windows`: what a text's windows are, and one answer from all of them wherever a model is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from manta.config import DataConfig
from manta.data import Split
from manta.data.encode import AllWindows, EncodedSplit, write_encoded
from manta.errors import InputError
from manta.inference.artifact import ModelArtifact
from manta.inference.attribution import Attributor
from manta.inference.conversion import make_formats
from manta.inference.predictor import Predictor
from manta.labels import LabelSpace
from manta.texts import token_ids
from manta.windows import num_windows, windows_of

from ...conftest import FILLER, WORDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..conftest import Made

pytestmark = pytest.mark.usefixtures("one_thread")

LABELS = LabelSpace.from_labels(["account", "billing", "delivery"])
MOST = 16
KNOWN = [*FILLER, *(word for words in WORDS.values() for word in words)]
TEXTS = [" ".join(KNOWN[(start + at) % len(KNOWN)] for at in range(length)) for start, length in enumerate([3, 90, 14, 15, 40, 1])]
"""Of 14 words, a text fits one window exactly."""


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def artifact(make_artifact: Callable[..., Made], tmp_path_factory: pytest.TempPathFactory) -> ModelArtifact:
    made = make_artifact(tmp_path_factory.mktemp("windows") / "model").artifact
    return ModelArtifact(made.path, made.manifest.model_copy(update={"long_texts": "windows"}))


def test_windows_overlap_by_a_quarter_and_leave_nothing_out(tokenizer: Any) -> None:
    whole = token_ids(tokenizer, TEXTS, max_length=1000)["input_ids"]
    windows, rows = windows_of(token_ids(tokenizer, TEXTS, max_length=MOST, long_texts="windows"), max_length=MOST)
    lengths = np.array([len(ids) for ids in whole])
    assert np.bincount(rows).tolist() == num_windows(lengths, max_length=MOST, num_special=2).tolist() == [1, 9, 1, 2, 4, 1]
    for row, ids in enumerate(whole):
        parts = [part for part, of in zip(windows["input_ids"], rows, strict=True) if of == row]
        assert all(len(part) == MOST for part in parts[:-1])
        assert all((part[0], part[-1]) == (ids[0], ids[-1]) for part in parts)  # [CLS] and [SEP]
        joined = parts[0][1:-1]
        for part in parts[1:]:
            assert joined[-MOST // 4 :] == part[1 : 1 + MOST // 4]
            joined += part[1 + MOST // 4 : -1]
        assert joined == ids[1:-1]


def test_the_logits_of_a_text_are_the_mean_of_its_windows(artifact: ModelArtifact, tokenizer: Any) -> None:
    predictor = Predictor(artifact, device="cpu")
    windows, rows = windows_of(token_ids(tokenizer, TEXTS, max_length=MOST, long_texts="windows"), max_length=MOST)
    texts = [tokenizer.decode(ids[1:-1]) for ids in windows["input_ids"]]
    of_windows = predictor.logits(texts)
    expected = np.stack([of_windows[rows == row].mean(axis=0) for row in range(len(TEXTS))])
    done: list[int] = []
    np.testing.assert_allclose(predictor.outputs(TEXTS, on_rows_done=done.append), expected, rtol=0, atol=1e-5)
    assert sum(done) == len(TEXTS)
    np.testing.assert_allclose(np.concatenate([predictor.logits([text]) for text in TEXTS]), expected, rtol=0, atol=1e-5)
    cut = Predictor(ModelArtifact(artifact.path, artifact.manifest.model_copy(update={"long_texts": "cut"})), device="cpu")
    is_long = np.bincount(rows) > 1
    changes = np.abs(cut.logits(TEXTS) - expected).max(axis=1)
    assert changes[is_long].min() > 1e-2
    assert changes[~is_long].max() < 1e-5


def test_the_faster_formats_give_the_same(artifact: ModelArtifact) -> None:
    texts = TEXTS * 4
    logits = Predictor(artifact, device="cpu").logits(texts)
    made = make_formats(artifact, texts=texts, targets=logits.argmax(axis=1), logits=logits, training_texts=texts, num_threads=1)
    assert next(item for item in made.manifest.formats if item.name == "openvino-fp32").accepted
    fast = Predictor(made, device="cpu", format="openvino-fp32")
    np.testing.assert_allclose(fast.logits(texts), logits, rtol=0, atol=1e-4)


def test_rows_on_disk_have_their_windows_too(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "train.arrow"
    write_encoded(Split(TEXTS, np.arange(len(TEXTS))), path, tokenizer=tokenizer, max_length=MOST, long_texts="windows")
    rows = np.array([4, 1, 0])
    split = EncodedSplit(path, rows)
    assert (split.num_windows.tolist(), split.lengths.tolist(), split.targets.tolist()) == ([4, 9, 1], [16, 16, 5], [4, 1, 0])
    every = AllWindows(split)
    expected, of = windows_of(
        token_ids(tokenizer, [TEXTS[row] for row in rows], max_length=MOST, long_texts="windows"), max_length=MOST
    )
    assert every.rows.tolist() == of.tolist()
    found = every.padded(np.arange(len(of)), pad_id=0)
    read = [ids[: mask.sum()].tolist() for ids, mask in zip(found["input_ids"], found["attention_mask"], strict=True)]
    assert read == expected["input_ids"]
    second = split.padded(np.array([0, 1]), pad_id=0, windows=np.array([3, 2]))["input_ids"]
    assert second[1].tolist() == expected["input_ids"][4 + 2]


def test_an_explanation_is_of_one_window(artifact: ModelArtifact) -> None:
    attributor = Attributor(artifact.path, labels=LABELS, max_length=MOST, long_texts="windows")
    assert attributor.explain(TEXTS[2], label="billing").complete
    with pytest.raises(InputError, match=r"this text is read in 2 windows, and only texts of one window \(16 tokens\)"):
        attributor.explain(TEXTS[3], label="billing")


def test_pairs_have_no_windows() -> None:
    with pytest.raises(ValueError, match=r"data\.long_texts windows is for single texts, and data\.text names a pair; use cut"):
        DataConfig.model_validate({"train": "rows.csv", "text": ["a", "b"], "long_texts": "windows"})
