"""The way from a request to an answer that all shapes of requests share: reading the body, choosing the version, refusing."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from anyio import to_thread
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from manta.errors import InputError, RunError
from manta.texts import Text, first_of_wrong_kind, wrong_kind_sentence
from manta_serve.answering.service import ClientGoneError, Service, until_disconnected
from manta_serve.batching.batcher import ClosedError, DeadlineError, QueueFullError
from manta_serve.http.problems import JSON, ApiProblem, invalid
from manta_serve.versions.extra import RETRY_S, BusyLoadingError, RefusedVersionError, UnknownVersionError
from manta_serve.versions.served_models import NotLoadedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from starlette.requests import Request

    from manta.inference.artifact import Manifest
    from manta.inference.attribution import Explanation
    from manta_serve.answering.explainer import Explainer
    from manta_serve.batching.answer import Answer

SMALL_BODY_BYTES = 64 * 1024
"""Size up to which a body is parsed at once. A larger body is parsed in a thread, so that other requests do not wait for it."""
LONGEST_NAME = 100
B = TypeVar("B", bound=BaseModel)


async def answer_to(
    request: Request,
    service: Service,
    texts: list[Text],
    *,
    fields: Sequence[str],
    explainer: Explainer | None = None,
    cuts: bool = True,
) -> tuple[Answer, list[Explanation] | None]:
    """Return the answer to a request, by the version that its headers name or the traffic split chooses.

    Args:
        request: the request, whose body was read.
        service: the service that answers.
        texts: the texts or pairs to classify.
        fields: the field of the body that each of them is in, for errors.
        explainer: explains the answers. Without one, nothing is explained.
        cuts: True if texts longer than the model reads are cut, False if they are refused.

    Raises:
        ApiProblem: the request is refused, or the client disconnected.
    """
    check_kind(texts, fields, manifest=service.models.current.manifest)
    headers = request.headers
    if service.config.log_texts:
        request.state.texts = texts
    answering = _answered(
        service,
        texts,
        explainer=explainer,
        cuts=cuts,
        request_key=headers.get("manta-key"),
        version=pinned(headers.get("manta-version")),
    )
    try:
        answer, explanations = await until_disconnected(request, answering)
    except ClientGoneError as error:
        raise ApiProblem(499, "client_gone", str(error).capitalize()) from None
    request.state.version = answer.model.version
    return answer, explanations


async def _answered(
    service: Service, texts: list[Text], *, explainer: Explainer | None, cuts: bool, request_key: str | None, version: int | None
) -> tuple[Answer, list[Explanation] | None]:
    """Return the answer and, if there is an explainer, its explanations. A refusal by the service becomes an `ApiProblem`."""
    started = time.monotonic()
    with refusals():
        if not cuts:
            model = await service.choose(request_key=request_key, version=version)
            await to_thread.run_sync(model.check_lengths, texts)
        answer = await service.classify(texts, request_key=request_key, version=version)
    if explainer is None:
        return answer, None
    left_s = max(0.0, service.config.deadline_s - (time.monotonic() - started))
    labels = [prediction.label for prediction in answer.predictions]
    with refusals():
        return answer, await explainer.explain(answer.model.artifact, texts, labels=labels, deadline_s=left_s)


@contextmanager
def refusals() -> Iterator[None]:
    """Turn the errors with which the service refuses a request into an `ApiProblem`."""
    try:
        yield
    except QueueFullError as error:
        retry = {"Retry-After": str(error.retry_after_s)}
        raise ApiProblem(429, "queue_full", sentence(error), headers=retry) from None
    except DeadlineError as error:
        raise ApiProblem(504, "deadline", sentence(error)) from None
    except ClosedError as error:
        raise ApiProblem(503, "stopping", sentence(error), headers={"Retry-After": "1"}) from None
    except NotLoadedError as error:
        raise ApiProblem(409, "not_loaded", sentence(error)) from None
    except RefusedVersionError as error:
        raise ApiProblem(409, "version_refused", sentence(error)) from None
    except UnknownVersionError as error:
        raise ApiProblem(404, "unknown_version", sentence(error)) from None
    except BusyLoadingError as error:
        raise ApiProblem(429, "loading", sentence(error), headers={"Retry-After": str(RETRY_S)}) from None
    except RunError:
        message = "The version could not be fetched, as the registry does not answer; try again later."
        raise ApiProblem(503, "registry_down", message, headers={"Retry-After": str(RETRY_S)}) from None
    except InputError as error:
        raise ApiProblem(422, "invalid_request", sentence(error)) from None


async def read_body(request: Request, shape: type[B]) -> B:
    """Return the body, validated against `shape`.

    Raises:
        ApiProblem: the body is not JSON, is compressed, or does not match `shape`.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON:
        raise ApiProblem(415, "unsupported_media_type", f"Send the body as JSON, with the header Content-Type: {JSON}.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiProblem(415, "unsupported_media_type", "Send the body as it is, without compressing it.")
    body = await request.body()
    return await to_thread.run_sync(_parsed, body, shape) if len(body) > SMALL_BODY_BYTES else _parsed(body, shape)


def _parsed(body: bytes, shape: type[B]) -> B:
    try:
        content = from_json(body)
    except ValueError as error:
        raise ApiProblem(400, "invalid_json", f"The body is not valid JSON: {error}.") from None
    if isinstance(content, dict) and shape.model_config.get("extra") == "forbid":
        # Checked before pydantic, which would list every unknown field: a body may have a hundred thousand.
        unknown = next((name for name in content if name not in shape.model_fields), None)
        if unknown is not None:
            raise ApiProblem(422, "invalid_request", "There is no such field.", field=unknown[:LONGEST_NAME])
    try:
        return shape.model_validate(content)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False, include_input=False)) from None


def check_kind(texts: Sequence[Text], fields: Sequence[str], *, manifest: Manifest) -> None:
    """Refuse a text where the model reads pairs, and a pair where it reads single texts."""
    wrong = first_of_wrong_kind(texts, num_texts=manifest.num_texts)
    if wrong is not None:
        message = f"{wrong_kind_sentence(manifest.num_texts).capitalize()}."
        raise ApiProblem(422, "invalid_request", message, field=fields[wrong])


def pinned(version: str | None) -> int | None:
    """Return the version that the header `Manta-Version` names, if there is one."""
    if version is None:
        return None
    if not (version.isascii() and version.isdecimal() and len(version) < 10):
        raise ApiProblem(422, "invalid_request", "The header Manta-Version takes a version's number, such as 3.")
    return int(version)


def sentence(error: Exception) -> str:
    """Return an error's text with a capital at the beginning."""
    text = str(error)
    return text[:1].upper() + text[1:]
