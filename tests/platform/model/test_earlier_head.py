"""Encoders that were fine-tuned before: their head goes on if its labels are the run's, and is left out otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from manta.config import ModelConfig
from manta.labels import LabelSpace
from manta.model.encoder import build_model, head_parameter_names, head_sentence

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("one_thread")

BINARY = LabelSpace(("no", "yes"), "binary")
THREE = LabelSpace(("a", "b", "c"), "multiclass")
IDS = torch.randint(5, 40, (4, 12), generator=torch.Generator().manual_seed(0))
INPUTS = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}


def config_of(folder: Path) -> ModelConfig:
    return ModelConfig(pretrained=str(folder), max_length=20)


def fine_tuned(tiny_model: Path, target: Path, names: tuple[str, ...], **settings: Any) -> Path:
    """A tiny classifier of some labels, with a head of large weights."""
    torch.manual_seed(1)
    config = transformers.AutoConfig.from_pretrained(tiny_model, num_labels=len(names), **settings)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in config.id2label.items()}
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, config=config)
    with torch.no_grad():
        model.classifier.weight.normal_(std=10.0)
        model.classifier.bias.normal_(std=10.0)
    model.save_pretrained(target)
    return target


@pytest.mark.parametrize("names", [("x", "y", "z"), ("c", "b", "a"), ("x", "y"), ("x", "y", "z", "w")])
@pytest.mark.parametrize("labels", [THREE, BINARY], ids=["three", "binary"])
def test_a_head_of_other_labels_is_replaced(tiny_model: Path, tmp_path: Path, names: tuple[str, ...], labels: LabelSpace) -> None:
    folder = fine_tuned(tiny_model, tmp_path / "tuned", names)
    model = build_model(config_of(folder), labels)
    assert model.classifier.weight.shape == (labels.num_logits, 32)
    assert model.classifier.weight.abs().max() < 0.2
    assert not model.classifier.bias.any()
    assert f"other labels ({', '.join(names)}) before: its head is left out" in head_sentence(config_of(folder), labels)
    assert torch.equal(model.bert.pooler.dense.weight, load_file(folder / "model.safetensors")["bert.pooler.dense.weight"])


def test_a_head_of_the_same_labels_goes_on(tiny_model: Path, tmp_path: Path) -> None:
    folder = fine_tuned(tiny_model, tmp_path / "tuned", THREE.names)
    before = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    after = build_model(config_of(folder), THREE).eval()
    assert torch.equal(before(**INPUTS).logits, after(**INPUTS).logits)
    assert "goes on with its head" in head_sentence(config_of(folder), THREE)
    several = LabelSpace(THREE.names, "multilabel")
    assert build_model(config_of(folder), several).classifier.weight.abs().max() < 0.2
    assert "fine-tuned for another kind of task" in head_sentence(config_of(folder), several)


def test_two_logits_of_the_same_labels_go_on_as_one(tiny_model: Path, tmp_path: Path) -> None:
    """So an artifact of a binary task, which holds two, can be trained further."""
    folder = fine_tuned(tiny_model, tmp_path / "tuned", BINARY.names)
    before = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    after = build_model(config_of(folder), BINARY).eval()
    torch.testing.assert_close(after(**INPUTS).logits[:, 0].sigmoid(), before(**INPUTS).logits.softmax(dim=1)[:, 1])
    assert head_parameter_names(after.config) == ["classifier.weight", "classifier.bias"]


def test_an_encoder_without_a_head_needs_no_sentence(tiny_model: Path) -> None:
    assert head_sentence(config_of(tiny_model), THREE) == ""
