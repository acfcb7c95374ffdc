from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from manta.config import DataConfig
from manta.data import load_dataset, load_labelled
from manta.data.look_alikes import folded
from manta.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

WORDS = "one two three four five six seven eight nine ten".split()


def written(path: Path, labels: list[str], texts: list[str] | None = None) -> str:
    texts = texts or [f"text {number}" for number in range(len(labels))]
    rows = "".join(f'"{text}","{label}"\n' for text, label in zip(texts, labels, strict=True))
    path.write_text("text,label\n" + rows, encoding="utf-8")
    return str(path)


def loaded(location: str, **settings: Any) -> tuple[tuple[str, ...], list[str]]:
    data = load_dataset(DataConfig.model_validate({"train": location, "validation_fraction": 0.2} | settings))
    return data.labels.names, [warning for warning in data.warnings if "has no row" not in warning]


@pytest.mark.parametrize(
    "forms",
    [
        ("Spam", "SPAM", "spam"),
        ("True", "true"),
        ("0", "0.0", "00"),
        ("-1", "-1.00"),
        ("ham", "ham\u200b"),
        ("caf\u00e9", "cafe\u0301"),
        ("too late", "too\u00a0late", "too  late"),
        ("straße", "STRASSE"),
        ("late", "'late'"),
        ("love \u2764", "love \u2764\ufe0f"),
        ("e-mail", "e\u2013mail", "e\u2011mail"),
        ("don't know", "don\u2019t know"),
        ("\u0130ade", "iade"),
        ("care", "c\u0430r\u0435"),
        ("late", "late\x07"),
    ],
)
def test_labels_that_only_look_different_are_named_and_can_be_merged(tmp_path: Path, forms: tuple[str, ...]) -> None:
    location = written(tmp_path / "train.csv", [*forms * 5, forms[0], *["other"] * 20])
    names, warnings = loaded(location)
    assert set(names) == {*forms, "other"}
    (warning,) = warnings
    assert warning.startswith("labels that only look different: ")
    assert " (6 rows), " in warning
    assert warning.count("(5 rows)") == len(forms) - 1
    assert "data.normalize_labels: true merges them" in warning
    names, warnings = loaded(location, normalize_labels=True)
    assert set(names) == {forms[0], "other"}
    assert "merged into the most frequent spelling" in warnings[0]


def test_each_form_can_be_told_apart_in_the_sentence(tmp_path: Path) -> None:
    _, (warning,) = loaded(written(tmp_path / "train.csv", ["caf\u00e9", "cafe\u0301", "tea"] * 6))
    assert "'caf\\xe9' (6 rows), 'cafe\\u0301' (6 rows)" in warning
    _, (warning,) = loaded(written(tmp_path / "train.csv", ["thé", "Thé", "ham", "ham\u200b"] * 6))
    _, (cyrillic,) = loaded(written(tmp_path / "train.csv", ["care", "c\u0430re", "tea"] * 6))
    assert "'care' (6 rows), 'c\\u0430re' (6 rows)" in cyrillic
    assert "'thé' (6 rows), 'Thé' (6 rows); 'ham' (6 rows), 'ham\\u200b' (6 rows)" in warning


def test_labels_that_differ_are_not_alike() -> None:
    names = ["a", "b", "a b", "a-b", "a_b", "1", "1.5", "10", "100", "é", "e", "-1", "v1.0", "v1", ""]
    assert len({folded(name) for name in names}) == len(names)


def test_merged_labels_reach_every_split(tmp_path: Path) -> None:
    train = written(tmp_path / "train.csv", ["Spam", "Spam", "spam", "ham"] * 5)
    test = written(tmp_path / "test.csv", ["SPAM", "HAM"], ["new one", "new two"])
    with pytest.raises(InputError, match="the label 'SPAM' never occurs"):
        loaded(train, test=test)
    config = DataConfig(train=train, test=test, normalize_labels=True)
    data = load_dataset(config)
    assert data.labels.names == ("Spam", "ham")
    assert data.test.targets.tolist() == [0, 1]
    assert load_labelled(test, config, labels=data.labels).targets.tolist() == [0, 1]


def test_several_labels_of_a_row_are_merged(tmp_path: Path) -> None:
    train = written(tmp_path / "train.csv", ["b|a", "a|A", "B|b", "b"] * 5)
    data = load_dataset(DataConfig(train=train, validation_fraction=0.2, normalize_labels=True), task="multilabel")
    assert data.labels.names == ("a", "b")
    assert any("'b' (15 rows), 'B' (5 rows)" in warning for warning in data.warnings)


def test_texts_alike_with_two_labels_are_counted(tmp_path: Path) -> None:
    texts = [f"text {word}" for word in WORDS] + ["Text  one", "TEXT two", "text  three"]
    _, (warning,) = loaded(written(tmp_path / "train.csv", ["a", "b"] * 5 + ["b", "b", "a"], texts))
    assert "train.csv: texts that differ from another by case or blanks only and have another label: 1 " in warning
    assert "(line 2 a and line 12 b); decide on one." in warning


def test_words_for_missing_values_are_counted(tmp_path: Path) -> None:
    texts = [f"text {word}" for word in WORDS] + ["NA", "null", "None", "nan", "None "]
    _, (warning,) = loaded(written(tmp_path / "train.csv", ["a", "b"] * 5 + ["a"] * 5, texts))
    assert "may stand for a missing value: 'NA' (1 row), 'None' (2 rows), 'nan' (1 row), 'null' (1 row)" in warning
    _, (warning,) = loaded(written(tmp_path / "labels.csv", ["a", "NA"] * 5))
    assert warning == "labels that may stand for a missing value: 'NA' (5 rows); remove these rows if they do."


def test_labels_between_quotes_that_csv_does_not_know_are_warned_of(tmp_path: Path) -> None:
    _, (warning,) = loaded(written(tmp_path / "train.csv", ["'spam'", "'ham'"] * 6))
    assert warning.startswith("each label has quotes that belong to it, such as 'spam': in CSV, only double quotes")
