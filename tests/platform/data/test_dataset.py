from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from manta.config import DataConfig
from manta.data import Split, TextDataset, load_dataset, load_labelled
from manta.errors import InputError
from manta.labels import LabelSpace

if TYPE_CHECKING:
    from pathlib import Path

SPLITS = ("train", "validation", "test")


def csv(path: Path, rows: list[tuple[str, Any]]) -> str:
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return str(path)


@pytest.fixture
def train(tmp_path: Path) -> str:
    """100 rows: 60 a, 30 b and 10 c."""
    return csv(tmp_path / "train.csv", [(f"text {number}", "aaaaaabbbc"[number % 10]) for number in range(100)])


def test_rows_are_set_aside_class_by_class(train: str) -> None:
    data = load_dataset(DataConfig(train=train, validation_fraction=0.1))
    assert data.class_counts("train") == {"a": 48, "b": 24, "c": 8}
    assert data.class_counts("validation") == data.class_counts("test") == {"a": 6, "b": 3, "c": 1}
    assert sorted(text for name in SPLITS for text in data.split(name).texts) == sorted(f"text {i}" for i in range(100))


def test_texts_keep_their_labels(train: str) -> None:
    data = load_dataset(DataConfig(train=train, validation_fraction=0.1))
    for name in SPLITS:
        split = data.split(name)
        assert [data.labels.names[target] for target in split.targets] == [
            "aaaaaabbbc"[int(text.split()[1]) % 10] for text in split.texts
        ]


def test_both_fractions_are_shares_of_all_rows(train: str) -> None:
    data = load_dataset(DataConfig(train=train, validation_fraction=0.3, test_fraction=0.4))
    assert [len(data.split(name)) for name in SPLITS] == [30, 30, 40]


def test_the_split_goes_with_its_seed(train: str) -> None:
    first, again, other = (load_dataset(DataConfig(train=train, split_seed=seed)) for seed in (0, 0, 1))
    assert first.test.texts == again.test.texts
    assert first.content_hash == again.content_hash
    assert set(first.test.texts) != set(other.test.texts)


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.45])
def test_the_test_rows_do_not_change_with_the_validation_fraction(train: str, fraction: float) -> None:
    usual = load_dataset(DataConfig(train=train))
    changed = load_dataset(DataConfig(train=train, validation_fraction=fraction))
    assert changed.test.texts == usual.test.texts
    assert len(changed.validation) != len(usual.validation)


def test_given_splits_are_left_alone(train: str, tmp_path: Path) -> None:
    held = csv(tmp_path / "held.csv", [("new", "a"), ("newer", "b")])
    data = load_dataset(DataConfig(train=train, test=held, validation=held))
    assert (len(data.train), data.validation.texts, data.test.texts) == (100, ["new", "newer"], ["new", "newer"])
    only_test = load_dataset(DataConfig(train=train, test=held, validation_fraction=0.2))
    assert (len(only_test.train), len(only_test.validation)) == (80, 20)


def test_rows_in_two_splits_are_warned_of_with_the_count(train: str, tmp_path: Path) -> None:
    held = csv(tmp_path / "held.csv", [("text 0", "a"), ("text 1", "a"), ("new", "b")])
    data = load_dataset(DataConfig(train=train, test=held, validation=csv(tmp_path / "dev.csv", [("fresh", "c")])))
    assert data.warnings[0] == "2 texts are in both train and test: test scores will look better than they are."


def test_integer_labels_are_in_the_order_of_their_values(tmp_path: Path) -> None:
    data = load_dataset(DataConfig(train=csv(tmp_path / "t.csv", [(f"text {i}", (10, 9, 2)[i % 3]) for i in range(30)])))
    assert data.labels == LabelSpace(("2", "9", "10"), "multiclass")


def test_the_task_can_be_chosen(tmp_path: Path, train: str) -> None:
    two = csv(tmp_path / "two.csv", [(f"text {i}", i % 2) for i in range(20)])
    assert load_dataset(DataConfig(train=two)).labels.task == "binary"
    assert load_dataset(DataConfig(train=two), task="multiclass").labels.task == "multiclass"
    with pytest.raises(InputError, match="binary, but the data has 3 labels"):
        load_dataset(DataConfig(train=train), task="binary")


