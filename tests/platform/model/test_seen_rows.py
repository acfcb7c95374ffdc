"""Only the rows of seen tokens learn; all else is as with the ordinary embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from manta.config import LoraSettings, ModelConfig
from manta.labels import LabelSpace
from manta.model.adapt import adapt, compute_only_cls, parameter_groups
from manta.model.encoder import build_model
from manta.model.seen_rows import SeenRows, train_seen_rows, with_whole_embedding

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ["bert", "roberta", "distilbert", "electra", "deberta-v2", "modernbert", "mpnet"]
SEEN = np.array([1, 2, 5, 7, 8, 9, 40])
UNSEEN = np.setdiff1d(np.arange(90), SEEN)
SEEN_TEXTS = torch.tensor([[2, 7, 9, 40, 5], [2, 8, 5, 1, 1], [2, 7, 7, 5, 1]])
OTHER_TEXTS = torch.tensor([[2, 60, 9, 0, 5], [2, 89, 5, 1, 1]])


def encoder(kind: str) -> Any:
    """A tiny one without dropout, whose padding token is 1."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    if kind == "distilbert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}
    config = AutoConfig.for_model(kind, **sizes, vocab_size=90, pad_token_id=1, num_labels=3)
    for name in config.to_dict():
        if "dropout" in name:
            setattr(config, name, 0.0)
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config)


def inputs(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"input_ids": ids, "attention_mask": (ids != 1).long()}


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(**inputs(ids)).logits


def trained(model: Any, *, weight_decay: float = 0.0) -> list[float]:
    """The loss of each of five steps of AdamW with the groups and the clipping that training has."""
    groups = parameter_groups(model.train(), learning_rate=1e-2, layer_decay=0.8, weight_decay=weight_decay)
    optimizer = torch.optim.AdamW(groups, fused=True)
    losses = []
    for _ in range(5):
        loss = model(**inputs(SEEN_TEXTS), labels=torch.tensor([0, 2, 1])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_the_model_that_the_whole_table_trains(kind: str) -> None:
    plain, split = encoder(kind), encoder(kind)
    pretrained = plain.get_input_embeddings().weight.detach().clone()
    names = {name for name, _ in plain.named_parameters()}
    assert train_seen_rows(split, SEEN)
    assert {name for name, _ in split.named_parameters()} == names  # so that layers are frozen, slowed and decayed alike
    assert compute_only_cls(split) is compute_only_cls(plain)
    torch.testing.assert_close(logits(split, OTHER_TEXTS), logits(plain, OTHER_TEXTS), atol=0.0, rtol=0.0)

    assert trained(split) == pytest.approx(trained(plain), abs=1e-6)
    torch.testing.assert_close(logits(split, OTHER_TEXTS), logits(plain, OTHER_TEXTS), atol=1e-5, rtol=1e-5)
    result = with_whole_embedding(split)
    assert list(result.state_dict()) == list(plain.state_dict())
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(result.state_dict()[name], value, atol=1e-6, rtol=1e-5, msg=name)
    table = result.get_input_embeddings()
    assert torch.equal(table.weight[UNSEEN], pretrained[UNSEEN])
    assert (table.weight[SEEN[1:]] - pretrained[SEEN[1:]]).abs().amin(dim=1).max() > 0
    assert table.padding_idx == plain.get_input_embeddings().padding_idx


def test_decay_leaves_unseen_rows_alone_and_reaches_the_others() -> None:
    plain, split = encoder("bert"), encoder("bert")
    pretrained = plain.get_input_embeddings().weight.detach().clone()
    train_seen_rows(split, SEEN)
    trained(plain, weight_decay=0.5)
    trained(split, weight_decay=0.5)
    expected, found = plain.get_input_embeddings().weight, with_whole_embedding(split).get_input_embeddings().weight
    torch.testing.assert_close(found[SEEN], expected[SEEN], atol=1e-6, rtol=1e-5)
    assert torch.equal(found[UNSEEN], pretrained[UNSEEN])
    assert not torch.isclose(expected[UNSEEN], pretrained[UNSEEN], rtol=1e-3).any()


def test_what_does_not_learn_is_neither_a_parameter_nor_in_checkpoints() -> None:
    plain, split = encoder("bert"), encoder("bert")
    train_seen_rows(split, SEEN)
    name = "bert.embeddings.word_embeddings.weight"
    assert split.state_dict().keys() == plain.state_dict().keys()
    assert split.state_dict()[name].shape == (len(SEEN), 32)
    learning = sum(parameter.numel() for parameter in split.parameters())
    assert learning == sum(parameter.numel() for parameter in plain.parameters()) - len(UNSEEN) * 32
    trained(split)
    again = encoder("bert")
    train_seen_rows(again, SEEN)
    again.load_state_dict(split.state_dict())
    assert torch.equal(logits(again, OTHER_TEXTS), logits(split, OTHER_TEXTS))


def test_weights_of_lower_precision_decide_what_is_computed_in() -> None:
    rows = SeenRows(torch.nn.Embedding(90, 4), SEEN).eval()
    rows.weight.data = rows.weight.data.half()  # as DeepSpeed does it, to parameters only
    assert rows(OTHER_TEXTS).dtype == torch.float16


def test_a_token_that_was_not_seen_stops_training() -> None:
    split = encoder("bert")
    train_seen_rows(split, SEEN)
    with pytest.raises(IndexError):
        split.train()(**inputs(OTHER_TEXTS))


def test_the_table_stays_whole_where_little_would_be_gained_or_it_is_not_its_own() -> None:
    assert not train_seen_rows(encoder("bert"), None)
    assert not train_seen_rows(encoder("bert"), np.arange(73))
    assert train_seen_rows(encoder("bert"), np.arange(72))
    tied = encoder("bert")
    tied.head = torch.nn.Linear(32, 90, bias=False)
    tied.head.weight = tied.get_input_embeddings().weight
    assert not train_seen_rows(tied, SEEN)


@pytest.mark.parametrize("settings", [{"freeze_embeddings": True}, {"freeze_layers": 1}, {"lora": LoraSettings(rank=2)}])
def test_frozen_embeddings_stay_a_plain_table(tiny_model: Path, settings: dict[str, Any]) -> None:
    config = ModelConfig(pretrained=str(tiny_model), max_length=32, **settings)
    model = adapt(build_model(config, LabelSpace(("a", "b"), "binary")), config)
    assert not train_seen_rows(model, np.array([0, 2, 3]))
    assert not any(isinstance(module, SeenRows) for module in model.modules())
