"""Behaviour tests of a classifier, after CheckList (Ribeiro et al., 2020, https://arxiv.org/abs/2005.04118).

A suite is a YAML file next to the data, see `suite.py`. `load_suite` checks it against a model's labels. `run_suite` runs it with
any object that has `predict(texts)`. There are three kinds of tests: a change that must not matter (`invariance`), a change that
must move a probability (`direction`), and plain cases that must be right (`minimum_functionality`).
"""

from __future__ import annotations

import importlib.resources
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from manta.behaviour.perturbations import PERTURBATIONS, add_sentence, changed_parts, expanded, fields_of, filled, parts_of, swap
from manta.behaviour.suite import (
    AnyTest,
    Direction,
    Invariance,
    MinimumFunctionality,
    OfTextsOrRows,
    SuiteDocument,
    fault_sentence,
    shown,
)
from manta.config import nearest
from manta.config.file import read_document
from manta.errors import InputError
from manta.labels import LabelSpace
from manta.texts import NumTexts, Text, first_of_wrong_kind, wrong_kind_sentence

if TYPE_CHECKING:
    from collections.abc import Callable

SUITE_FILE = "behaviour.yaml"
MOST_FAILURES_SHOWN = 5
EXAMPLE = "tests: [{name: …, kind: …, texts: […]}]"


class BehaviourAnswer(Protocol):
    """A predictor's answer for one text, such as `manta.inference.predictor.Prediction`."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that apply."""

    @property
    def scores(self) -> dict[str, float]:
        """Probability of every label."""


class PredictsTexts(Protocol):
    """An object that predicts labels of texts, such as `manta.inference.predictor.Predictor`."""

    def predict(self, texts: Sequence[Text]) -> Sequence[BehaviourAnswer]:
        """Return an answer for each text or pair."""


@dataclass(frozen=True)
class Case:
    """A text to predict and, for tests of a change, the changed text."""

    text: Text
    changed: Text | None = None
    template: Text | None = None
    """The template of the suite that gave the text; None for a row of the data."""


@dataclass(frozen=True)
class Failure:
    """A failed case: the texts and the model's answers."""

    text: Text
    labels: tuple[str, ...]
    changed: Text | None
    changed_labels: tuple[str, ...] | None
    watched: str
    """The label that the scores belong to."""
    score: float
    changed_score: float | None
    expected: str
    """The expected answer, in words."""


@dataclass(frozen=True)
class BehaviourResult:
    """Result of one test."""

    name: str
    kind: str
    num_cases: int
    failed: tuple[int, ...]
    """Number of failed cases of each template, in the order of the suite; of a test on rows, 1 or 0 for each row."""
    allowed: float
    """The largest share of cases that may fail."""
    failures: tuple[Failure, ...]
    """The first failures, at most `MOST_FAILURES_SHOWN`."""

    @property
    def num_failed(self) -> int:
        """Number of cases that failed."""
        return sum(self.failed)

    @property
    def failure_rate(self) -> float:
        """Share of the cases that failed; 0 if there are no cases."""
        return self.num_failed / self.num_cases if self.num_cases else 0.0

    @property
    def passed(self) -> bool:
        """True if the failure rate is at most `allowed`. A test without cases does not pass, because it shows nothing."""
        return self.num_cases > 0 and self.failure_rate <= self.allowed


@dataclass(frozen=True)
class SuiteResult:
    """Results of every test of a suite."""

    path: str
    tests: tuple[BehaviourResult, ...]

    @property
    def num_passed(self) -> int:
        """Number of tests that passed."""
        return sum(test.passed for test in self.tests)

    @property
    def passed(self) -> bool:
        """True if all tests passed."""
        return self.num_passed == len(self.tests)

    def to_dict(self) -> dict[str, Any]:
        """Return the result in the structure that reports use."""
        tests = [
            asdict(test) | {"num_failed": test.num_failed, "failure_rate": round(test.failure_rate, 4), "passed": test.passed}
            for test in self.tests
        ]
        return {"suite": self.path, "passed": self.passed, "num_passed": self.num_passed, "num_tests": len(tests), "tests": tests}


