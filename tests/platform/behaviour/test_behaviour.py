"""Behaviour tests: what cases come of a suite, what counts as a failure, and how faults in the file are told."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from manta.behaviour.perturbations import (
    add_sentence,
    contractions,
    expanded,
    filled,
    lower_case,
    punctuation,
    swap,
    typo,
    upper_case,
)
from manta.behaviour.run import Suite, find_suite, load_suite, run_suite
from manta.config import DataConfig
from manta.config.file import load_config
from manta.data import load_dataset
from manta.data.read import SAMPLES
from manta.errors import InputError
from manta.labels import LabelSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from manta.texts import Text

LABELS = LabelSpace(("bad", "good"), "binary")
TOPICS = LabelSpace(("billing", "delivery", "urgent"), "multilabel")
GUIDE = Path(__file__).parents[3] / "docs" / "evaluation.md"


@dataclass(frozen=True)
class Reply:
    labels: tuple[str, ...]
    scores: dict[str, float]


class Rule:
    """Decides by a function from text to the probability of the last label, or of each for several labels."""

    def __init__(self, rule: Callable[[Any], float | dict[str, float]], labels: LabelSpace = LABELS) -> None:
        self.rule, self.labels = rule, labels
        self.asked: list[Text] = []

    def predict(self, texts: Sequence[Text]) -> list[Reply]:
        self.asked += texts
        return [self._reply(self.rule(text)) for text in texts]

    def _reply(self, found: float | dict[str, float]) -> Reply:
        if isinstance(found, dict):
            return Reply(tuple(name for name, score in found.items() if score >= 0.5), found)
        first, last = self.labels.names
        return Reply((last if found >= 0.5 else first,), {first: 1 - found, last: found})


def suite_of(folder: Path, *tests: dict[str, Any], labels: LabelSpace = LABELS, num_texts: Any = 1, **document: Any) -> Suite:
    path = folder / "behaviour.yaml"
    path.write_text(yaml.safe_dump({"tests": list(tests), **document}, sort_keys=False), encoding="utf-8")
    return load_suite(path, labels=labels, num_texts=num_texts)


def invariance(perturbation: str, **settings: Any) -> dict[str, Any]:
    return {"name": perturbation, "kind": "invariance", "perturbation": perturbation, **settings}


PLAIN = {"name": "plain", "kind": "minimum_functionality", "label": "good", "texts": ["it works"]}
NOT = {"name": "not", "kind": "direction", "label": "good", "direction": "down", "texts": ["it is {|not }fine"]}


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("I don't know, we've tried", "I do not know, we have tried"),
        ("It is not here and I am cross", "It isn't here and I'm cross"),
        ("Cannot log in", "Can't log in"),
        ("You’re late", "You are late"),
        ("Yes, I am", "Yes, I am"),
        ("DO NOT", "Don't"),
    ],
)
def test_contractions_are_written_out_or_else_made(text: str, changed: str) -> None:
    assert contractions(text) == changed


@pytest.mark.parametrize(("text", "changed"), [("Why?!", "Why"), ("why", "why."), ("Well… ", "Well"), ("...", "....")])
def test_the_last_marks_go_or_a_full_stop_comes(text: str, changed: str) -> None:
    assert punctuation(text) == changed


def test_a_typo_swaps_two_neighbouring_letters_but_never_the_first() -> None:
    found = {typo("a kettle", random.Random(seed)) for seed in range(50)}
    assert found == {"a ktetle", "a ketlte", "a kettel"}  # not the two t, which are the same
    assert typo("an old cat 12345", random.Random(0)) == "an old cat 12345"


def test_case_changes_every_letter() -> None:
    assert (upper_case("Straße 1"), lower_case("ÄÖ b")) == ("STRASSE 1", "äö b")


def test_swapped_names_are_whole_words_each_with_one_stand_in() -> None:
    names = ["Ann", "Ann Lee", "Bob", "Cy"]
    for seed in range(20):
        changed = swap("Ann Lee met Bob; Bob left Anna", random.Random(seed), among=names)
        first, second, third = re.fullmatch(r"(Ann|Cy) met (Ann|Cy); (Ann|Cy) left Anna", changed).groups()  # type: ignore[union-attr]
        assert first != second == third
    assert swap("Ann and Bob", random.Random(0), among=["Ann", "Bob"]) == "Bob and Ann"


def test_a_sentence_is_added_at_either_end() -> None:
    assert add_sentence("x", random.Random(0), sentences=["Hi."], at_start=True) == "Hi. x"
    assert add_sentence("x", random.Random(0), sentences=["Bye."], at_start=False) == "x Bye."


def test_templates_give_every_combination_or_as_many_as_asked_for() -> None:
    lists = {"a": ["1", "2"], "b": ["x", "y", "z"]}
    every = [
        filled(text, values) for text, values in expanded(["{a}{b}{a}", "{{{a}}}"], lists, most=99, generator=random.Random(0))
    ]
    assert sorted(map(str, every)) == sorted([f"{a}{b}{a}" for a in "12" for b in "xyz"] + ["{1}", "{2}"])
    some = [filled(text, values) for text, values in expanded(["{a}{b}"], lists, most=4, generator=random.Random(0))]
    assert len(set(some)) == 4
    pair = [filled(text, values) for text, values in expanded([("{a}", "{a}b")], lists, most=9, generator=random.Random(0))]
    assert pair == [("1", "1b"), ("2", "2b")]


def test_an_invariance_test_counts_changed_answers(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, invariance("upper_case", texts=["good", "Bad", "fine"], max_failures=0.4))
    result = run_suite(suite, Rule(lambda text: 0.9 if text == "good" else 0.2)).tests[0]
    assert (result.num_cases, result.num_failed, result.failed, result.passed) == (3, 1, (1, 0, 0), True)
    failure = result.failures[0]
    assert (failure.text, failure.changed, failure.labels, failure.changed_labels) == ("good", "GOOD", ("good",), ("bad",))
    assert (failure.watched, failure.score, failure.expected) == ("good", 0.9, "the same answer")
    assert failure.changed_score == pytest.approx(0.2)


def test_failures_are_counted_by_template(tmp_path: Path) -> None:
    test = {"name": "plain", "kind": "minimum_functionality", "label": "good", "texts": ["{x} works", "{x} fails", "all is well"]}
    suite = suite_of(tmp_path, test, lists={"x": ["it", "this", "that"]})
    result = run_suite(suite, Rule(lambda text: 0.2 if "fails" in text else 0.9)).tests[0]
    assert (result.num_cases, result.failed) == (7, (0, 3, 0))


def test_a_tolerance_looks_at_the_probability_and_not_at_the_answer(tmp_path: Path) -> None:
    moves = {"a": 0.52, "A": 0.45, "b": 0.9, "B": 0.7}
    suite = suite_of(tmp_path, invariance("upper_case", texts=["a", "b"], tolerance=0.1))
    result = run_suite(suite, Rule(moves.__getitem__)).tests[0]
    assert [failure.text for failure in result.failures] == ["b"]
    assert result.failures[0].expected == "good within 0.1"


@pytest.mark.parametrize(
    ("direction", "margin", "after", "fails"),
    [
        ("down", 0.0, 0.79, False),
        ("down", 0.0, 0.8, True),
        ("down", 0.1, 0.75, True),
        ("up", 0.1, 0.95, False),
        ("up", 0.0, 0.7, True),
    ],
)
def test_a_direction_test_wants_the_probability_to_move(
    direction: str, margin: float, after: float, fails: bool, tmp_path: Path
) -> None:
    suite = suite_of(tmp_path, NOT | {"direction": direction, "margin": margin})
    predictor = Rule({"it is fine": 0.8, "it is not fine": after}.__getitem__)
    result = run_suite(suite, predictor).tests[0]
    assert (result.num_failed == 1) is fails
    assert predictor.asked == ["it is fine", "it is not fine"]


def test_sentences_are_appended_in_turn_and_to_the_second_text_of_a_pair(tmp_path: Path) -> None:
    test = NOT | {"texts": ["{n} a"], "append": ["X.", "Y."]}
    suite = suite_of(tmp_path, test, lists={"n": [1, 2, 3]})
    assert [case.changed for case in suite.cases(suite.tests[0])] == ["1 a X.", "2 a Y.", "3 a X."]
    pairs = suite_of(tmp_path, NOT | {"texts": [["a", "b"]], "append": ["X."]}, num_texts=2)
    assert pairs.cases(pairs.tests[0])[0].changed == ("a", "b X.")


def test_pairs_are_perturbed_in_both_texts_and_get_a_sentence_once(tmp_path: Path) -> None:
    suite = suite_of(
        tmp_path,
        invariance("upper_case", texts=[["a", "b"]]),
        invariance("add_sentence", texts=[["a", "b"]], sentences=["S."], at="start"),
        num_texts=2,
    )
    assert [suite.cases(test)[0].changed for test in suite.tests] == [("A", "B"), ("S. a", "b")]


def test_several_labels_are_expected_exactly_or_one_among_them(tmp_path: Path) -> None:
    common = {"kind": "minimum_functionality"}
    suite = suite_of(
        tmp_path,
        {"name": "among", "label": "urgent", "texts": ["bill now", "bill"], **common},
        {"name": "exactly", "labels": ["urgent", "billing"], "texts": ["bill now", "bill"], **common},
        {"name": "none", "labels": [], "texts": ["hello", "bill"], **common},
        labels=TOPICS,
    )
    rule = Rule(lambda text: {"billing": float("bill" in text), "delivery": 0.0, "urgent": float("now" in text)}, TOPICS)
    result = run_suite(suite, rule)
    assert [[failure.text for failure in test.failures] for test in result.tests] == [["bill"], ["bill"], ["bill"]]
    assert [test.failures[0].expected for test in result.tests] == ["urgent", "urgent, billing", "no label"]


def test_rows_of_the_data_that_a_change_leaves_alone_make_no_case(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, invariance("swap", among="name", rows=True, num_cases=2), lists={"name": ["Ann", "Bob"]})
    rows = ["hello", "Ann left", "Bob left", "Bob and Ann", "nobody"]
    cases = suite.cases(suite.tests[0], rows=rows)
    assert len(cases) == 2
    assert all(case.changed not in (None, case.text) for case in cases)
    assert cases == suite.cases(suite.tests[0], rows=rows)
    nothing = run_suite(suite, Rule(lambda _: 0.9), texts=["hello"])
    assert (nothing.tests[0].num_cases, nothing.tests[0].passed, nothing.passed) == (0, False, False)


def test_the_seed_decides_the_cases_and_a_test_s_neighbours_do_not(tmp_path: Path) -> None:
    test = invariance("typo", texts=["a {thing} of {thing}s"], num_cases=3)
    lists = {"thing": [f"wonder{letter}" for letter in "abcdefgh"]}
    first = suite_of(tmp_path, test, lists=lists, seed=1)
    again = suite_of(tmp_path, PLAIN, test, lists=lists, seed=1)
    other = suite_of(tmp_path, test, lists=lists, seed=2)
    assert first.cases(first.tests[0]) == again.cases(again.tests[1]) != other.cases(other.tests[0])


def test_the_result_as_plain_data_says_what_passed(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, PLAIN, NOT)
    document = run_suite(suite, Rule(lambda text: 0.9)).to_dict()
    assert (document["num_passed"], document["num_tests"], document["passed"]) == (1, 2, False)
    assert [(test["name"], test["failure_rate"], test["passed"]) for test in document["tests"]] == [
        ("plain", 0.0, True),
        ("not", 1.0, False),
    ]


@pytest.mark.parametrize(
    ("tests", "document", "message"),
    [
        ([PLAIN | {"label": "god"}], {}, "test 'plain': the model has no label 'god'; did you mean good?"),
        ([PLAIN | {"label": True}], {}, "test 'plain': label: YAML reads the value as true (yes and on, too); quote it"),
        ([PLAIN | {"texts": [True]}], {}, "test 'plain': texts: YAML reads the value as true (yes and on, too); quote it"),
        (
            [PLAIN | {"num_cases": True}],
            {},
            "test 'plain': num_cases: YAML reads the value as true (yes and on, too); give a number",
        ),
        ([PLAIN | {"texts": []}], {}, "test 'plain': texts needs at least 1, and has 0"),
        ([PLAIN | {"texts": ["{name}"]}], {}, "test 'plain': {name} is no list of the suite (it has none)."),
        ([PLAIN | {"texts": [["a", "b"]]}], {}, "this model reads single texts"),
        ([PLAIN | {"labels": ["good"]}], {}, "test 'plain': give either label or, for a multilabel model, labels"),
        ([{**PLAIN, "label": None, "labels": ["good"]}], {}, "test 'plain': labels is for multilabel models"),
        ([PLAIN | {"max_failure": 0.1}], {}, "test 'plain': unknown setting max_failure; did you mean max_failures?"),
        ([PLAIN | {"max_failures": 1.5}], {}, "test 'plain': max_failures: 1.5 is wrong: input should be less than 1"),
        ([PLAIN | {"kind": "sanity"}], {}, "test 'plain': kind is one of invariance, direction, minimum_functionality"),
        ([{"kind": "direction"}], {}, "test 1: name is required"),
        ([invariance("shuffle", rows=True)], {}, "test 'shuffle': unknown perturbation 'shuffle'; allowed are 'typo'"),
        ([invariance("typo")], {}, "test 'typo': give either texts, or rows: true"),
        ([invariance("typo", rows=True, texts=["a"])], {}, "test 'typo': give either texts, or rows: true"),
        ([invariance("typo", texts=["a b c"])], {}, "test 'typo': the change leaves 'a b c' as it is; give another text."),
        ([invariance("swap", rows=True)], {}, "test 'swap': among is needed for the perturbation swap"),
        ([invariance("typo", rows=True, among="x")], {}, "among is given, but is for the perturbation swap"),
        ([invariance("swap", rows=True, among="x")], {}, "test 'swap': among: 'x' is no list of the suite"),
        ([NOT | {"texts": ["no change"]}], {}, "test 'not': 'no change' needs a change: {before|after} in each text, or append"),
        ([NOT | {"texts": ["{a|b|c}"]}], {}, "test 'not': '{a|b|c}' has more than {before|after} in its braces"),
        ([NOT | {"texts": ["{a|a}"]}], {}, "test 'not': the change leaves 'a' as it is"),
        ([PLAIN, PLAIN], {}, "two tests are called 'plain'"),
        ([PLAIN], {"lists": {"one": ["a"]}}, "lists.one needs at least 2, and has 1"),
        ([PLAIN], {"test": []}, "unknown setting test; did you mean tests?"),
        ([], {}, "tests needs at least 1, and has 0"),
    ],
)
def test_a_fault_is_one_sentence_with_the_file_and_the_test(
    tests: list[dict[str, Any]], document: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        suite_of(tmp_path, *tests, **document)
    sentence = str(caught.value)
    assert sentence.startswith(f"{tmp_path / 'behaviour.yaml'}")
    assert message in sentence
    assert "\n" not in sentence


def test_a_file_that_is_missing_or_no_suite_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: no such behaviour suite; check the path"):
        load_suite(tmp_path / "none.yaml", labels=LABELS)
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(InputError, match="expected settings such as 'tests: "):
        load_suite(tmp_path / "list.yaml", labels=LABELS)


@pytest.mark.parametrize("name", SAMPLES)
def test_each_sample_brings_a_suite_whose_tests_all_have_cases(name: str) -> None:
    path = find_suite({"train": f"sample:{name}"})
    assert path is not None
    dataset = load_dataset(DataConfig(train=f"sample:{name}"))
    suite = load_suite(path, labels=dataset.labels, num_texts=1)
    assert len(suite.tests) >= 12
    assert {test.kind for test in suite.tests} == {"invariance", "direction", "minimum_functionality"}
    cases = {test.name: suite.cases(test, rows=dataset.test.texts) for test in suite.tests}
    assert min(map(len, cases.values())) >= 2
    training = set(dataset.train.texts)
    assert not [case.text for test in suite.tests if test.texts for case in cases[test.name] if case.text in training]


def test_a_suite_is_found_through_the_data_section(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("tests: []")
    assert find_suite({"train": "sample:support", "behaviour": str(file)}) == file
    file.unlink()
    assert find_suite({"train": "sample:support", "behaviour": str(file)}) is None
    assert find_suite({"train": "x.csv"}) is find_suite({}) is None


def test_the_config_s_suite_is_relative_to_it_and_checked_with_the_rows(tmp_path: Path) -> None:
    suite_of(tmp_path, PLAIN)
    (tmp_path / "run.yaml").write_text("name: x\ndata: {train: 'sample:reviews', behaviour: behaviour.yaml}\n")
    config = load_config(tmp_path / "run.yaml")
    assert config.data.behaviour == str(tmp_path / "behaviour.yaml")
    with pytest.raises(InputError, match=r"behaviour\.yaml, test 'plain': the model has no label 'good'"):
        load_dataset(config.data)


def test_the_guide_s_suite_runs(tmp_path: Path) -> None:
    (document,) = re.findall(r'```yaml title="behaviour\.yaml"\n(.*?)```', GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    path = tmp_path / "behaviour.yaml"
    path.write_text(document, encoding="utf-8")
    suite = load_suite(path, labels=LabelSpace(("delivery", "billing"), "binary"), num_texts=1)
    words = re.compile(r"invoice|money", re.IGNORECASE)
    rule = Rule(lambda text: min(0.9, 0.2 + 0.7 * len(words.findall(text))), LabelSpace(("delivery", "billing"), "binary"))
    result = run_suite(suite, rule, texts=["My lamp is broken", "The invoice is wrong"])
    assert {test.name: test.passed for test in result.tests} == dict.fromkeys([test.name for test in suite.tests], True)
    assert result.passed


def test_a_real_predictor_runs_a_suite_and_refuses_pairs_it_cannot_read(finished: dict[str, Any], tmp_path: Path) -> None:
    from manta.inference.predictor import Predictor

    space = finished["multiclass"].labels
    suite = suite_of(tmp_path, PLAIN | {"label": "billing", "texts": ["the {card|money} is {late|lost}"]}, labels=space)
    predictor = Predictor(finished["multiclass"].artifact, device="cpu")
    result = run_suite(suite, predictor).tests[0]
    asked = [str(case.text) for case in suite.cases(suite.tests[0])]
    assert result.num_cases == 4
    assert result.num_failed == sum(answer.label != "billing" for answer in predictor.predict(asked))
    pairs = suite_of(tmp_path, PLAIN | {"label": "billing", "texts": [["a", "b"]]}, labels=space, num_texts=None)
    with pytest.raises(InputError, match=r"behaviour\.yaml: text 1 of 1: this model reads single texts"):
        run_suite(pairs, predictor)


def test_importing_it_does_not_import_torch() -> None:
    code = "import sys, manta.behaviour.run; print(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
