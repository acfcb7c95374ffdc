from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from manta.config import LoraSettings, ModelConfig
from manta.errors import InputError
from manta.labels import LabelSpace
from manta.model.adapt import READS_CLS, adapt, compute_only_cls, depth, encoder_layers, merged, parameter_groups
from manta.model.encoder import build_model

if TYPE_CHECKING:
    from pathlib import Path

LABELS = LabelSpace(("a", "b", "c"), "multiclass")


def build(tiny_model: Path, **settings: Any) -> Any:
    config = ModelConfig(pretrained=str(tiny_model), max_length=32, dropout=0.0, **settings)
    torch.manual_seed(0)
    return adapt(build_model(config, LABELS), config)


def learning(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_depth_counts_from_the_head_down() -> None:
    layers = ("bert.encoder.layer", 6)
    assert depth("classifier.weight", *layers) == 0
    assert depth("bert.pooler.dense.weight", *layers) == 0
    assert depth("bert.encoder.layer.5.output.dense.bias", *layers) == 1
    assert depth("base_model.model.bert.encoder.layer.0.output.dense.bias", *layers) == 6
    assert depth("bert.embeddings.word_embeddings.weight", *layers) == 7


def test_what_stands_beside_the_layers_is_no_head() -> None:
    assert depth("mpnet.encoder.relative_attention_bias.weight", "mpnet.encoder.layer", 6) == 7
    assert depth("model.final_norm.weight", "model.layers", 22) == 1
    assert depth("head.norm.weight", "model.layers", 22) == 0
    assert depth("model.embeddings.norm.weight", "model.layers", 22) == 23
    assert depth("transformer.word_embedding.weight", "transformer.layer", 12) == 13
    assert depth("transformer.mask_emb", "transformer.layer", 12) == 13
    assert depth("base_model.model.model.final_norm.weight", "base_model.model.model.layers", 22) == 1
    assert depth("base_model.model.classifier.weight", "base_model.model.model.layers", 22) == 0


@pytest.mark.parametrize("kind", ["xlm", "flaubert"])
def test_layers_that_are_spread_over_several_lists_are_refused(kind: str) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, n_layers=3, emb_dim=32, n_heads=2))
    with pytest.raises(InputError, match="no list of layers that can be told apart"):
        encoder_layers(model)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra", "deberta-v2", "modernbert", "mpnet"])
def test_layers_are_found_in_every_architecture(kind: str) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.for_model(kind, num_hidden_layers=3, vocab_size=60_000)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    layers, num_layers = encoder_layers(model)
    assert num_layers == 3
    assert {depth(name, layers, num_layers) for name, _ in model.named_parameters()} == {0, 1, 2, 3, 4}


def test_nothing_is_frozen_unless_asked_for(tiny_model: Path) -> None:
    model = build(tiny_model)
    assert learning(model) == {name for name, _ in model.named_parameters()}


def test_frozen_layers_take_the_embeddings_along(tiny_model: Path) -> None:
    names = learning(build(tiny_model, freeze_layers=1))
    assert not any("embeddings" in name or "layer.0." in name for name in names)
    assert any("layer.1." in name for name in names)
    assert {"classifier.weight", "classifier.bias"} <= names
    assert not any("layer." in name for name in learning(build(tiny_model, freeze_layers=2)))
    names = learning(build(tiny_model, freeze_embeddings=True))
    assert not any("embeddings" in name for name in names)
    assert any("layer.0." in name for name in names)


def test_more_frozen_layers_than_there_are_is_refused(tiny_model: Path) -> None:
    with pytest.raises(InputError, match=r"model.freeze_layers is 3, but .* has 2 layers"):
        build(tiny_model, freeze_layers=3)


