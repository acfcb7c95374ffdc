"""Schemas of requests and answers of /v1/classify and /v1/feedback. The config limits requests, so theirs are created from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag, create_model, model_validator

from manta.inference.scope import UncertainReason
from manta.texts import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.config import ServeConfig
    from manta.inference.artifact import Manifest
    from manta.inference.attribution import Explanation
    from manta.inference.predictor import Prediction
    from manta_serve.batching.answer import Answer
    from manta_serve.feedback import FeedbackSummary, Said
    from manta_serve.monitoring.traffic_sample import SampledText

MAX_EXPLAINED = 8
"""Most texts of one request that can be explained: an explanation takes as long as some hundred answers."""
INVISIBLE = (
    "\x01-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""Control characters, an empty Braille cell, and what Unicode calls ignorable
(https://unicode.org/reports/tr44/#Default_Ignorable_Code_Point). A model would give a label to a text of these alone, too."""
VISIBLE = rf"^[^\x00]*[^\s\x00{INVISIBLE}][^\x00]*$"
EXAMPLE_TEXTS = ["Where is my parcel?", "I was charged twice."]


def _kind(value: object) -> str:
    return "several" if isinstance(value, list) else "one"


# Distinguished by JSON type, so that an error is about the intended alternative.
BY_KIND = Discriminator(_kind)
OneOrSeveral = Annotated[Annotated[str, Tag("one")] | Annotated[list[str], Field(fail_fast=True), Tag("several")], BY_KIND]


class Body(BaseModel):
    """Base of all requests: unknown fields are refused, and types are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


class ClassifyRequest(Body):
    """A text to classify, or several. Give either `text` or `texts`."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["text"]}, {"required": ["texts"]}]})

    text: str | list[str] | None = None
    texts: list[str | list[str]] | None = None
    top_k: Annotated[
        int | None, Field(ge=1, description="How many labels `scores` holds, the most probable first; all if left out.")
    ] = None
    explain: Annotated[
        bool, Field(description=f"Whether to say which words spoke for the label; for at most {MAX_EXPLAINED} texts, and slower.")
    ] = False

    @property
    def rows(self) -> list[Text]:
        """The texts to classify, in order."""
        return [as_text(text) for text in ([self.text] if self.text is not None else self.texts or [])]

    @property
    def fields(self) -> list[str]:
        """The request field of each of `rows`."""
        return ["text"] if self.text is not None else [f"texts.{index}" for index in range(len(self.texts or []))]

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        given = self.model_fields_set & {"text", "texts"}
        if len(given) != 1:
            raise ValueError("Give either text or texts" + (", not both" if given else ""))
        return self


class FeedbackRequest(Body):
    """Feedback on an answer: the label that the model gave, and the right one."""

    text: str | list[str]
    answer: Annotated[OneOrSeveral, Field(description="The label that the model gave; for a multilabel model a list of labels.")]
    correction: Annotated[
        OneOrSeveral, Field(description="The right label, which may be the same; for a multilabel model a list, perhaps empty.")
    ]
    version: Annotated[int, Field(ge=1, le=2**31 - 1, description="The version that answered.")]


def classify_request(config: ServeConfig) -> type[ClassifyRequest]:
    """Return the schema of a request to /v1/classify, with the config's limits."""
    one = _single_or_pair(config)
    # No `null` in the schema: a field that is not given has no value.
    single = Field(default_factory=_nothing, description="One text; for a model of text pairs a list of two.")
    several = Field(
        default_factory=_nothing,
        min_length=1,
        max_length=config.max_texts,
        description="Several of them, which are answered in order.",
    )
    return create_model(
        "ClassifyRequest",
        __base__=ClassifyRequest,
        __doc__=ClassifyRequest.__doc__,
        text=(one, single),
        texts=(Annotated[list[one], Field(fail_fast=True)], several),  # type: ignore[valid-type]  # created from the config
    )


