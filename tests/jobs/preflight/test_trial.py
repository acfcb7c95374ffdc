"""The trial of an encoder before a run: which are accepted, and why the others are not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import transformers

from manta.config import ModelConfig
from manta.errors import InputError
from manta.labels import LabelSpace
from manta_jobs.preflight.tokens import TokenSample
from manta_jobs.preflight.trial import try_encoder

from ...platform.conftest import one_thread  # noqa: F401  # a fixture

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("one_thread")

THREE = LabelSpace(("a", "b", "c"), "multiclass")
SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
XLNET = {"vocab_size": 60, "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 48}
GPT2 = {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2}
T5 = {"vocab_size": 60, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2}


def tried(
    folder: Path, kind: str, architecture: dict[str, Any], *, pad_id: int = 0, fill: float | None = None, **settings: Any
) -> str:
    """The result for an encoder of random weights, large enough to make each token count."""
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(getattr(transformers, f"{kind}Config")(**architecture))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.1)
            if fill is not None:
                parameter.fill_(fill)
    model.save_pretrained(folder)
    generator = np.random.default_rng(0)
    rows = [[2, *generator.integers(6, 60, length).tolist()] for length in (4, 8, 11, 19)]
    sample = TokenSample(rows, np.array([0, 1, 2, 0]), pad_id, len(rows))
    return try_encoder(ModelConfig.model_validate({"pretrained": str(folder), "max_length": 32} | settings), THREE, sample)


@pytest.mark.parametrize(
    ("kind", "architecture", "pad_id"),
    [
        ("Bert", SMALL, 0),
        ("Roberta", SMALL | {"pad_token_id": 1}, 1),
        ("MPNet", SMALL | {"pad_token_id": 1}, 1),
        ("Esm", SMALL | {"pad_token_id": 1, "mask_token_id": 4}, 1),
        ("BigBird", SMALL, 0),
        ("RoFormer", SMALL | {"embedding_size": 32}, 0),
        ("ModernBert", SMALL | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}, 0),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"lora": {"rank": 2}}, {"freeze_layers": 1}], ids=["whole", "lora", "frozen"])
def test_common_encoders_pass(
    tmp_path: Path, kind: str, architecture: dict[str, Any], pad_id: int, settings: dict[str, Any]
) -> None:
    assert tried(tmp_path, kind, architecture, pad_id=pad_id, **settings) == ""


@pytest.mark.parametrize(
    ("kind", "architecture", "pad_id", "words"),
    [
        ("FNet", {name: value for name, value in SMALL.items() if name != "num_attention_heads"}, 3, "moves the logits"),
        ("XLNet", XLNET, 5, r"training never reaches 5 of the tensors .*\(such as transformer\.mask_emb\)"),
        ("GPT2", GPT2, 0, r"does not reach every dropout of GPT2ForSequenceClassification \(some keep 0\.1\)"),
        ("T5", T5, 0, r"does not reach every dropout of T5ForSequenceClassification \(some keep 0\.1\)"),
        ("Nystromformer", SMALL | {"num_landmarks": 4, "segment_means_seq_len": 64}, 1, r"fails in its first training step \(Run"),
    ],
)
def test_encoders_that_cannot_be_trained_are_refused(
    tmp_path: Path, kind: str, architecture: dict[str, Any], pad_id: int, words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        tried(tmp_path, kind, architecture, pad_id=pad_id)
    assert "\n" not in str(caught.value)


def test_an_encoder_that_pads_on_the_left_is_refused_for_what_padding_changes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"padding a text in a batch moves the logits of .* by 1\d\d\.\d% of the largest"):
        tried(tmp_path, "XLNet", XLNET, pad_id=5, lora={"rank": 2})


def test_an_encoder_of_convolutions_is_warned_of_with_the_figure(tmp_path: Path) -> None:
    convolutions = SMALL | {"embedding_size": 32, "conv_kernel_size": 9, "num_groups": 1, "head_ratio": 1}
    assert re.search(r"by [0-4]\.\d% of the largest: an answer depends a little", tried(tmp_path, "ConvBert", convolutions))


def test_an_encoder_whose_logits_tell_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"gives logits that are no numbers \(NaN or infinite\); its weights are damaged; give another"
    ):
        tried(tmp_path / "nan", "Bert", SMALL, fill=float("nan"))
    with pytest.raises(InputError, match="gives the same logits whatever the text"):
        tried(tmp_path / "zero", "Bert", SMALL, fill=0.0)
    with pytest.raises(InputError, match="gives the same logits whatever the text; it is a decoder"):
        tried(tmp_path / "decoder", "Bert", SMALL | {"is_decoder": True})