@dataclass(frozen=True)
class Suite:
    """A behaviour suite that has been checked."""

    path: Path
    document: SuiteDocument

    @property
    def tests(self) -> tuple[AnyTest, ...]:
        """The tests in the order of the file."""
        return self.document.tests

    def where(self, test: AnyTest) -> str:
        """Return the place of a test, for messages."""
        return f"{self.path}, test {test.name!r}"

    def cases(self, test: AnyTest, *, rows: Sequence[Text] = ()) -> list[Case]:
        """Return the cases of one test. The same seed and rows give the same cases.

        A row that the change leaves unmodified makes no case.

        Raises:
            InputError: a field names no list, or the change leaves a text of the suite unmodified.
        """
        generator = random.Random(f"{self.document.seed}/{test.name}")
        if isinstance(test, OfTextsOrRows) and test.rows:
            return self._cases_of_rows(test, rows, generator)
        templates = test.texts or ()
        inline = {field: field.split("|") for text in templates for field in fields_of(text) if "|" in field}
        is_change = isinstance(test, Direction) and test.append is None
        lists = {**self.document.lists, **(dict.fromkeys(inline, ("",)) if is_change else inline)}
        try:
            drawn = expanded(templates, lists, most=test.num_cases, generator=generator)
        except KeyError as error:
            known = ", ".join(self.document.lists) or "none"
            raise InputError(f"{self.where(test)}: {{{error.args[0]}}} is no list of the suite (it has {known}).") from None
        if is_change:
            sides = [{field: choices[side] for field, choices in inline.items()} for side in (0, 1)]
            cases = [Case(filled(text, values | sides[0]), filled(text, values | sides[1]), text) for text, values in drawn]
        else:
            texts = [filled(text, values) for text, values in drawn]
            cases = [
                Case(text, self._changed(test, text, number, generator), template)
                for number, (text, (template, _)) in enumerate(zip(texts, drawn, strict=True))
            ]
        same = next((case.text for case in cases if case.changed == case.text), None)
        if same is not None:
            raise InputError(f"{self.where(test)}: the change leaves {shown(same)} as it is; give another text.")
        return cases

    def _cases_of_rows(self, test: OfTextsOrRows, rows: Sequence[Text], generator: random.Random) -> list[Case]:
        cases: list[Case] = []
        for index in generator.sample(range(len(rows)), len(rows)):
            if len(cases) == test.num_cases:
                break
            row = rows[index]
            changed = self._changed(test, row, len(cases), generator)
            if changed != row:
                cases.append(Case(row, changed))
        return cases

    def _changed(self, test: AnyTest | OfTextsOrRows, text: Text, number: int, generator: random.Random) -> Text | None:
        if isinstance(test, Direction) and test.append is not None:
            *first, last = parts_of(text)
            longer = f"{last} {test.append[number % len(test.append)]}"
            return (first[0], longer) if first else longer
        if not isinstance(test, Invariance):
            return None
        change: Callable[[str], str]
        if test.perturbation == "add_sentence":
            change = partial(add_sentence, generator=generator, sentences=test.sentences or (), at_start=test.at == "start")
            if isinstance(text, tuple):  # once: before the first text or after the second
                return (change(text[0]), text[1]) if test.at == "start" else (text[0], change(text[1]))
        elif test.perturbation == "swap":
            change = partial(swap, generator=generator, among=self.document.lists[str(test.among)])
        else:
            change = partial(PERTURBATIONS[test.perturbation], generator=generator)
        return changed_parts(text, change)


def find_suite(data: Mapping[str, Any]) -> Path | None:
    """Return the suite for the `data` section of a config: the one it names, or the one of a bundled sample with its own labels.

    Return None if there is no suite or its file no longer exists.
    """
    train = str(data.get("train", ""))
    if data.get("behaviour"):
        path = Path(str(data["behaviour"])).expanduser()
    elif train.startswith("sample:") and not data.get("labels"):
        path = Path(str(importlib.resources.files("manta") / "samples" / train.removeprefix("sample:") / SUITE_FILE))
    else:
        return None
    return path if path.is_file() else None