def feedback_request(config: ServeConfig) -> type[FeedbackRequest]:
    """Return the schema of a request to /v1/feedback, with the config's limits."""
    text = Field(description="What was classified: a text, or a list of two.")
    return create_model(
        "FeedbackRequest", __base__=FeedbackRequest, __doc__=FeedbackRequest.__doc__, text=(_single_or_pair(config), text)
    )


def as_text(given: str | list[str]) -> Text:
    """Return a text or pair in the type that the model takes."""
    return given if isinstance(given, str) else (given[0], given[1])


def visible_text(config: ServeConfig) -> Any:
    """Return the type of one text: it shows something, and is no longer than the config allows."""
    return Annotated[str, StringConstraints(min_length=1, max_length=config.max_characters, pattern=VISIBLE)]


def _single_or_pair(config: ServeConfig) -> Any:
    single = visible_text(config)
    pair = Annotated[list[single], Field(min_length=2, max_length=2)]  # type: ignore[valid-type]
    return Annotated[Annotated[single, Tag("one")] | Annotated[pair, Tag("several")], BY_KIND]


def _nothing() -> None:
    return None


class WordAnswer(BaseModel):
    """A word and its contribution to the label."""

    part: Annotated[int, Field(description="0, or 1 in the second text of a pair.")]
    start: Annotated[int, Field(description="Where it begins in the text, in characters (Unicode code points).")]
    end: int
    text: str
    attribution: Annotated[float, Field(description="Its share of the change in log-odds; below 0 it spoke against the label.")]


class ExplanationAnswer(BaseModel):
    """Explanation of a label's probability: the contribution of each word to its log-odds, log(p / (1 - p))."""

    label: str
    words: Annotated[list[WordAnswer], Field(description="In order; words beyond the model's length were not read.")]
    log_odds: Annotated[float, Field(description="Of the label, for this text.")]
    baseline_log_odds: Annotated[float, Field(description="Of the label, for the text with every word blanked.")]
    error: Annotated[float, Field(description="How far the attributions are from adding up to the difference of the two.")]
    complete: Annotated[bool, Field(description="Whether they add up within 2% of the difference, or 0.02.")]

    @classmethod
    def of(cls, explanation: Explanation) -> ExplanationAnswer:
        """Return an explanation in this schema."""
        words = [
            WordAnswer(part=word.part, start=word.start, end=word.end, text=word.text, attribution=word.attribution)
            for word in explanation.words
        ]
        return cls(
            label=explanation.label,
            words=words,
            log_odds=explanation.log_odds,
            baseline_log_odds=explanation.baseline_log_odds,
            error=explanation.error,
            complete=explanation.complete,
        )


class PredictionAnswer(BaseModel):
    """The prediction for one text or pair."""

    labels: Annotated[
        list[str], Field(description="Those that apply, most probable first: one, or for a multilabel model several or none.")
    ]
    label: Annotated[str, Field(description="The most probable label.")]
    score: Annotated[float, Field(description="Probability of `label`, 0 to 1.")]
    scores: Annotated[dict[str, float], Field(description="Probability of each label.")]
    uncertain: Annotated[bool, Field(description="True when there is an `uncertain_reason`.")]
    uncertain_reason: Annotated[
        UncertainReason | None,
        Field(
            description="`unsure` when the answer is less sure than `abstain.below` of /v1/model, `out_of_scope` when the text is "
            "unlike all training rows, so that no label may fit; absent where the answer is not uncertain."
        ),
    ] = None
    label_set: Annotated[
        list[str] | None,
        Field(
            serialization_alias="set",
            description="Labels of which one is right as often as `sets.coverage` of /v1/model says; absent without sets.",
        ),
    ] = None
    explanation: Annotated[ExplanationAnswer | None, Field(description="If it was asked for.")] = None

    @classmethod
    def of(cls, prediction: Prediction, *, top_k: int | None, explanation: Explanation | None) -> PredictionAnswer:
        """Return a prediction in this schema."""
        return cls(
            labels=list(prediction.labels),
            label=prediction.label,
            score=prediction.score,
            scores=dict(list(prediction.scores.items())[:top_k]),
            uncertain=prediction.uncertain,
            uncertain_reason=prediction.uncertain_reason,
            label_set=None if prediction.label_set is None else list(prediction.label_set),
            explanation=ExplanationAnswer.of(explanation) if explanation else None,
        )


