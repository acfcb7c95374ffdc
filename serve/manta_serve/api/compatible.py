"""Routes for the clients of other services: text-embeddings-inference's /predict, and the shape of Hugging Face's Inference API.

They differ from /v1/classify in the shape of requests and answers alone. Fields that those services ignore are ignored here, too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, create_model
from pydantic_core import to_json
from starlette.responses import Response

from manta.labels import Activation
from manta_serve.answering.request import answer_to, read_body
from manta_serve.answering.services import Services, for_each_model
from manta_serve.api.documentation import PIPELINE_EXAMPLES, PREDICT_EXAMPLES, body_of, plain_problems_of
from manta_serve.api.schemas import BY_KIND, as_text, visible_text
from manta_serve.http.problems import JSON

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.config import ServeConfig
    from manta.texts import Text
    from manta_serve.batching.answer import Answer

VERSION_HEADER = "Manta-Version"
STATUSES = (400, 401, 403, 404, 408, 409, 413, 415, 421, 422, 429, 503, 504)


class LabelScore(BaseModel):
    """A label and its score."""

    score: Annotated[float, Field(description="Probability of the label, unless the request asks for another score.")]
    label: str


class CompatibleRequest(BaseModel, ABC):
    """Base of the requests: types are not converted, and unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")

    @property
    @abstractmethod
    def rows(self) -> list[Text]:
        """The texts to classify, in order."""

    @property
    @abstractmethod
    def fields(self) -> list[str]:
        """The request field of each of `rows`."""


class PredictRequest(CompatibleRequest):
    """A request to text-embeddings-inference's /predict."""

    inputs: str | list[str] | list[list[str]]
    raw_scores: Annotated[bool, Field(description="True for logits instead of probabilities.")] = False
    truncate: Annotated[
        bool | None, Field(description="False refuses texts longer than the model reads; otherwise they are cut at the end.")
    ] = None
    truncation_direction: Annotated[Literal["right", "Right"], Field(description="Texts are cut at the end alone.")] = "right"

    @property
    def is_batch(self) -> bool:
        """True if the answer has a list for each text."""
        return not isinstance(self.inputs, str) and not isinstance(self.inputs[0], str)

    @property
    def rows(self) -> list[Text]:
        """The texts to classify, in order."""
        return [text if isinstance(text, str) else text[0] if len(text) == 1 else as_text(text) for text in self._given]

    @property
    def fields(self) -> list[str]:
        """The request field of each of `rows`."""
        return [f"inputs.{index}" for index in range(len(self.inputs))] if self.is_batch else ["inputs"]

    @property
    def _given(self) -> Sequence[Any]:
        return self.inputs if self.is_batch else [self.inputs]


class TextPair(BaseModel):
    """A pair of texts, as transformers' pipelines take it."""

    model_config = ConfigDict(strict=True, extra="ignore")

    text: str
    text_pair: str


class PipelineParameters(BaseModel):
    """Parameters of a request in the shape of Hugging Face's Inference API."""

    model_config = ConfigDict(strict=True, extra="ignore")

    top_k: Annotated[int | None, Field(ge=1, description="How many labels are returned, the highest first. Default: all.")] = None
    function_to_apply: Annotated[
        Activation | None,
        Field(
            description="`none` for logits, `softmax` or `sigmoid` for probabilities by it. By default the model's own: "
            "softmax, or sigmoid if it is multilabel. For a binary model both are the same."
        ),
    ] = None


class PipelineRequest(CompatibleRequest):
    """A request in the shape of Hugging Face's Inference API."""

    inputs: str | TextPair | list[str | TextPair]
    parameters: Annotated[
        PipelineParameters | None, Field(description="`top_k`, the number of labels; `function_to_apply`: none, softmax, sigmoid.")
    ] = None

    @property
    def rows(self) -> list[Text]:
        """The texts to classify, in order."""
        given = self.inputs if isinstance(self.inputs, list) else [self.inputs]
        return [text if isinstance(text, str) else (text.text, text.text_pair) for text in given]

    @property
    def fields(self) -> list[str]:
        """The request field of each of `rows`."""
        several = isinstance(self.inputs, list)
        return [f"inputs.{index}" for index in range(len(self.rows))] if several else ["inputs"]


def predict_request(config: ServeConfig) -> type[PredictRequest]:
    """Return the schema of a request to /predict, with the config's limits."""
    text = visible_text(config)
    row = Annotated[list[text], Field(min_length=1, max_length=2)]  # type: ignore[valid-type]  # created from the config
    batch = Annotated[list[row], Field(min_length=1, max_length=config.max_texts, fail_fast=True)]
    shapes = Annotated[text, Tag("one")] | Annotated[row, Tag("several")] | Annotated[batch, Tag("batch")]  # type: ignore[valid-type]
    inputs = Annotated[shapes, Discriminator(_kind_of_inputs)]
    described = Field(description="A text, a list of one text or two (a pair), or a list of such lists.")
    return create_model("PredictRequest", __base__=PredictRequest, __doc__=PredictRequest.__doc__, inputs=(inputs, described))


