"""The file of decisions: what it keeps when several people add to it, when a line is cut, and when somebody changes their mind."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from manta.errors import InputError
from manta.label_check.decisions import LabelDecision, add_decisions, read_decisions, text_hash

HASH = text_hash("where is my parcel")


def decision(old: str = "billing", new: str | None = "delivery", *, who: str = "ada", undone: bool = False) -> LabelDecision:
    return LabelDecision(HASH, old, new, who, "2026-01-31T12:00:00Z", undone)


def found(path: Path) -> list[LabelDecision]:
    return [item for _, item in read_decisions(path)]


def add_many(path: Path, who: str) -> None:
    for number in range(200):
        add_decisions(path, [LabelDecision(f"{number:032x}", "a", "b" * 300, who)])


def test_a_decision_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "labels.jsonl"
    several = LabelDecision(HASH, ("a", "b"), (), "bob", "2026-02-01T00:00:00Z")
    add_decisions(path, [decision(), decision(new=None), several])
    assert found(path) == [decision(), decision(new=None), several]
    assert json.loads(path.read_text().splitlines()[1])["new"] is None


def test_two_people_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    people = [multiprocessing.get_context("spawn").Process(target=add_many, args=(path, who)) for who in ("ada", "bob")]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert sorted((item.who, int(item.text_hash, 16)) for item in found(path)) == [
        (who, number) for who in ("ada", "bob") for number in range(200)
    ]


def test_half_a_line_at_the_end_is_left_out_and_the_next_decision_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    add_decisions(path, [decision()])
    whole = path.read_text()
    path.write_text(whole + whole[: len(whole) // 2])
    assert found(path) == [decision()]
    add_decisions(path, [decision(who="bob")])
    assert found(path) == [decision(), decision(who="bob")]


def test_a_last_line_without_its_end_counts(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(decision().to_line())
    add_decisions(path, [decision(who="bob")])
    assert found(path) == [decision(), decision(who="bob")]


def test_taking_back_removes_one_decision_of_that_person(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    add_decisions(path, [decision(), decision(who="bob"), decision(), decision(undone=True)])
    assert found(path) == [decision(), decision(who="bob")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: the decision is no JSON"),
        ("[]", "line 2: the decision has no text_hash"),
        ('{"text_hash": "0", "old": "a"}', "line 2: the decision has no new"),
        (
            '{"text_hash": "0", "old": 3, "new": "a"}',
            "line 2: the decision has a label that is neither a word nor a list of words: 3",
        ),
        (
            '{"text_hash": "0", "old": "a", "new": 3}',
            "line 2: the decision has a label that is neither a word nor a list of words: 3",
        ),
    ],
)
def test_a_line_that_is_no_decision_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(f"{decision().to_line()}\n{line}\n{decision().to_line()}\n")
    with pytest.raises(InputError, match=words):
        read_decisions(path)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file; check data\.corrections"):
        read_decisions(tmp_path / "labels.jsonl")
