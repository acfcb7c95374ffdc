"""Attributions: that they add up, are those of the right words, and speak for the right label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from manta.config import ModelConfig
from manta.inference.attribution import Attributor, StoppedError
from manta.labels import LabelSpace
from manta.model.encoder import build_model, load_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

SPACES = {
    "binary": LabelSpace(("billing", "delivery"), "binary", temperature=1.7),
    "multiclass": LabelSpace(("account", "billing", "delivery"), "multiclass"),
    "multilabel": LabelSpace(("account", "billing"), "multilabel"),
}


def folder_of(tiny_model: Path, folder: Path, *, outputs: int) -> Path:
    """A model in plain Hugging Face format, untrained, whose answer depends on the words."""
    config = ModelConfig(pretrained=str(tiny_model), max_length=48)
    torch.manual_seed(5)
    model: Any = build_model(config, LabelSpace(tuple(f"label-{number}" for number in range(outputs)), "multilabel"))
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim == 2:
                weights.normal_(0, 0.25)
        model.classifier.weight.mul_(20)
    model.save_pretrained(folder)
    load_tokenizer(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return {outputs: folder_of(tiny_model, tmp_path_factory.mktemp("attribution"), outputs=outputs) for outputs in (2, 3)}


@pytest.mark.parametrize("task", list(SPACES))
@pytest.mark.parametrize("text", ["my parcel is still late, tracking it", ("where is my parcel", "charged twice")])
def test_the_shares_add_up_to_the_change_in_log_odds(folders: dict[int, Path], task: str, text: Any) -> None:
    labels = SPACES[task]
    attributor = Attributor(folders[len(labels.names)], labels=labels, max_length=48)
    for label in labels.names:
        found = attributor.explain(text, label=label)
        assert found.complete
        change = found.log_odds - found.baseline_log_odds
        assert abs(change) > 0.1
        assert sum(word.attribution for word in found.words) == pytest.approx(change, abs=found.error + 1e-5)
        assert found.error <= 0.02 * max(1.0, abs(change))


def test_the_log_odds_are_those_of_the_answers_probability(folders: dict[int, Path]) -> None:
    from transformers import AutoModelForSequenceClassification

    text = "my parcel is still late"
    for labels in SPACES.values():
        folder = folders[len(labels.names)]
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        inputs = load_tokenizer(ModelConfig(pretrained=str(folder)))(text, return_tensors="pt")
        with torch.no_grad():
            (probabilities,) = labels.probabilities(model(**inputs).logits.numpy())
        attributor = Attributor(folder, labels=labels, max_length=48)
        for label, probability in zip(labels.names, probabilities, strict=True):
            found = attributor.explain(text, label=label)
            assert found.log_odds == pytest.approx(np.log(probability / (1 - probability)), abs=1e-3)


def test_words_are_where_they_stand_in_the_text(folders: dict[int, Path]) -> None:
    attributor = Attributor(folders[3], labels=SPACES["multiclass"], max_length=48)
    text = "  My PARCEL,\n\U0001f4e6 naïve… is late"
    found = attributor.explain(text, label="billing")
    assert [text[word.start : word.end] for word in found.words] == [word.text for word in found.words]
    assert [word.text for word in found.words if word.text.isascii() and word.text.isalpha()] == ["My", "PARCEL", "is", "late"]
    assert {word.part for word in found.words} == {0}
    pair = ("my parcel", "is  late")
    of_pair = attributor.explain(pair, label="billing")
    assert [(word.part, word.start, word.end) for word in of_pair.words] == [(0, 0, 2), (0, 3, 9), (1, 0, 2), (1, 4, 8)]


def test_what_was_cut_off_has_no_share(folders: dict[int, Path]) -> None:
    attributor = Attributor(folders[3], labels=SPACES["multiclass"], max_length=10)
    found = attributor.explain("parcel " * 40, label="billing")
    assert len(found.words) == 8
    assert found.complete


def test_a_single_word_has_all_of_it(folders: dict[int, Path]) -> None:
    found = Attributor(folders[2], labels=SPACES["multilabel"], max_length=48).explain("parcel", label="account")
    (word,) = found.words
    assert word.attribution == pytest.approx(found.log_odds - found.baseline_log_odds, abs=found.error + 1e-5)


def test_it_stops_when_nobody_waits(folders: dict[int, Path]) -> None:
    attributor = Attributor(folders[3], labels=SPACES["multiclass"], max_length=48)
    asked = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) > 1

    with pytest.raises(StoppedError):
        attributor.explain("parcel " * 40, label="billing", should_stop=stop)
    assert len(asked) == 2
