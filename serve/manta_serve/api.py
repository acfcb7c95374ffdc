"""The HTTP API: its paths, the shape of requests and answers, and errors as problem JSON.

4xx is the caller's fault and says which field and why; 5xx is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.exceptions import HTTPException

from manta import __version__
from manta_serve.classifier import Classifier

MAX_TEXTS = 256
MAX_CHARACTERS = 20_000
UNCERTAIN_BELOW = 0.5

Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_CHARACTERS, pattern=r"\S")]


class ClassifyRequest(BaseModel):
    """Texts to classify."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"texts": ["Where is my parcel?", "I was charged twice."], "top_k": 3}]}
    )

    texts: Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]
    """1 to 256 texts, none of them empty."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """How many labels `scores` holds, the most probable first; all unless given."""


class PredictionAnswer(BaseModel):
    """The answer for one text."""

    label: str
    score: float
    """Probability of `label`, 0 to 1."""
    scores: dict[str, float]
    """Probability of each label."""
    uncertain: bool
    """True when the most probable label is less likely than not."""


class ModelName(BaseModel):
    """Which model answered."""

    name: str
    version: int


class ClassifyAnswer(BaseModel):
    """One prediction for each text, in order."""

    model: ModelName
    predictions: list[PredictionAnswer]


class ModelAnswer(BaseModel):
    """What answers now."""

    name: str
    version: int
    task: str
    labels: list[str]
    metrics: dict[str, float]
    examples: list[str]
    """A few texts to try, from the test rows."""
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
        """The label of each text with its probabilities."""
        classifier = current()
        predictions = [
            PredictionAnswer(
                label=prediction.label,
                score=prediction.score,
                scores=dict(list(prediction.scores.items())[: request.top_k]),
                uncertain=prediction.score < UNCERTAIN_BELOW,
            )
            for prediction in classifier.classify(request.texts)
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
            labels=manifest.labels,
            metrics=manifest.metrics,
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


def _problem(status: int, code: str, message: str, field: str | None = None) -> JSONResponse:
    answer = ProblemAnswer(error=Problem(code=code, message=message, field=field))
    return JSONResponse(answer.model_dump(exclude_none=True), status_code=status)


async def _invalid(_: Request, error: Any) -> JSONResponse:
    first = error.errors()[0]
    location = [str(part) for part in first["loc"] if part != "body"]
    if first["type"] == "json_invalid":
        return _problem(400, "invalid_json", f"The body is not valid JSON: {first['ctx']['error']}.")
    if first["type"] == "string_pattern_mismatch":
        return _problem(422, "invalid_request", "The text is blank.", ".".join(location))
    return _problem(422, "invalid_request", f"{first['msg']}.", ".".join(location) or None)


async def _refused(_: Request, error: Any) -> JSONResponse:
    return _problem(error.status_code, str(error.detail).lower().replace(" ", "_"), f"{error.detail}.")


async def _broken(_: Request, error: Exception) -> JSONResponse:
    return _problem(500, "internal_error", "The server failed to answer; its log says why.")
