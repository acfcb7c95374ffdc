"""Schema of a behaviour suite's YAML file: three kinds of tests, and the lists that fill their templates.

`run.py` reads and runs suites.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from manta.behaviour.perturbations import fields_of, parts_of
from manta.config import nearest
from manta.config.yaml_model import YamlModel
from manta.texts import Text

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


Sentence = Annotated[str, Field(min_length=1)]
TextOrPair = Sentence | tuple[Sentence, Sentence]


class BehaviourTest(YamlModel):
    """The settings that all kinds of tests share."""

    name: Sentence
    texts: Annotated[tuple[TextOrPair, ...], Field(min_length=1)] | None = None
    """Texts or pairs of texts, with fields: `{name}` takes the members of a list of the suite, `{a|b}` takes a and b."""
    max_failures: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The largest share of the cases that may fail."""
    num_cases: Annotated[int, Field(ge=1, le=10_000)] = 100
    """The largest number of cases. If there are more, the suite's seed draws this many."""


class OfTextsOrRows(BehaviourTest):
    """A test of a change, applied to the test's own texts or to rows of the data."""

    rows: bool = False
    """True if the test takes rows of the evaluated data instead of `texts`."""

    @model_validator(mode="after")
    def _one_source(self) -> OfTextsOrRows:
        if self.rows is (self.texts is not None):
            raise ValueError("give either texts, or rows: true for texts of the evaluated data")
        return self