class ModelName(BaseModel):
    """The model and version that answered."""

    name: str
    version: int


class ClassifyAnswer(BaseModel):
    """The version that answered, and one prediction for each text, in order."""

    model: ModelName
    predictions: list[PredictionAnswer]

    @classmethod
    def of(cls, answer: Answer, *, top_k: int | None, explanations: list[Explanation] | None) -> ClassifyAnswer:
        """Return a service's answer in this schema."""
        reasons: Sequence[Explanation | None] = explanations or [None] * len(answer.predictions)
        predictions = [
            PredictionAnswer.of(prediction, top_k=top_k, explanation=reason)
            for prediction, reason in zip(answer.predictions, reasons, strict=True)
        ]
        return cls(model=ModelName(name=answer.model.name, version=answer.model.version), predictions=predictions)


class FeedbackAnswer(BaseModel):
    """Result of sending feedback."""

    stored: Annotated[bool, Field(description="False where the same was said before.")]


class ConflictAnswer(BaseModel):
    """Texts that differ only in case and spaces but have different labels."""

    text: Text
    labels: list[str | list[str]]


class FeedbackSummaryAnswer(BaseModel):
    """Summary of the feedback so far, and the settings of a training run that uses it."""

    count: Annotated[int, Field(description="Texts that somebody judged.")]
    since_champion: Annotated[int, Field(description="Those of them that were judged since the champion was trained.")]
    corrected: Annotated[int, Field(description="Those where the answer was wrong.")]
    by_label: Annotated[dict[str, int], Field(description="Texts by the label that people say is right.")]
    duplicates: Annotated[int, Field(description="Texts that are others' again but for capitals and spaces, under the same label.")]
    conflicts: Annotated[list[ConflictAnswer], Field(description="Such texts under different labels: the first 20.")]
    experiment: Annotated[
        dict[str, Any], Field(description="Settings of a run that repeats the champion's and learns from the feedback, too.")
    ]

    @classmethod
    def of(cls, summary: FeedbackSummary, *, manifest: Manifest, path: str) -> FeedbackSummaryAnswer:
        """Return a summary in this schema. The feedback is in the file at `path`."""
        return cls(
            count=summary.count,
            since_champion=summary.since,
            corrected=summary.corrected,
            by_label=summary.by_label,
            duplicates=summary.duplicates,
            conflicts=[ConflictAnswer(text=conflict.text, labels=list(conflict.labels)) for conflict in summary.conflicts],
            experiment=manifest.config | {"data": manifest.config.get("data", {}) | {"feedback": path}},
        )


class SampledTextAnswer(BaseModel):
    """A text that was asked lately, its answer, and what a person said of it."""

    text: Text
    prediction: PredictionAnswer
    correction: Annotated[
        str | list[str] | None, Field(description="The right label, for a multilabel model a list; absent if nobody gave one.")
    ] = None


class SampleAnswer(BaseModel):
    """A random sample of the latest texts that the model's present version answered."""

    model: ModelName
    num_answers: Annotated[int, Field(description="Number of the latest answers that the sample is from.")]
    texts: Annotated[list[SampledTextAnswer], Field(description="Distinct texts in random order.")]

    @classmethod
    def of(
        cls, sampled: Sequence[SampledText], *, corrections: Sequence[Said | None], model: ModelName, num_answers: int
    ) -> SampleAnswer:
        """Return a sample and the corrections of its texts in this schema."""
        texts = [
            SampledTextAnswer(
                text=item.text, prediction=PredictionAnswer.of(item.prediction, top_k=None, explanation=None), correction=correction
            )
            for item, correction in zip(sampled, corrections, strict=True)
        ]
        return cls(model=model, num_answers=num_answers, texts=texts)


class Status(BaseModel):
    """State of the service."""

    status: str