def test_no_split_is_empty_because_of_too_few_rows(tmp_path: Path) -> None:
    location = csv(tmp_path / "few.csv", [(f"text {i}", i % 2) for i in range(6)])
    data = load_dataset(DataConfig(train=location, validation_fraction=0.1))
    assert [len(data.split(name)) for name in SPLITS] == [2, 2, 2]


def test_too_few_rows_to_set_any_aside_are_refused(tmp_path: Path) -> None:
    """With two rows of each class, one goes to test and the other must stay: no validation row is left to choose by."""
    location = csv(tmp_path / "few.csv", [(f"text {i}", i % 2) for i in range(4)])
    with pytest.raises(InputError, match="validation"):
        load_dataset(DataConfig(train=location, validation_fraction=0.1))


def rows_of_two(path: Path, count: int) -> str:
    return csv(path, [(f"text {number}", "ab"[number % 2]) for number in range(count)])


def test_few_rows_are_cross_validated_and_all_of_them_trained_on(train: str) -> None:
    data = load_dataset(DataConfig(train=train))
    assert data.class_counts("train") == {"a": 54, "b": 27, "c": 9}
    assert data.folds is not None
    assert np.bincount(data.folds).tolist() == [30, 30, 30]
    for target, count in enumerate((18, 9, 3)):  # every fold has its share of every label
        assert [int((data.train.targets[data.folds == fold] == target).sum()) for fold in range(3)] == [count] * 3
    assert data.sizes == "90 train (cross-validated in 3 folds), 10 test rows"
    assert not data.warnings  # training and validation rows are the same, and not by mistake
    again = load_dataset(DataConfig(train=train))
    assert again.folds is not None
    assert again.folds.tolist() == data.folds.tolist()


def test_from_500_training_rows_on_a_tenth_is_set_aside(tmp_path: Path) -> None:
    test = rows_of_two(tmp_path / "test.csv", 20)
    few = load_dataset(DataConfig(train=rows_of_two(tmp_path / "few.csv", 498), test=test))
    many = load_dataset(DataConfig(train=rows_of_two(tmp_path / "many.csv", 500), test=test))
    assert (few.folds is None, len(few.train)) == (False, 498)
    assert (many.folds, len(many.train), len(many.validation)) == (None, 450, 50)


def test_few_rows_per_label_are_cross_validated_below_2000_rows(tmp_path: Path) -> None:
    def of_100_labels(count: int) -> TextDataset:
        rows = [(f"text {number}", f"label {number % 100}") for number in range(count)]
        test = csv(tmp_path / "test.csv", [(f"test {number}", f"label {number}") for number in range(100)])
        return load_dataset(DataConfig(train=csv(tmp_path / "rows.csv", rows), test=test))

    few = of_100_labels(800)
    assert (few.folds is None, len(few.train)) == (False, 800)
    many = of_100_labels(1500)
    assert (many.folds, len(many.train), len(many.validation)) == (None, 1300, 200)


def test_given_validation_rows_and_fractions_are_heeded(train: str, tmp_path: Path) -> None:
    given = load_dataset(DataConfig(train=train, validation=csv(tmp_path / "v.csv", [("new a", "a"), ("new b", "b")])))
    assert (given.folds, len(given.validation)) == (None, 2)
    asked = load_dataset(DataConfig(train=train, validation_fraction=0.2))
    assert (asked.folds, len(asked.validation)) == (None, 20)


def test_folds_of_several_labels_a_row(tmp_path: Path) -> None:
    data = load_dataset(DataConfig(train=multilabel_csv(tmp_path / "t.csv")), task="multilabel")
    assert data.folds is not None
    for fold in range(3):
        assert (data.train.targets[data.folds == fold].sum(axis=0) > 0).all()


@pytest.mark.parametrize("sample", ["support", "reviews"])
def test_samples_load_without_warnings(sample: str) -> None:
    data = load_dataset(DataConfig(train=f"sample:{sample}"))
    assert data.warnings == ()
    assert all(set(data.class_counts(name).values()).isdisjoint({0}) for name in SPLITS)


@pytest.fixture(scope="module")
def small() -> TextDataset:
    part = Split(["a", "b", "c"], np.array([0, 1, 0]))
    return TextDataset(part, part, part, LabelSpace(("x", "y"), "binary"))


