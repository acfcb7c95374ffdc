"""Schemas of requests and answers. The config limits requests, so their schemas are created from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag, create_model, model_validator

from manta.texts import NumTexts, Text
from manta_serve.comparison import ComparisonAnswer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.config import ServeConfig
    from manta.inference.artifact import Manifest
    from manta.inference.attribution import Explanation
    from manta.inference.predictor import Prediction
    from manta_serve.answer import Answer
    from manta_serve.feedback import FeedbackSummary
    from manta_serve.served_model import ServedModel
    from manta_serve.service import Service
    from manta_serve.version_loader import Refusal

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
    version: Annotated[int, Field(ge=1, description="The version that answered.")]


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
    uncertain: Annotated[bool, Field(description="True when the answer is less sure than `abstain.below` of /v1/model.")]
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


class Abstention(BaseModel):
    """The confidence below which an answer is uncertain, and the resulting precision and coverage."""

    below: Annotated[
        float,
        Field(
            description="The probability that the answer is right below which it is uncertain: of the most probable label, or "
            "for a multilabel model the product over all labels."
        ),
    ]
    target_precision: Annotated[
        float | None, Field(description="Share of right answers that the others were to have; null where none was chosen for one.")
    ]
    guarantee: Annotated[
        float | None, Field(description="Probability with which the others have that share; null: they have it on average.")
    ] = None
    precision: Annotated[float | None, Field(description="Share of right answers that the others have on the test rows.")]
    coverage: Annotated[float | None, Field(description="Share of the test rows that are answered and not uncertain.")]

    @classmethod
    def of(cls, manifest: Manifest) -> Abstention:
        """Return the figures of a model's calibration."""
        calibration = manifest.calibration
        chosen = calibration is not None and calibration.abstain_below is not None
        figures = calibration.test if calibration is not None else None
        return cls(
            below=min(1.0, manifest.uncertain_below),
            target_precision=calibration.target_precision if calibration is not None and chosen else None,
            guarantee=calibration.guarantee if calibration is not None else None,
            precision=figures.precision if figures else None,
            coverage=figures.coverage if figures else None,
        )


class LabelSets(BaseModel):
    """Coverage and size of the label sets of the answers."""

    coverage: Annotated[float, Field(description="Share of sets that were to hold it.")]
    test_coverage: Annotated[float | None, Field(description="Share of sets that hold it on the test rows.")]
    test_size: Annotated[float | None, Field(description="Mean number of labels in a set on the test rows.")]

    @classmethod
    def of(cls, manifest: Manifest) -> LabelSets | None:
        """Return the figures of a model's label sets; None if it has none."""
        calibration = manifest.calibration
        if calibration is None or calibration.set_coverage is None or calibration.set_above is None:
            return None
        figures = calibration.test
        return cls(
            coverage=calibration.set_coverage,
            test_coverage=figures.set_coverage if figures else None,
            test_size=figures.set_size if figures else None,
        )


class RefusalAnswer(BaseModel):
    """A version that the registry asks for but that was refused."""

    version: int
    reason: str
    at: Annotated[str, Field(description="When it was tried, in UTC.")]

    @classmethod
    def of(cls, refusal: Refusal) -> RefusalAnswer:
        """Return a refusal in this schema."""
        return cls(version=refusal.version, reason=refusal.reason, at=refusal.at)


class ModelAnswer(BaseModel):
    """A version, by default the champion, and the other versions that the service knows."""

    name: str
    version: int
    task: Annotated[str, Field(description="binary, multiclass or multilabel.")]
    num_texts: Annotated[NumTexts, Field(description="1 where it reads single texts, 2 where it reads pairs.")]
    labels: list[str]
    thresholds: Annotated[
        list[float] | None, Field(description="The probability from which each of `labels` applies, for a multilabel model.")
    ]
    metrics: dict[str, float]
    abstain: Abstention
    sets: Annotated[LabelSets | None, Field(description="The label sets of the answers; null for a model without them.")]
    examples: Annotated[list[Text], Field(description="A few texts or pairs to try, from the test rows.")]
    created: str
    feedback: Annotated[bool, Field(description="Whether POST /v1/feedback keeps what it is told.")]
    candidate: Annotated[int | None, Field(description="The version that is tried on a share of the requests; null where none is.")]
    loaded: Annotated[list[int], Field(description="Versions in memory, which `Manta-Version` gets without waiting.")]
    refused: Annotated[list[RefusalAnswer], Field(description="Versions that were to answer and could not.")]
    comparison: Annotated[ComparisonAnswer | None, Field(description="Champion and candidate; null where there is no candidate.")]

    @classmethod
    def of(cls, service: Service, *, described: ServedModel | None) -> ModelAnswer:
        """Describe the champion, or the version `described`, by its manifest, and list the other versions."""
        models = service.models
        current, candidate = described or models.current, models.candidate
        manifest = current.manifest
        return cls(
            name=manifest.name,
            version=current.version,
            candidate=None if candidate is None else candidate.version,
            loaded=[model.version for model in models.loaded],
            refused=[RefusalAnswer.of(refusal) for refusal in models.refused],
            comparison=None if candidate is None else ComparisonAnswer.of(service, candidate),
            task=manifest.task,
            num_texts=manifest.num_texts,
            labels=manifest.labels,
            thresholds=list(manifest.label_space.applied_thresholds) if manifest.task == "multilabel" else None,
            metrics=manifest.metrics,
            abstain=Abstention.of(manifest),
            sets=LabelSets.of(manifest),
            examples=manifest.examples,
            created=manifest.created,
            feedback=service.feedback is not None,
        )


class ModelSummary(BaseModel):
    """A model that answers here, and its version that answers now."""

    name: str
    version: int
    task: Annotated[str, Field(description="binary, multiclass or multilabel.")]
    num_texts: Annotated[NumTexts, Field(description="1 where it reads single texts, 2 where it reads pairs.")]
    labels: list[str]

    @classmethod
    def of(cls, service: Service) -> ModelSummary:
        """Describe the champion of a service."""
        model = service.models.current
        manifest = model.manifest
        return cls(name=model.name, version=model.version, task=manifest.task, num_texts=manifest.num_texts, labels=manifest.labels)


class ModelsAnswer(BaseModel):
    """The models that answer here."""

    models: Annotated[list[ModelSummary], Field(description="The first one answers where a path names none.")]


class Status(BaseModel):
    """State of the service."""

    status: str
