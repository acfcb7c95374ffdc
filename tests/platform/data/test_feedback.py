"""Feedback joins the training rows, and no others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from manta.config import DataConfig
from manta.data import load_dataset
from manta.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

SPLITS = ("train", "validation", "test")


@pytest.fixture
def train(tmp_path: Path) -> str:
    """60 rows: 40 a and 20 b."""
    rows = "".join(f"text {number},{'aab'[number % 3]}\n" for number in range(60))
    (tmp_path / "train.csv").write_text("text,label\n" + rows)
    return str(tmp_path / "train.csv")


def feedback(folder: Path, rows: list[dict[str, Any]]) -> str:
    path = folder / "feedback.jsonl"
    path.write_text("".join(json.dumps(row | {"answer": "a", "version": 1}) + "\n" for row in rows))
    return str(path)


def rows_of(config: DataConfig, name: str) -> dict[Any, str]:
    data = load_dataset(config.model_copy(update={"validation_fraction": 0.1}))
    split = data.split(name)
    assert len(set(split.texts)) == len(split.texts)
    return {text: data.labels.names[target] for text, target in zip(split.texts, split.targets, strict=True)}


def test_new_texts_are_added_known_ones_are_corrected_and_the_rest_stays(train: str, tmp_path: Path) -> None:
    before = {name: rows_of(DataConfig(train=train), name) for name in SPLITS}
    known, same = [text for text, label in before["train"].items() if label == "a"][:2]
    said = [{"text": "quite new", "label": "b"}, {"text": known, "label": "b"}, {"text": same, "label": "a"}]
    config = DataConfig(train=train, feedback=feedback(tmp_path, said))
    assert rows_of(config, "train") == before["train"] | {"quite new": "b", known: "b"}
    assert {name: rows_of(config, name) for name in SPLITS[1:]} == {name: before[name] for name in SPLITS[1:]}
    warnings = " ".join(load_dataset(config.model_copy(update={"validation_fraction": 0.1})).warnings)
    assert "texts of the feedback that join the training rows: 1 (" in warnings
    assert f"training rows with another label than the feedback, which counts: 1 ('{known}' is now b)." in warnings


def test_texts_of_validation_and_test_rows_are_not_trained_on(train: str, tmp_path: Path) -> None:
    held_out = [next(iter(rows_of(DataConfig(train=train), name))) for name in SPLITS[1:]]
    config = DataConfig(train=train, feedback=feedback(tmp_path, [{"text": text, "label": "b"} for text in held_out]))
    assert rows_of(config, "train") == rows_of(DataConfig(train=train), "train")
    warnings = load_dataset(config.model_copy(update={"validation_fraction": 0.1})).warnings
    assert any("validation or test rows, and not trained on: 2." in warning for warning in warnings)


def test_the_last_word_on_a_text_counts(train: str, tmp_path: Path) -> None:
    config = DataConfig(train=train, feedback=feedback(tmp_path, [{"text": "new", "label": name} for name in "aab"]))
    assert rows_of(config, "train")["new"] == "b"


def test_pairs_and_lists_of_labels(tmp_path: Path) -> None:
    rows = [{"q": f"one {n}", "r": f"two {n}", "tags": [["a"], ["b"], ["a", "b"], []][n % 4]} for n in range(60)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = [{"first": "one x", "second": "two x", "label": ["b"]}, {"first": "one y", "second": "two y", "label": []}]
    config = DataConfig.model_validate(
        {"train": str(tmp_path / "train.jsonl"), "text": ["q", "r"], "label": "tags", "feedback": feedback(tmp_path, said)}
    )
    data = load_dataset(config, task="multilabel")
    added = dict(zip(data.train.texts, data.train.targets.tolist(), strict=True))
    assert (added["one x", "two x"], added["one y", "two y"]) == ([0, 1], [0, 0])


def test_a_label_that_the_training_rows_lack_is_named_with_its_line(train: str, tmp_path: Path) -> None:
    path = feedback(tmp_path, [{"text": "new", "label": "a"}, {"text": "other", "label": "z"}])
    with pytest.raises(InputError, match=r"feedback\.jsonl, line 2: the label 'z' never occurs in the training rows"):
        load_dataset(DataConfig(train=train, feedback=path))


def test_a_file_that_is_not_there_names_the_setting(train: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file; check data\.feedback"):
        load_dataset(DataConfig(train=train, feedback=str(tmp_path / "none.jsonl")))
