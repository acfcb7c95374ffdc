"""Decisions about labels, applied when rows are read: in every split, one after another, and never to the files."""

from __future__ import annotations

from pathlib import Path

import pytest

from manta.config import DataConfig
from manta.data import TextDataset, load_dataset, load_labelled
from manta.errors import InputError
from manta.label_check.decisions import LabelDecision, add_decisions, text_hash
from manta.labels import LabelSpace, RowLabels

from ...conftest import rows_of, write_csv

ROWS = rows_of(["delivery", "billing", "account"], 60)
TEXTS = [text for text, _ in ROWS]


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    """Rows in three files, with a file of decisions that is not made yet."""
    for name, rows in (("train", ROWS[:36]), ("validation", ROWS[36:48]), ("test", ROWS[48:])):
        write_csv(tmp_path / f"{name}.csv", rows)
    return DataConfig(train=str(tmp_path), corrections=str(tmp_path / "labels.jsonl"))


def decide(data: DataConfig, *decisions: tuple[int | str, RowLabels, RowLabels | None]) -> None:
    """Add decisions about rows of `ROWS` by index, or about other texts."""
    items = [LabelDecision(text_hash(TEXTS[about] if isinstance(about, int) else about), old, new) for about, old, new in decisions]
    add_decisions(Path(str(data.corrections)), items)


def labels_of(dataset: TextDataset) -> dict[str, str]:
    splits = (dataset.train, dataset.validation, dataset.test)
    return {
        str(text): dataset.labels.names[target] for split in splits for text, target in zip(split.texts, split.targets, strict=True)
    }


def other_than(label: str) -> str:
    return {"delivery": "billing", "billing": "account", "account": "delivery"}[label]


def test_rows_of_every_split_follow_the_decisions_and_the_files_stay(data: DataConfig) -> None:
    before = {path: path.read_bytes() for path in Path(data.train).glob("*.csv")}
    changed, dropped, kept = (0, 40, 50), 1, 2
    decide(data, *((row, ROWS[row][1], other_than(ROWS[row][1])) for row in changed), (dropped, ROWS[1][1], None))
    decide(data, (kept, ROWS[2][1], ROWS[2][1]), ("no such text", "billing", "account"), (3, other_than(ROWS[3][1]), "account"))
    dataset = load_dataset(data)
    expected = dict(ROWS) | {TEXTS[row]: other_than(ROWS[row][1]) for row in changed}
    del expected[TEXTS[dropped]]
    assert labels_of(dataset) == expected
    found = dataset.corrections
    assert found is not None
    assert (found.applied, found.unused, found.conflicting, found.relabeled, found.dropped) == (5, 1, 1, 3, 1)
    assert before == {path: path.read_bytes() for path in Path(data.train).glob("*.csv")}
    told = " ".join(dataset.warnings)
    assert "5 applied, 1 unused as no row has their text, 1 conflicting" in told
    assert f"labels.jsonl, line 7: the decision is about the label '{other_than(ROWS[3][1])}', but" in told
    assert f"train.csv, line 5 has the label '{ROWS[3][1]}'; it is not applied" in told


@pytest.mark.parametrize(
    ("decisions", "label"),
    [
        ([("delivery", "billing"), ("billing", "account")], "account"),  # one after another
        ([("delivery", "billing"), ("delivery", "account")], "account"),  # a second opinion on the file's label
        ([("delivery", None), ("delivery", "delivery")], "delivery"),
        ([("billing", "delivery")], "delivery"),  # the file was corrected meanwhile
        ([("billing", "account")], "delivery"),
    ],
)
def test_several_decisions_about_a_text(data: DataConfig, decisions: list[tuple[str, str | None]], label: str) -> None:
    assert ROWS[0][1] == "delivery"
    decide(data, *((0, old, new) for old, new in decisions))
    assert labels_of(load_dataset(data))[TEXTS[0]] == label


def test_a_decision_settles_a_text_with_two_labels(tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", [*ROWS, (TEXTS[0], "account")])
    data = DataConfig(train=str(tmp_path / "rows.csv"), corrections=str(tmp_path / "labels.jsonl"))
    decide(data, (0, "account", "delivery"))
    dataset = load_dataset(data)
    assert labels_of(dataset)[TEXTS[0]] == "delivery"
    assert dataset.corrections is not None
    assert (dataset.corrections.applied, dataset.corrections.conflicting) == (1, 0)


def test_a_label_that_the_data_does_not_have_is_refused_with_its_line(data: DataConfig) -> None:
    decide(data, (1, ROWS[1][1], ROWS[1][1]), (0, "delivery", "refund"))
    with pytest.raises(
        InputError, match=r"labels.jsonl, line 2: 'refund' is not a label of the data \(account, billing, delivery\)"
    ):
        load_dataset(data)


def test_dropping_every_row_is_refused(data: DataConfig) -> None:
    decide(data, *((row, ROWS[row][1], None) for row in range(48, 60)))
    with pytest.raises(InputError, match=r"its decisions drop every row of .*test.csv"):
        load_dataset(data)


def test_rows_to_evaluate_on_follow_them_too(data: DataConfig, tmp_path: Path) -> None:
    decide(data, (48, ROWS[48][1], other_than(ROWS[48][1])), (49, ROWS[49][1], None))
    labels = LabelSpace(("account", "billing", "delivery"), "multiclass")
    split = load_labelled(str(tmp_path / "test.csv"), data, labels=labels)
    assert len(split) == 11
    assert labels.names[split.targets[0]] == other_than(ROWS[48][1])
    assert split.places == ["line 2", *(f"line {line}" for line in range(4, 14))]
    assert any("1 unused" in note or "2 applied, 0 unused" in note for note in split.notes)


def test_several_labels_a_row(several_labels: Path, tmp_path: Path) -> None:
    data = DataConfig(train=str(several_labels), label_separator=";", corrections=str(tmp_path / "labels.jsonl"))
    before = load_dataset(data.model_copy(update={"corrections": None}), task="multilabel")
    row = next(row for row, target in enumerate(before.train.targets) if target.sum() == 2)
    text = str(before.train.texts[row])
    old = tuple(name for name, has in zip(before.labels.names, before.train.targets[row], strict=True) if has)
    decide(data, (text, old, ()))
    after = load_dataset(data, task="multilabel")
    assert after.train.targets[list(after.train.texts).index(text)].tolist() == [0, 0, 0]
