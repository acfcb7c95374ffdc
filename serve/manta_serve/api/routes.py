"""The HTTP API: its paths, and the steps from a request to an answer.

    app = guarded(create_api(service), config=config, keys=keys, metrics=service.metrics)

`schemas` has the shapes, `http/problems.py` the errors, and `documentation` the content of /docs. `access/guard.py` decides which
requests get in.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from manta import __version__
from manta_serve.answering.explainer import Explainer
from manta_serve.answering.request import answer_to, check_kind, pinned, read_body, refusals, sentence
from manta_serve.answering.services import Services, for_each_model
from manta_serve.api.compatible import add_compatible
from manta_serve.api.documentation import CLASSIFY_EXAMPLES, FEEDBACK_EXAMPLES, add_documentation, body_of, problems_of
from manta_serve.api.metrics import families_of
from manta_serve.api.model_schemas import ModelAnswer, ModelsAnswer, ModelSummary
from manta_serve.api.schemas import (
    MAX_EXPLAINED,
    ClassifyAnswer,
    FeedbackAnswer,
    FeedbackSummaryAnswer,
    ModelName,
    SampleAnswer,
    Status,
    as_text,
    classify_request,
    feedback_request,
)
from manta_serve.feedback import Feedback, FeedbackFullError, FeedbackStore, Said
from manta_serve.http.problems import JSON, ApiProblem, broken, refused, told
from manta_serve.monitoring.exposition import CONTENT_TYPE, Family, exposition
from manta_serve.versions.extra import UnknownVersionError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from manta.inference.artifact import Manifest
    from manta_serve.answering.service import Service

DESCRIPTION = "Text classification by a fine-tuned encoder."


def create_api(
    service: Service, *others: Service, of_all: Callable[[], Awaitable[Mapping[str, Sequence[Family]]]] | None = None
) -> FastAPI:
    """Return the API in front of the services of one or more models. The first one answers if a path names no model.

    `of_all` returns the metrics of all replicas by name. Without it, /metrics reports this replica only.
    """
    api = FastAPI(
        title="Manta", version=__version__, description=DESCRIPTION, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    api.add_exception_handler(ApiProblem, told)
    api.add_exception_handler(HTTPException, refused)
    api.add_exception_handler(Exception, broken)
    services = Services(service, *others)
    _add_answers(api, services)
    add_compatible(api, services)
    _add_feedback(api, services)
    _add_models(api, services)
    _add_status(api, services)
    _add_metrics(api, services, of_all)
    add_documentation(api)
    return api


def _add_answers(api: FastAPI, services: Services) -> None:
    shape = classify_request(services.first.config)
    explainer = Explainer()

    @for_each_model(
        api,
        "POST",
        first="/v1/classify",
        named="/v1/models/{name}/classify",
        response_model=ClassifyAnswer,
        response_model_exclude_none=True,
        responses=problems_of(400, 401, 403, 404, 408, 409, 413, 415, 421, 422, 429, 503, 504),
        openapi_extra=body_of(shape, CLASSIFY_EXAMPLES),
    )
    async def classify(request: Request) -> Any:
        """Classify one text or several, and return the labels with their probabilities.

        The header `Manta-Key` identifies the client for the traffic split: the same key gets the same version.
        The header `Manta-Version` selects one version. A version that is not in memory is loaded first, if there is room.
        """
        service = services.of(request)
        asked = await read_body(request, shape)
        if asked.explain and len(asked.rows) > MAX_EXPLAINED:
            message = f"At most {MAX_EXPLAINED} texts of a request can be explained; send the rest in another one."
            raise ApiProblem(422, "invalid_request", message, field="explain")
        answer, explanations = await answer_to(
            request, service, asked.rows, fields=asked.fields, explainer=explainer if asked.explain else None
        )
        content = ClassifyAnswer.of(answer, top_k=asked.top_k, explanations=explanations)
        return Response(content.model_dump_json(by_alias=True, exclude_none=True), media_type=JSON)


def _add_feedback(api: FastAPI, services: Services) -> None:
    shape = feedback_request(services.first.config)
    paths = {"first": "/v1/feedback", "named": "/v1/models/{name}/feedback"}

    @for_each_model(
        api,
        "POST",
        **paths,
        response_model=FeedbackAnswer,
        responses=problems_of(400, 401, 403, 404, 408, 413, 415, 421, 422, 429, 503, 507),
        openapi_extra=body_of(shape, FEEDBACK_EXAMPLES),
    )
    async def feedback(request: Request) -> Any:
        """Store the right label of a text as a row to train on. If a text is sent again, the latest label counts."""
        service = services.of(request)
        store = _store_of(service)
        said = await read_body(request, shape)
        text = as_text(said.text)
        manifest = service.models.current.manifest
        check_kind([text], ["text"], manifest=manifest)
        answer = _labels_of(said.answer, manifest, field="answer")
        correction = _labels_of(said.correction, manifest, field="correction")
        with refusals():
            if not await to_thread.run_sync(service.models.exists, said.version):
                raise UnknownVersionError(f"there is no version {said.version} of {manifest.name}.")
        row = Feedback(text, answer, correction, said.version, key_name=getattr(request.state, "key_name", None))
        try:
            stored = await to_thread.run_sync(store.add, row)
        except FeedbackFullError as error:
            raise ApiProblem(507, "feedback_full", sentence(error)) from None
        return FeedbackAnswer(stored=stored)

    @for_each_model(api, "GET", **paths, response_model=FeedbackSummaryAnswer, responses=problems_of(401, 403, 404, 421, 429))
    async def feedback_summary(request: Request) -> Any:
        """Return counts of the feedback so far, and the settings of a run that trains on it. Only conflicting texts are shown."""
        service = services.of(request)
        store, manifest = _store_of(service), service.models.current.manifest
        summary = await to_thread.run_sync(lambda: store.summary(since=datetime.fromisoformat(manifest.created)))
        return FeedbackSummaryAnswer.of(summary, manifest=manifest, path=str(store.path))

    texts = {"first": "/v1/feedback/texts", "named": "/v1/models/{name}/feedback/texts"}

    @for_each_model(
        api,
        "GET",
        **texts,
        response_model=SampleAnswer,
        response_model_exclude_none=True,
        responses=problems_of(401, 403, 404, 421, 429),
    )
    async def sampled_texts(request: Request) -> Any:
        """Return a random sample of the latest texts with their answers, for people to judge.

        POST /v1/feedback takes the judgments. The sample is that of the replica that answers.
        """
        service = services.of(request)
        store, sample, model = _store_of(service), service.sample, service.models.current
        if sample is None:
            raise ApiProblem(403, "sample_off", "This service keeps no texts; its operator turns it on with serve.sample_texts.")
        sampled, num_answers = sample.texts(version=model.version), sample.num_answers
        corrections = await to_thread.run_sync(store.corrections, [item.text for item in sampled])
        return SampleAnswer.of(
            sampled,
            corrections=corrections,
            model=ModelName(name=model.name, version=model.version),
            num_answers=num_answers,
        )


def _store_of(service: Service) -> FeedbackStore:
    if service.feedback is None:
        raise ApiProblem(403, "feedback_off", "This service stores no feedback; its operator turns it on with serve.feedback.")
    return service.feedback


def _add_models(api: FastAPI, services: Services) -> None:
    @api.get("/v1/models", responses=problems_of(401, 403, 421, 429))
    async def models() -> ModelsAnswer:
        """List the models that answer here. The first one also answers where a path names none."""
        return ModelsAnswer(models=[ModelSummary.of(service) for service in services])

    @for_each_model(
        api,
        "GET",
        first="/v1/model",
        named="/v1/models/{name}",
        response_model=ModelAnswer,
        responses=problems_of(401, 403, 404, 409, 421, 422, 429, 503, 504),
    )
    async def model(request: Request) -> Any:
        """Return the version that answers now, with its labels and metrics, and the refused versions with the reasons.

        The header `Manta-Version` selects another version, as for /v1/classify.
        """
        service = services.of(request)
        version = pinned(request.headers.get("manta-version"))
        with refusals():
            described = None if version is None else await service.choose(version=version)
        return ModelAnswer.of(service, described=described)


def _add_status(api: FastAPI, services: Services) -> None:
    @api.head("/healthz", include_in_schema=False)
    @api.get("/healthz")
    async def healthz() -> Status:
        """Report that the process is running."""
        return Status(status="ok")

    @api.head("/readyz", include_in_schema=False)
    @api.get("/readyz", responses=problems_of(503))
    async def readyz() -> Status:
        """Report that every model is loaded and warm. The answer is 503 while the service is stopping."""
        if not services.ready:
            raise ApiProblem(503, "stopping", "The service is stopping.")
        return Status(status="ready")


def _add_metrics(api: FastAPI, services: Services, of_all: Callable[[], Awaitable[Mapping[str, Sequence[Family]]]] | None) -> None:
    @api.get("/metrics", response_class=PlainTextResponse, responses=problems_of(401, 403, 421, 429))
    async def metrics() -> Response:
        """Return the metrics of all replicas, for Prometheus."""
        replicas = {"": families_of(services)} if of_all is None else await of_all()
        return Response(exposition(replicas), media_type=CONTENT_TYPE)


def _labels_of(given: Said, manifest: Manifest, *, field: str) -> Said:
    """Return the given label, or for a multilabel model the given labels in the model's order.

    Raises:
        ApiProblem: the model has no such label, or a list was given where the model gives one label, or the reverse.
    """
    several = manifest.task == "multilabel"
    if isinstance(given, list) is not several:
        message = f"This model gives {'any number of labels; give a list' if several else 'one label; give a string'}."
        raise ApiProblem(422, "invalid_request", message, field=field)
    names = given if isinstance(given, list) else [given]
    if any(name not in manifest.labels for name in names):
        message = f"The model does not have this label; it has {', '.join(manifest.labels)}."
        raise ApiProblem(422, "unknown_label", message, field=field)
    return [name for name in manifest.labels if name in names] if several else given
