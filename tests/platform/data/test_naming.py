"""`data.labels`: new names of labels wherever labelled rows are read."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from manta.behaviour.run import find_suite
from manta.config import DataConfig
from manta.config.file import build_config
from manta.data import TextDataset, load_dataset, load_labelled
from manta.errors import InputError
from manta.label_check.decisions import LabelDecision, add_decisions, text_hash

from ...conftest import write_csv

GIVEN = ["refund", "billing", "delivery", "spam", "delivery", "account"]
ROWS = [(f"text {number}", GIVEN[number % 6]) for number in range(60)]
MAP = {"refund": "billing", "account": "sign in", "spam": None}
EXPECTED = {text: MAP.get(label, label) for text, label in ROWS if label != "spam"}


def data_of(folder: Path, labels: dict[str, str | None] | None, rows: list[tuple[str, str]] = ROWS, **settings: Any) -> DataConfig:
    path = write_csv(folder / "rows.csv", rows)
    return DataConfig.model_validate({"train": str(path), "labels": labels, "validation_fraction": 0.2} | settings)


def labels_of(dataset: TextDataset) -> dict[str, str]:
    splits = (dataset.train, dataset.validation, dataset.test)
    return {
        str(text): dataset.labels.names[target] for split in splits for text, target in zip(split.texts, split.targets, strict=True)
    }


def test_labels_are_merged_renamed_and_left_out_and_the_files_stay(tmp_path: Path) -> None:
    config = data_of(tmp_path, MAP)
    before = (tmp_path / "rows.csv").read_bytes()
    dataset = load_dataset(config)
    assert dataset.labels.names == ("billing", "delivery", "sign in")
    assert labels_of(dataset) == EXPECTED
    said = "labels: 10 rows of 'refund' count as 'billing'; 10 rows of 'account' count as 'sign in'; 10 rows of 'spam' left out."
    assert said in dataset.warnings
    assert (tmp_path / "rows.csv").read_bytes() == before
    assert dataset.test.places is not None
    assert all(GIVEN[(int(place.split()[1]) - 2) % 6] != "spam" for place in dataset.test.places)


def test_other_names_are_other_data(tmp_path: Path) -> None:
    hashes = {load_dataset(data_of(tmp_path, labels)).content_hash for labels in (None, MAP, MAP | {"account": "login"})}
    assert len(hashes) == 3
    assert load_dataset(data_of(tmp_path, {})).content_hash == load_dataset(data_of(tmp_path, None)).content_hash


def test_a_merge_settles_a_text_with_both_labels(tmp_path: Path) -> None:
    rows = [*ROWS, ("text 0", "billing")]
    with pytest.raises(InputError, match="the same text has the label 'billing' here and"):
        load_dataset(data_of(tmp_path, None, rows))
    assert labels_of(load_dataset(data_of(tmp_path, MAP, rows))) == EXPECTED


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ({"refunds": "billing"}, r"data\.labels: no row has the label 'refunds'; did you mean refund\?"),
        (dict.fromkeys(GIVEN, "all"), r"data\.labels leaves only the label 'all' in .*rows\.csv; a classifier needs at least two"),
        (dict.fromkeys(GIVEN[1:]), r"data\.labels leaves only the label 'refund' in"),
        (dict.fromkeys(GIVEN), r"data\.labels leaves out every row of .*rows\.csv; keep one"),
    ],
)
def test_a_map_that_does_not_fit_the_rows_is_refused(tmp_path: Path, labels: dict[str, str | None], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        load_dataset(data_of(tmp_path, labels))


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ({"a": " "}, "exp.yaml: data.labels gives 'a' an empty name; null leaves the rows of a label out"),
        ({"a": "b", "b": "c"}, "exp.yaml: data.labels renames 'a' to 'b' and renames 'b' to 'c'; rows may already have"),
        ({"a": "b", "b": None}, "exp.yaml: data.labels renames 'a' to 'b' and leaves 'b' out; rows may already have"),
        ({1: "one"}, "exp.yaml: data.labels: YAML reads the name 1 as the number 1; quote it"),
        ({"a": False}, "exp.yaml: data.labels: YAML reads the value as false (no and off, too); quote it"),
    ],
)
def test_a_map_that_is_not_clear_is_refused_before_rows_are_read(labels: dict[Any, Any], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        build_config({"name": "n", "data": {"train": "rows.csv", "labels": labels}}, source="exp.yaml")
    assert str(caught.value).startswith(sentence)
    build_config({"name": "n", "data": {"train": "rows.csv", "labels": {"a": "b", "c": "b", "b": "b"}}}, source="exp.yaml")


@pytest.mark.parametrize("old", ["refund", "billing"])
def test_decisions_count_with_old_and_with_new_names_and_before_rows_are_left_out(tmp_path: Path, old: str) -> None:
    config = data_of(tmp_path, MAP, corrections=str(tmp_path / "labels.jsonl"))
    decided = [("text 0", old, "account"), ("text 3", "spam", "refund"), ("text 2", "delivery", "spam")]
    add_decisions(tmp_path / "labels.jsonl", [LabelDecision(text_hash(text), was, new) for text, was, new in decided])
    dataset = load_dataset(config)
    expected = EXPECTED | {"text 0": "sign in", "text 3": "billing"}
    del expected["text 2"]
    assert labels_of(dataset) == expected
    assert dataset.corrections is not None
    assert (dataset.corrections.applied, dataset.corrections.conflicting) == (3, 0)
    assert any("10 rows of 'spam' left out" in warning for warning in dataset.warnings)  # one saved, one more


def test_spellings_are_merged_first(tmp_path: Path) -> None:
    rows = [(text, "Refund" if number < 7 else "BILLING" if number < 13 else label) for number, (text, label) in enumerate(ROWS)]
    labels = {"REFUND": "billing", "Account": "Sign in", "spam": None}
    dataset = load_dataset(data_of(tmp_path, labels, rows, normalize_labels=True))
    assert dataset.labels.names == ("Sign in", "billing", "delivery")
    assert not any("'spam'" in warning and "missing" in warning for warning in dataset.warnings)
    assert Counter(labels_of(dataset).values())["billing"] == sum(
        label in ("Refund", "refund", "BILLING", "billing") for _, label in rows
    )
    with pytest.raises(InputError, match="no row has the label 'REFUND'"):
        load_dataset(data_of(tmp_path, labels, rows))
    with pytest.raises(InputError, match=r"data\.labels has 'refund' and 'Refund', which are one label"):
        load_dataset(data_of(tmp_path, {"refund": "billing", "Refund": "money"}, rows, normalize_labels=True))


def test_several_labels_a_row(tmp_path: Path) -> None:
    kinds = ["refund|billing", "spam|delivery", "spam", "refund", "", "delivery"]
    rows = [(f"text {number}", kinds[number % 6]) for number in range(60)]
    config = data_of(tmp_path, {"refund": "billing", "spam": None}, rows)
    dataset = load_dataset(config, task="multilabel")
    expected = [{"billing"}, {"delivery"}, set(), {"billing"}, set(), {"delivery"}]
    seen = 0
    for split in (dataset.train, dataset.validation, dataset.test):
        for text, target in zip(split.texts, split.targets, strict=True):
            names = {name for name, has in zip(dataset.labels.names, target, strict=True) if has}
            assert names == expected[int(str(text).split()[1]) % 6]
            seen += 1
    assert seen == len(rows)
    said = "labels: 20 rows of 'refund' count as 'billing'; 'spam' left out of 20 rows, which stay."
    assert said in dataset.warnings
    with pytest.raises(InputError, match=r"data\.labels: 'a\|b' holds data\.label_separator '\|'; a label gets one new name"):
        load_dataset(data_of(tmp_path, {"refund": "a|b"}, rows), task="multilabel")
    with pytest.raises(InputError, match=r"data\.labels leaves only the label 'delivery'"):
        load_dataset(data_of(tmp_path, dict.fromkeys(["refund", "billing", "spam"]), rows), task="multilabel")


def test_feedback_and_rows_to_evaluate_on_may_have_old_and_new_names(tmp_path: Path) -> None:
    said = [("new one", "refund"), ("new two", "billing"), ("new three", "spam"), ("new four", "sign in")]
    path = tmp_path / "feedback.jsonl"
    path.write_text("".join(json.dumps({"text": text, "label": label, "answer": "", "version": 1}) + "\n" for text, label in said))
    config = data_of(tmp_path, MAP, feedback=str(path))
    dataset = load_dataset(config)
    assert labels_of(dataset) == EXPECTED | {"new one": "billing", "new two": "billing", "new four": "sign in"}
    assert "feedback, labels: 1 row of 'refund' counts as 'billing'; 1 row of 'spam' left out." in dataset.warnings
    location = str(write_csv(tmp_path / "test.csv", said))
    split = load_labelled(location, config, labels=dataset.labels)
    assert [dataset.labels.names[target] for target in split.targets] == ["billing", "billing", "sign in"]
    assert split.notes == ("labels: 1 row of 'refund' counts as 'billing'; 1 row of 'spam' left out.",)


def test_the_behaviour_tests_of_a_sample_are_for_its_own_labels() -> None:
    assert find_suite({"train": "sample:support", "labels": None}) is not None
    assert find_suite({"train": "sample:support", "labels": {"billing": "money"}}) is None