class Invariance(OfTextsOrRows):
    """A change that must not matter: the decided labels stay or, with a `tolerance`, the probability stays nearly the same."""

    kind: Literal["invariance"]
    perturbation: Literal["typo", "upper_case", "lower_case", "punctuation", "contractions", "swap", "add_sentence"]
    among: str | None = None
    """For `swap`: the list whose members are replaced with other members."""
    sentences: Annotated[tuple[Sentence, ...], Field(min_length=1)] | None = None
    """For `add_sentence`: the sentences, of which one is added."""
    at: Literal["start", "end"] = "end"
    """For `add_sentence`: the end of the text at which the sentence is added."""
    tolerance: Annotated[float, Field(ge=0, lt=1)] | None = None
    """The largest allowed change in the probability of the most probable label. If set, the decided labels are not compared."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Invariance:
        for setting, owner in (("among", "swap"), ("sentences", "add_sentence")):
            given, wanted = getattr(self, setting) is not None, self.perturbation == owner
            if given is not wanted:
                raise ValueError(f"{setting} is {'needed' if wanted else 'given, but is'} for the perturbation {owner}")
        return self


class Direction(OfTextsOrRows):
    """A change that must move the probability of a label: `{before|after}` in the texts, or an added sentence."""

    kind: Literal["direction"]
    label: str
    direction: Literal["up", "down"]
    append: Annotated[tuple[Sentence, ...], Field(min_length=1)] | None = None
    """Sentences that are added to the text, one per case in turn; for a pair, to the second text."""
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The least by which the probability must move; 0 accepts any move in that direction."""

    @field_validator("label", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return label_name(value)

    @model_validator(mode="after")
    def _one_change(self) -> Direction:
        for text in self.texts or ():
            choices = [field for field in fields_of(text) if "|" in field]
            if bool(choices) is (self.append is not None):
                raise ValueError(f"{shown(text)} needs a change: {{before|after}} in each text, or append, and not both")
            if any(field.count("|") > 1 for field in choices):
                raise ValueError(f"{shown(text)} has more than {{before|after}} in its braces")
        if self.rows and self.append is None:
            raise ValueError("rows of the data change by append only")
        return self


class MinimumFunctionality(BehaviourTest):
    """Plain cases that must be right."""

    kind: Literal["minimum_functionality"]
    texts: Annotated[tuple[TextOrPair, ...], Field(min_length=1)]
    label: str | None = None
    """The label that must be decided. For a multilabel model, it must be among the decided labels."""
    labels: tuple[str, ...] | None = None
    """Multilabel only: exactly the labels that must be decided, in any order. An empty list means no label."""

    @field_validator("label", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return label_name(value)

    @field_validator("labels", mode="before")
    @classmethod
    def _all_named(cls, value: Any) -> Any:
        return [label_name(item) for item in value] if isinstance(value, list) else value

    @model_validator(mode="after")
    def _one_expectation(self) -> MinimumFunctionality:
        if (self.label is None) is (self.labels is None):
            raise ValueError("give either label or, for a multilabel model, labels")
        return self


AnyTest = Invariance | Direction | MinimumFunctionality
TaggedTest = Annotated[
    Annotated[Invariance, Tag("invariance")]
    | Annotated[Direction, Tag("direction")]
    | Annotated[MinimumFunctionality, Tag("minimum_functionality")],
    Discriminator(lambda test: str(test.get("kind")) if isinstance(test, dict) else getattr(test, "kind", None)),
]


class SuiteDocument(YamlModel):
    """The contents of the YAML file."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed for drawing cases and perturbing texts."""
    lists: dict[str, Annotated[tuple[Sentence, ...], Field(min_length=2)]] = {}  # noqa: RUF012  # pydantic copies defaults
    """Lists of words that fill `{name}` or are swapped."""
    tests: Annotated[tuple[TaggedTest, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_fit(self) -> SuiteDocument:
        names = [test.name for test in self.tests]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two tests are called {twice!r}; give each a name of its own")
        for test in self.tests:
            if isinstance(test, Invariance) and test.among is not None and test.among not in self.lists:
                raise ValueError(f"test {test.name!r}: among: {test.among!r} is no list of the suite")
        return self

    @field_validator("lists", mode="before")
    @classmethod
    def _as_words(cls, value: Any) -> Any:
        """Convert numbers in a list to text, so that they count as words."""
        if not isinstance(value, dict):
            return value
        return {name: [label_name(word) for word in words] if isinstance(words, list) else words for name, words in value.items()}


def label_name(value: Any) -> Any:
    """Convert a whole number to text, because YAML reads some labels and words as numbers."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def shown(text: Text) -> str:
    """Format a text or a pair for a message."""
    return " / ".join(map(repr, parts_of(text)))


KINDS: dict[str, type[BehaviourTest]] = {
    "invariance": Invariance,
    "direction": Direction,
    "minimum_functionality": MinimumFunctionality,
}


def fault_sentence(error: ErrorDetails, content: dict[str, Any]) -> str:
    """Return the part of an error message after the suite's file name: the test, the setting and the problem."""
    location = [str(part) for part in error["loc"] if part not in KINDS]
    where, section = "", SuiteDocument.model_fields
    if location[:1] == ["tests"] and len(location) > 1:
        number = int(location[1])
        test = content["tests"][number] if isinstance(content["tests"][number], dict) else {}
        where = f", test {test['name']!r}" if "name" in test else f", test {number + 1}"
        kind = KINDS.get(test.get("kind", ""))
        section = kind.model_fields if kind else {}
        location = location[2:]
    return f"{where}: {_problem(error, location, list(section))}"


def _problem(error: ErrorDetails, location: list[str], allowed: list[str]) -> str:
    setting = ".".join(location)
    match error["type"]:
        case "extra_forbidden":
            return f"unknown setting {setting}; {nearest(setting, allowed)}"
        case "missing":
            return f"{setting} is required"
        case "union_tag_invalid" | "union_tag_not_found":
            return f"kind is one of {', '.join(KINDS)}"
        case "literal_error":
            return f"unknown {setting} {error['input']!r}; allowed are {error['ctx']['expected']}"
        case "too_short":
            return f"{setting} needs at least {error['ctx']['min_length']}, and has {error['ctx']['actual_length']}"
        case "value_error":
            return f"{setting}: {error['ctx']['error']}" if setting else str(error["ctx"]["error"])
        case _:
            return f"{setting}: {error['input']!r} is wrong: {error['msg'][0].lower()}{error['msg'][1:]}"