CHANGES: dict[str, Split] = {
    "text": Split(["a", "b", "d"], np.array([0, 1, 0])),
    "label": Split(["a", "b", "c"], np.array([0, 1, 1])),
    "order": Split(["b", "a", "c"], np.array([1, 0, 0])),
    "fewer": Split(["a", "b"], np.array([0, 1])),
    "moved border": Split(["ab", "", "c"], np.array([0, 1, 0])),
}


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_a_row_changes_the_content_hash(small: TextDataset, name: str, change: str) -> None:
    assert replace(small, **{name: CHANGES[change]}).content_hash != small.content_hash


def test_label_names_are_in_the_content_hash(small: TextDataset) -> None:
    assert replace(small, labels=LabelSpace(("x", "z"), "binary")).content_hash != small.content_hash


def test_equal_rows_have_equal_hashes_wherever_they_came_from(tmp_path: Path, train: str) -> None:
    copy = tmp_path / "copy.tsv"
    copy.write_text((tmp_path / "train.csv").read_text().replace(",", "\t"))
    assert load_dataset(DataConfig(train=str(copy))).content_hash == load_dataset(DataConfig(train=train)).content_hash


def test_a_null_character_does_not_make_unlike_rows_alike(small: TextDataset) -> None:
    left, right = (Split(texts, np.array([0, 1])) for texts in (["a\0b", "c"], ["a", "b\0c"]))
    assert replace(small, train=left).content_hash != replace(small, train=right).content_hash


def test_take_keeps_the_given_order() -> None:
    taken = Split(["a", "b", "c"], np.array([0, 1, 2])).take(np.array([2, 0]))
    assert (taken.texts, taken.targets.tolist(), len(taken)) == (["c", "a"], [2, 0], 2)


def test_labelled_rows_take_the_models_labels(tmp_path: Path) -> None:
    labels = LabelSpace(("x", "b", "a"), "multiclass")
    location = csv(tmp_path / "new.csv", [("one", "a"), ("two", "b")])
    split = load_labelled(location, DataConfig(train=location), labels=labels)
    assert (split.texts, split.targets.tolist()) == (["one", "two"], [2, 1])


def test_labelled_rows_with_a_label_the_model_does_not_know_are_refused(tmp_path: Path) -> None:
    location = csv(tmp_path / "new.csv", [("one", "a"), ("two", "c")])
    with pytest.raises(InputError, match=r"new\.csv, line 3: the label 'c' never occurs .*they have a, b"):
        load_labelled(location, DataConfig(train=location), labels=LabelSpace(("a", "b"), "binary"))


def multilabel_csv(path: Path) -> str:
    """60 rows: a on every second, b on every third, c on every tenth, and none where no number divides."""
    rows = [(f"text {i}", "|".join(name for name, step in (("a", 2), ("b", 3), ("c", 10)) if i % step == 0)) for i in range(60)]
    return csv(path, rows)


def test_several_labels_a_row_are_split_with_their_shares(tmp_path: Path) -> None:
    data = load_dataset(DataConfig(train=multilabel_csv(tmp_path / "t.csv"), validation_fraction=0.1), task="multilabel")
    assert data.labels == LabelSpace(("a", "b", "c"), "multilabel")
    assert data.class_counts("train") == {"a": 24, "b": 16, "c": 4}
    assert data.class_counts("validation") == data.class_counts("test") == {"a": 3, "b": 2, "c": 1}
    for name in SPLITS:
        for text, target in zip(data.split(name).texts, data.split(name).targets, strict=True):
            number = int(str(text).split()[1])
            assert target.tolist() == [number % 2 == 0, number % 3 == 0, number % 10 == 0]
    assert any(not target.any() for target in data.test.targets)


def test_lists_of_labels_are_multilabel_by_themselves_and_separated_ones_only_when_asked(tmp_path: Path) -> None:
    lists = tmp_path / "lists.jsonl"
    rows = [{"text": f"text {i}", "label": [["a"], ["a", "b"], []][i % 3]} for i in range(30)]
    lists.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_dataset(DataConfig(train=str(lists))).labels.task == "multilabel"
    with pytest.raises(InputError, match=r"line 1: \['a'\] is not a word .*model\.task multilabel"):
        load_dataset(DataConfig(train=str(lists)), task="multiclass")
    words = csv(tmp_path / "words.csv", [(f"text {i}", ["a", "a|b", "b"][i % 3]) for i in range(30)])
    assert load_dataset(DataConfig(train=words)).labels.names == ("a", "a|b", "b")
    assert load_dataset(DataConfig(train=words), task="multilabel").labels.names == ("a", "b")