def pipeline_request(config: ServeConfig) -> type[PipelineRequest]:
    """Return the schema of a request in the shape of Hugging Face's Inference API, with the config's limits."""
    text = visible_text(config)
    pair = create_model("TextPair", __base__=TextPair, __doc__=TextPair.__doc__, text=(text, ...), text_pair=(text, ...))
    kinds = Annotated[text, Tag("one")] | Annotated[pair, Tag("pair")]  # type: ignore[valid-type]  # created from the config
    one = Annotated[kinds, Discriminator(_one_or_pair)]
    several = Annotated[list[one], Field(min_length=1, max_length=config.max_texts, fail_fast=True)]
    inputs = Annotated[Annotated[one, Tag("one")] | Annotated[several, Tag("several")], BY_KIND]
    described = Field(description="A text, a pair of texts as `text` and `text_pair`, or several of them.")
    return create_model("PipelineRequest", __base__=PipelineRequest, __doc__=PipelineRequest.__doc__, inputs=(inputs, described))


def _kind_of_inputs(value: object) -> str:
    if not isinstance(value, list):
        return "one"
    return "batch" if value and isinstance(value[0], list) else "several"


def _one_or_pair(value: object) -> str:
    return "pair" if isinstance(value, dict | TextPair) else "one"


def add_compatible(api: FastAPI, services: Services) -> None:
    """Add the routes to the API."""
    _add_predict(api, services)
    _add_pipeline(api, services)


def _add_predict(api: FastAPI, services: Services) -> None:
    shape = predict_request(services.first.config)

    @for_each_model(
        api,
        "POST",
        first="/predict",
        named="/v1/models/{name}/predict",
        response_model=list[LabelScore] | list[list[LabelScore]],
        responses=plain_problems_of(*STATUSES),
        openapi_extra=body_of(shape, PREDICT_EXAMPLES),
    )
    async def predict(request: Request) -> Any:
        """Classify a text or a batch as text-embeddings-inference does: every label with its score, the highest first.

        The headers `Manta-Key` and `Manta-Version` work as for /v1/classify. The answer's `Manta-Version` names the version.
        """
        service = services.of(request)
        asked = await read_body(request, shape)
        answer, _ = await answer_to(request, service, asked.rows, fields=asked.fields, cuts=asked.truncate is not False)
        rows = scored(answer, activation="none" if asked.raw_scores else None, top_k=None)
        return _response(rows if asked.is_batch else rows[0], answer)


def _add_pipeline(api: FastAPI, services: Services) -> None:
    shape = pipeline_request(services.first.config)

    @for_each_model(
        api,
        "POST",
        first="/",
        named="/models/{name}",
        response_model=list[list[LabelScore]],
        responses=plain_problems_of(*STATUSES),
        openapi_extra=body_of(shape, PIPELINE_EXAMPLES),
    )
    async def pipeline(request: Request) -> Any:
        """Classify as Hugging Face's Inference API does, for `huggingface_hub.InferenceClient(model=URL).text_classification`.

        The answer has one list for each text, also for a single one.
        """
        service = services.of(request)
        asked = await read_body(request, shape)
        answer, _ = await answer_to(request, service, asked.rows, fields=asked.fields)
        parameters = asked.parameters or PipelineParameters()
        return _response(scored(answer, activation=parameters.function_to_apply, top_k=parameters.top_k), answer)


def scored(answer: Answer, *, activation: Activation | None, top_k: int | None) -> list[list[LabelScore]]:
    """Return the labels of each text with their scores, the highest first: calibrated probabilities, or the activation's."""
    if activation is None:
        rows = [list(prediction.scores.items())[:top_k] for prediction in answer.predictions]
        return [[LabelScore(score=score, label=name) for name, score in row] for row in rows]
    labels = answer.model.manifest.label_space
    values = labels.scores(answer.logits, activation=activation)
    order = np.argsort(-values, axis=1, kind="stable")[:, :top_k]
    return [
        [LabelScore(score=float(row[index]), label=labels.names[index]) for index in places]
        for row, places in zip(values, order, strict=True)
    ]


def _response(content: list[LabelScore] | list[list[LabelScore]], answer: Answer) -> Response:
    return Response(to_json(content), media_type=JSON, headers={VERSION_HEADER: str(answer.model.version)})