def load_suite(path: Path, *, labels: LabelSpace, num_texts: NumTexts | None = None) -> Suite:
    """Read a suite and check its contents, its labels against the model's and, if `num_texts` is given, its texts.

    `num_texts` is the number of texts per row that the model reads.

    Raises:
        InputError: the first fault found, with file and test.
    """
    content = read_document(path, what="behaviour suite", example=EXAMPLE)
    try:
        suite = Suite(path, SuiteDocument.model_validate(content))
    except ValidationError as error:
        raise InputError(f"{path}{fault_sentence(error.errors()[0], content)}") from None
    for test in suite.tests:
        _check_labels(suite, test, labels)
        wrong = first_of_wrong_kind(test.texts or (), num_texts=num_texts) if num_texts else None
        if num_texts and test.texts and wrong is not None:
            raise InputError(f"{suite.where(test)}: {shown(test.texts[wrong])}: {wrong_kind_sentence(num_texts)}.")
        suite.cases(test)  # refuses faults that show only in the generated texts
    return suite


def run_suite(suite: Suite, predictor: PredictsTexts, *, texts: Sequence[Text] = ()) -> SuiteResult:
    """Ask the predictor about every case of every test, each text once.

    `texts` are the evaluated data, for tests that take rows of it.

    Raises:
        InputError: the predictor refuses the texts, such as pairs for a model that reads single texts.
    """
    cases = [suite.cases(test, rows=texts) for test in suite.tests]
    asked = list(dict.fromkeys(text for group in cases for case in group for text in (case.text, case.changed) if text is not None))
    try:
        answers = dict(zip(asked, predictor.predict(asked), strict=True))
    except InputError as error:
        raise InputError(f"{suite.path}: {error}") from None
    return SuiteResult(
        str(suite.path), tuple(_result(test, group, answers) for test, group in zip(suite.tests, cases, strict=True))
    )


def _result(test: AnyTest, cases: list[Case], answers: Mapping[Text, BehaviourAnswer]) -> BehaviourResult:
    found = [_failure(test, case, answers) for case in cases]
    failed: Counter[object] = Counter()
    for position, (case, failure) in enumerate(zip(cases, found, strict=True)):
        failed[position if case.template is None else case.template] += failure is not None
    shown_failures = tuple(failure for failure in found if failure is not None)[:MOST_FAILURES_SHOWN]
    return BehaviourResult(test.name, test.kind, len(cases), tuple(failed.values()), test.max_failures, shown_failures)


def _failure(test: AnyTest, case: Case, answers: Mapping[Text, BehaviourAnswer]) -> Failure | None:
    """Return the failure of one case, or None if the case passes."""
    before = answers[case.text]
    after = before if case.changed is None else answers[case.changed]
    likeliest = max(before.scores, key=lambda label: before.scores[label])
    if isinstance(test, MinimumFunctionality):
        wanted = (test.label,) if test.label is not None else test.labels or ()
        watched = wanted[0] if wanted else likeliest
        is_right = test.label in before.labels if test.label is not None else set(before.labels) == set(wanted)
        expected = ", ".join(wanted) or "no label"
    elif isinstance(test, Direction):
        watched = test.label
        moved = (after.scores[watched] - before.scores[watched]) * (1 if test.direction == "up" else -1)
        is_right = moved > 0 and moved >= test.margin
        expected = f"{watched} {test.direction}" + (f" by at least {test.margin:g}" if test.margin else "")
    else:
        watched = likeliest
        moved = abs(after.scores[watched] - before.scores[watched])
        is_right = set(after.labels) == set(before.labels) if test.tolerance is None else moved <= test.tolerance
        expected = "the same answer" if test.tolerance is None else f"{watched} within {test.tolerance:g}"
    if is_right:
        return None
    changed = case.changed is not None
    return Failure(
        text=case.text,
        labels=before.labels,
        changed=case.changed,
        changed_labels=after.labels if changed else None,
        watched=watched,
        score=before.scores[watched],
        changed_score=after.scores[watched] if changed else None,
        expected=expected,
    )


def _check_labels(suite: Suite, test: AnyTest, labels: LabelSpace) -> None:
    several = isinstance(test, MinimumFunctionality) and test.labels is not None
    if several and labels.task != "multilabel":
        raise InputError(f"{suite.where(test)}: labels is for multilabel models; this one gives one label a text, so give label.")
    named = [] if isinstance(test, Invariance) else [test.label] if test.label is not None else test.labels or ()
    unknown = next((name for name in named if name not in labels.names), None)
    if unknown is not None:
        raise InputError(f"{suite.where(test)}: the model has no label {unknown!r}; {nearest(unknown, list(labels.names))}")
