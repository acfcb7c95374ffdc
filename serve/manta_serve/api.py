"""The HTTP API: its paths, the shape of requests and answers, and errors as problem JSON.

4xx is the caller's fault and says which field and why; 5xx is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag
from starlette.exceptions import HTTPException

from manta import __version__
from manta.artifact import Manifest
from manta.texts import NumTexts, Text, first_of_wrong_kind, wrong_kind_sentence
from manta_serve.classifier import Classifier

MAX_TEXTS = 256
MAX_CHARACTERS = 20_000

KINDS = ("single", "pair")

SingleText = Annotated[str, StringConstraints(min_length=1, max_length=MAX_CHARACTERS, pattern=r"\S")]
TextPair = Annotated[list[SingleText], Field(min_length=2, max_length=2)]
# Told apart by their JSON type, so that an error is about the one that was meant.
SingleOrPair = Annotated[
    Annotated[SingleText, Tag("single")] | Annotated[TextPair, Tag("pair")],
    Discriminator(lambda value: "pair" if isinstance(value, list) else "single"),
]


class ClassifyRequest(BaseModel):
    """Texts, or pairs of texts, to classify."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"texts": ["Where is my parcel?", "I was charged twice."], "top_k": 3}]}
    )

    texts: Annotated[list[SingleOrPair], Field(min_length=1, max_length=MAX_TEXTS)]
    """1 to 256 texts, none of them empty. For a model of text pairs (`num_texts` of /v1/model is 2), lists of two texts each."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """How many labels `scores` holds, the most probable first; all unless given."""


class PredictionAnswer(BaseModel):
    """The answer for one text or pair."""

    labels: list[str]
    """The labels that apply, the most probable first: exactly one, or for a multilabel model several or none."""
    label: str
    """The most probable label."""
    score: float
    """Probability of `label`, 0 to 1."""
    scores: dict[str, float]
    """Probability of each label."""
    uncertain: bool
    """True when the answer is less sure than `abstain.below` of /v1/model."""


class ModelName(BaseModel):
    """Which model answered."""

    name: str
    version: int


class ClassifyAnswer(BaseModel):
    """One prediction for each text, in order."""

    model: ModelName
    predictions: list[PredictionAnswer]


class Abstention(BaseModel):
    """When an answer is uncertain, and what that costs and brings."""

    below: float
    """The probability that the answer is right below which it is uncertain: of the most probable label, or for a multilabel
    model the product over all labels."""
    target_precision: float | None
    """Share of right answers that the others were to have; null where no threshold was chosen for one."""
    precision: float | None
    """Share of right answers that the others have on the test rows."""
    coverage: float | None
    """Share of the test rows that are answered and not uncertain."""


class ModelAnswer(BaseModel):
    """What answers now."""

    name: str
    version: int
    task: str
    """binary, multiclass or multilabel."""
    num_texts: NumTexts
    """1 where it reads single texts, 2 where it reads pairs."""
    labels: list[str]
    thresholds: list[float] | None
    """The probability from which each of `labels` applies, for a multilabel model."""
    metrics: dict[str, float]
    abstain: Abstention
    examples: list[Text]
    """A few texts or pairs to try, from the test rows."""
    created: str


class Problem(BaseModel):
    """What went wrong."""

    code: str
    message: str
    field: str | None = None


class ProblemAnswer(BaseModel):
    """The body of every error."""

    error: Problem


def create_api(current: Callable[[], Classifier]) -> FastAPI:
    """The API in front of whatever classifier `current` returns at the time of a request."""
    api = FastAPI(title="Manta", version=__version__, description="Text classification by a fine-tuned encoder.")
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _refused)
    api.add_exception_handler(Exception, _broken)

    # FastAPI runs plain functions in threads, so the event loop stays free while the model computes.
    @api.post("/v1/classify", responses={422: {"model": ProblemAnswer}})
    def classify(request: ClassifyRequest) -> ClassifyAnswer:
        """The labels of each text or pair with their probabilities."""
        classifier = current()
        manifest = classifier.manifest
        texts: list[Text] = [text if isinstance(text, str) else (text[0], text[1]) for text in request.texts]
        wrong = first_of_wrong_kind(texts, num_texts=manifest.num_texts)
        if wrong is not None:
            message = wrong_kind_sentence(manifest.num_texts).capitalize()
            raise RequestValidationError([{"type": "wrong_kind", "loc": ("body", "texts", wrong), "msg": message}])
        predictions = [
            PredictionAnswer(
                labels=list(prediction.labels),
                label=prediction.label,
                score=prediction.score,
                scores=dict(list(prediction.scores.items())[: request.top_k]),
                uncertain=prediction.uncertain,
            )
            for prediction in classifier.classify(texts)
        ]
        return ClassifyAnswer(model=ModelName(name=classifier.name, version=classifier.version), predictions=predictions)

    @api.get("/v1/model")
    def model() -> ModelAnswer:
        """What answers now: version, labels and metrics."""
        classifier = current()
        manifest = classifier.manifest
        return ModelAnswer(
            name=classifier.name,
            version=classifier.version,
            task=manifest.task,
            num_texts=manifest.num_texts,
            labels=manifest.labels,
            thresholds=list(manifest.label_space.applied_thresholds) if manifest.task == "multilabel" else None,
            metrics=manifest.metrics,
            abstain=_abstention(manifest),
            examples=manifest.examples,
            created=manifest.created,
        )

    @api.get("/healthz")
    def healthz() -> dict[str, str]:
        """Whether the process is up."""
        return {"status": "ok"}

    @api.get("/readyz")
    def readyz() -> dict[str, str]:
        """Whether a model is loaded."""
        current()
        return {"status": "ready"}

    return api


def _abstention(manifest: Manifest) -> Abstention:
    calibration = manifest.calibration
    chosen = calibration is not None and calibration.abstain_below is not None
    figures = calibration.test if calibration is not None else None
    return Abstention(
        below=manifest.uncertain_below,
        target_precision=calibration.target_precision if calibration is not None and chosen else None,
        precision=figures.precision if figures else None,
        coverage=figures.coverage if figures else None,
    )


def _problem(status: int, code: str, message: str, field: str | None = None) -> JSONResponse:
    answer = ProblemAnswer(error=Problem(code=code, message=message, field=field))
    return JSONResponse(answer.model_dump(exclude_none=True), status_code=status)


async def _invalid(_: Request, error: Any) -> JSONResponse:
    first = error.errors()[0]
    location = [str(part) for part in first["loc"] if part != "body" and part not in KINDS]
    if first["type"] == "json_invalid":
        return _problem(400, "invalid_json", f"The body is not valid JSON: {first['ctx']['error']}.")
    if first["type"] == "string_pattern_mismatch":
        return _problem(422, "invalid_request", "The text is blank.", ".".join(location))
    return _problem(422, "invalid_request", f"{first['msg']}.", ".".join(location) or None)


async def _refused(_: Request, error: Any) -> JSONResponse:
    return _problem(error.status_code, str(error.detail).lower().replace(" ", "_"), f"{error.detail}.")


async def _broken(_: Request, error: Exception) -> JSONResponse:
    return _problem(500, "internal_error", "The server failed to answer; its log says why.")
