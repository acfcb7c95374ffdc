"""A linear model's module and folder: the encoder's own pooling, padding that changes nothing, and what is written and read."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from manta.config import ModelConfig
from manta.errors import InputError
from manta.inference.conversion import convert
from manta.model.finished import load_finished
from manta.model.forward import OpenVinoForward
from manta.model.pooled import PooledClassifier, PooledEncoder, Pooling, linear_layer, load_encoder, pooling_of, write_pooled
from manta.model.regression import Regression

if TYPE_CHECKING:
    from pathlib import Path

IDS = torch.tensor([[2, 7, 8, 3, 0, 0], [2, 9, 10, 11, 12, 3]])
MASK = (IDS > 0).long()


def sentence_encoder(tiny_model: Path, folder: Path, *, pooling: dict[str, Any], kinds: tuple[str, ...]) -> Path:
    """A copy of the tiny encoder that says how it is pooled."""
    shutil.copytree(tiny_model, folder)
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Dense": "2_Dense", "Normalize": "3_Normalize"}
    modules = [{"path": paths[kind], "type": f"sentence_transformers.models.{kind}"} for kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


@pytest.mark.parametrize(
    ("pooling", "kinds", "expected"),
    [
        ({"pooling_mode_mean_tokens": True}, ("Transformer", "Pooling"), Pooling("mean")),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("Transformer", "Pooling"), Pooling("cls")),
        ({"pooling_mode": "cls"}, ("Transformer", "Pooling", "Dense", "Normalize"), Pooling("cls", normalize=True)),
        ({"pooling_mode": "mean"}, ("Transformer", "Pooling", "Normalize"), Pooling("mean", normalize=True)),
    ],
)
def test_the_encoders_own_pooling_is_read(
    pooling: dict[str, Any], kinds: tuple[str, ...], expected: Pooling, tiny_model: Path, tmp_path: Path
) -> None:
    folder = sentence_encoder(tiny_model, tmp_path / "encoder", pooling=pooling, kinds=kinds)
    assert load_encoder(ModelConfig(pretrained=str(folder), max_length=32)).pooling == expected


def test_without_a_word_on_it_the_mean_is_taken(tiny_model: Path) -> None:
    assert pooling_of(str(tiny_model)) == Pooling("mean", normalize=False)


def test_an_encoder_that_cannot_read_so_much_is_refused(tiny_model: Path) -> None:
    with pytest.raises(InputError, match="more than the 64 tokens"):
        load_encoder(ModelConfig(pretrained=str(tiny_model), max_length=65))


@pytest.mark.parametrize("pooling", [Pooling("mean"), Pooling("mean", normalize=True), Pooling("cls")])
def test_padding_changes_nothing_and_what_is_written_is_read(pooling: Pooling, tiny_model: Path, tmp_path: Path) -> None:
    encoder = PooledEncoder(load_encoder(ModelConfig(pretrained=str(tiny_model), max_length=32)).encoder, pooling)
    regression = Regression(np.random.default_rng(0).normal(size=(3, 32)), np.arange(3.0))
    model = PooledClassifier(encoder, linear_layer(regression, is_binary=False)).eval()
    write_pooled(model, tmp_path, max_length=32)
    read = load_finished(tmp_path)
    assert isinstance(read, PooledClassifier)
    assert read.encoder.pooling == pooling
    with torch.inference_mode():
        together = model(input_ids=IDS, attention_mask=MASK).logits
        alone = model(input_ids=IDS[:1, :4], attention_mask=MASK[:1, :4]).logits
        again = read(input_ids=IDS, attention_mask=MASK).logits
        embedded = read(inputs_embeds=read.get_input_embeddings()(IDS), attention_mask=MASK).logits
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(again, together, rtol=0, atol=1e-6)
    torch.testing.assert_close(embedded, together, rtol=0, atol=1e-6)
    assert read.config.architectures == ["BertModel"]
    convert(read, tmp_path / "model.xml", names=("input_ids", "attention_mask"))
    forward = OpenVinoForward(tmp_path / "model.xml", num_threads=1)
    computed = forward({"input_ids": IDS.numpy(), "attention_mask": MASK.numpy()})
    np.testing.assert_allclose(computed, together.numpy(), rtol=0, atol=1e-5)


def test_one_logit_becomes_two_with_the_same_probability() -> None:
    layer = linear_layer(Regression(np.array([[2.0, -1.0]]), np.array([0.5])), is_binary=True)
    logits = layer(torch.tensor([[1.0, 1.0]]))
    torch.testing.assert_close(logits, torch.tensor([[0.0, 1.5]]))