def test_an_unknown_one_of_several_test_labels_is_refused(tmp_path: Path) -> None:
    held = csv(tmp_path / "held.csv", [("new", "a|b"), ("newer", "b|d")])
    with pytest.raises(InputError, match=r"held\.csv, line 3: the label 'd' never occurs"):
        load_dataset(DataConfig(train=multilabel_csv(tmp_path / "t.csv"), test=held), task="multilabel")


def test_a_label_of_one_row_is_warned_of_and_stays_in_train(tmp_path: Path) -> None:
    rows = [(f"text {i}", "a|b" if i % 2 else "a") for i in range(40)] + [("rare", "a|z")]
    data = load_dataset(DataConfig(train=csv(tmp_path / "t.csv", rows)), task="multilabel")
    assert data.class_counts("train")["z"] == 1
    assert data.warnings[0].startswith("the label z has one training row only")


def test_text_pairs_are_split_and_hashed_as_pairs(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("left,right,label\n" + "".join(f"text {i},more {i},{'ab'[i % 2]}\n" for i in range(40)))
    data = load_dataset(DataConfig(train=str(path), text=("left", "right")))
    assert all(isinstance(text, tuple) and text[1] == text[0].replace("text", "more") for text in data.test.texts)
    swapped = load_dataset(DataConfig(train=str(path), text=("right", "left")))
    single = load_dataset(DataConfig(train=str(path), text="left"))
    assert len({data.content_hash, swapped.content_hash, single.content_hash}) == 3


@pytest.mark.parametrize("changed", [("ab", ""), ("", "ab"), ("b", "a")])
def test_where_one_text_of_a_pair_ends_is_in_the_content_hash(small: TextDataset, changed: tuple[str, str]) -> None:
    left, right = (Split([text], np.array([0])) for text in (("a", "b"), changed))
    assert replace(small, train=left).content_hash != replace(small, train=right).content_hash


def test_labelled_rows_of_a_multilabel_model_are_separated(tmp_path: Path) -> None:
    location = csv(tmp_path / "new.csv", [("one", "a;c"), ("two", "")])
    config = DataConfig(train=location, label_separator=";")
    split = load_labelled(location, config, labels=LabelSpace(("a", "b", "c"), "multilabel"))
    assert split.targets.tolist() == [[1, 0, 1], [0, 0, 0]]


# Classes with few rows


def counted(path: Path, counts: dict[str, int]) -> str:
    return csv(path, [(f"{name} {number}", name) for name, count in counts.items() for number in range(count)])


def test_many_small_classes_get_the_fractions_asked(tmp_path: Path) -> None:
    location = counted(tmp_path / "train.csv", {f"c{number}": 3 for number in range(150)})
    data = load_dataset(DataConfig(train=location, validation_fraction=0.05, test_fraction=0.05))
    assert [len(data.split(name)) for name in SPLITS] == [405, 23, 22]
    assert min(data.class_counts("train").values()) == 2
    assert [warning.partition(" (")[0] for warning in data.warnings] == [
        "validation has no row of 127 of the 150 labels",
        "test has no row of 128 of the 150 labels",
    ]


def test_a_class_too_small_for_a_split_is_named(tmp_path: Path) -> None:
    location = counted(tmp_path / "train.csv", {"common": 995, "rare": 2})
    data = load_dataset(DataConfig(train=location))
    assert [len(data.split(name)) for name in SPLITS] == [797, 99, 101]
    assert data.class_counts("test")["rare"] == 1
    (warning,) = data.warnings
    assert warning.startswith("validation has no row of 1 of the 2 labels (rare: 1 training row)")
    assert warning.endswith("add rows or give data.validation.")


def test_a_validation_larger_than_training_is_refused(train: str) -> None:
    with pytest.raises(InputError, match=r"validation_fraction 0\.5 sets 50 rows aside for validation and leaves 40 to train on"):
        load_dataset(DataConfig(train=train, validation_fraction=0.5))


def test_labels_that_a_given_split_lacks_are_named(train: str, tmp_path: Path) -> None:
    test = csv(tmp_path / "test.csv", [("one", "a"), ("two", "b")])
    (warning,) = load_dataset(DataConfig(train=train, test=test)).warnings
    assert warning.startswith("test has no row of 1 of the 3 labels (c: 10 training rows)")