def test_lora_adds_to_the_named_layers_and_leaves_the_head_learning(tiny_model: Path) -> None:
    model = build(tiny_model, lora=LoraSettings(rank=2, target_modules=["query"]))
    names = learning(model)
    assert {name for name in names if "lora" not in name} == {
        name for name, _ in model.named_parameters() if "classifier" in name or "pooler" in name
    }
    assert sum("lora_A" in name for name in names) == 2
    assert all("query" in name for name in names if "lora" in name)
    everywhere = learning(build(tiny_model, lora=LoraSettings(rank=2)))
    assert sum("lora_A" in name for name in everywhere) == 12  # query, key, value and three dense layers, twice


def test_an_unknown_lora_target_is_refused(tiny_model: Path) -> None:
    with pytest.raises(InputError, match=r"no linear layer is called 'q_proj'; there are dense, key, query, value"):
        build(tiny_model, lora=LoraSettings(target_modules=["q_proj"]))


def test_a_merged_model_has_the_plain_names_and_the_same_logits(tiny_model: Path) -> None:
    model = build(tiny_model, lora=LoraSettings(rank=2)).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at first, so that the adapters would say nothing
            torch.nn.init.normal_(parameter, std=0.5)
    inputs = {"input_ids": torch.tensor([[2, 7, 9, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    plain = build(tiny_model).eval()
    with torch.no_grad():
        expected, untouched = model(**inputs).logits, plain(**inputs).logits
        result = merged(model)
        found = result(**inputs).logits
    assert set(result.state_dict()) == set(plain.state_dict())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert (found - untouched).abs().max() > 1e-3


def test_biases_and_norms_have_no_weight_decay(tiny_model: Path) -> None:
    model = build(tiny_model)
    groups = parameter_groups(model, learning_rate=0.1, layer_decay=1.0, weight_decay=0.3)
    assert sorted(group["weight_decay"] for group in groups) == [0.0, 0.3]
    assert {group["lr"] for group in groups} == {0.1}
    for group in groups:
        assert {parameter.ndim > 1 for parameter in group["params"]} == {group["weight_decay"] > 0}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_lower_layers_learn_slower_with_layer_decay(tiny_model: Path) -> None:
    model = build(tiny_model)
    rates = {
        id(parameter): group["lr"]
        for group in parameter_groups(model, learning_rate=1.0, layer_decay=0.5, weight_decay=0.0)
        for parameter in group["params"]
    }
    by_name = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    assert by_name["classifier.weight"] == by_name["bert.pooler.dense.bias"] == 1.0
    assert by_name["bert.encoder.layer.1.attention.self.query.weight"] == 0.5
    assert by_name["bert.encoder.layer.0.attention.self.query.bias"] == 0.25
    assert by_name["bert.embeddings.word_embeddings.weight"] == 0.125


@pytest.mark.parametrize("kind", [*sorted(READS_CLS), "distilbert", "modernbert"])
def test_computing_only_cls_changes_neither_logits_nor_gradients(kind: str) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": 90}
    if kind == "distilbert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "vocab_size": 90}
    config = AutoConfig.for_model(kind, **sizes, pad_token_id=1, num_labels=3)
    torch.manual_seed(0)
    model: Any = AutoModelForSequenceClassification.from_config(config).eval()
    ids = torch.tensor([[2, 7, 9, 3, 5], [2, 8, 3, 1, 1]])
    inputs = {"input_ids": ids, "attention_mask": (ids != 1).long(), "labels": torch.tensor([0, 2])}

    def outcome() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        output = model(**inputs)
        output.loss.backward()
        return output.logits, {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}

    logits, gradients = outcome()
    lengths: list[int] = []
    if kind in READS_CLS:
        network = model.get_submodule(f"{encoder_layers(model)[0]}.1.intermediate")
        network.register_forward_hook(lambda module, given, made: lengths.append(made.shape[1]))
    assert compute_only_cls(model) is (kind in READS_CLS)
    found, found_gradients = outcome()
    torch.testing.assert_close(found, logits, atol=1e-6, rtol=1e-5)
    assert found_gradients.keys() == gradients.keys()
    for name, value in gradients.items():
        torch.testing.assert_close(found_gradients[name], value, atol=1e-6, rtol=1e-4, msg=name)
    assert lengths == ([1] if kind in READS_CLS else [])
