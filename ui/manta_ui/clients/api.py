"""The page's client of the Serve API, over HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from manta.cluster.http import CONNECT_TIMEOUT_S, http_client

if TYPE_CHECKING:
    from collections.abc import Sequence

Text = tuple[str, ...]
"""One text, or the two texts of a pair."""
Said = str | list[str]
"""A person's judgment of an answer: the right label, or for a multilabel model a list of labels."""
EXPLAIN_TIMEOUT_S = 90.0
READY_TIMEOUT_S = 1.5


class ApiError(Exception):
    """Error: the API did not answer, or refused the request. The message is for the person at the page."""

    def __init__(
        self, message: str, *, status: int | None = None, retry_after_s: float | None = None, field: str | None = None
    ) -> None:
        super().__init__(message)
        self.field = field
        """The refused part of the request, such as `texts.3`; None if the API did not name it."""
        self.status = status
        """The HTTP status of a refusal; None if there was no answer."""
        self.retry_after_s = retry_after_s
        """Seconds after which to retry; None if the API did not say."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The version that answers now, or another version. It can be hashed, which gradio needs to detect a changed state."""

    name: str
    version: int
    task: str
    num_texts: int
    """1 if the model reads single texts, 2 if it reads pairs."""
    labels: tuple[str, ...]
    metrics: dict[str, float] = field(hash=False)
    examples: tuple[Text, ...]
    """Each has `num_texts` texts."""
    uncertain_below: float
    """Confidence below which an answer is uncertain."""
    target_precision: float | None
    """Share of right answers for which `uncertain_below` was chosen; None if it was not chosen for one."""
    precision: float | None
    """Share of right answers among the test rows that are not uncertain; None if unknown."""
    coverage: float | None
    """Share of the test rows that are not uncertain; None if unknown."""
    guarantee: float | None
    """Probability with which `target_precision` holds; None if it holds on average."""
    set_coverage: float | None
    """Wanted share of label sets that hold the right label; None for a model without label sets."""
    scope_loss: float | None = None
    """Share of texts in scope that may be marked as out of scope; None for a model that marks none."""
    takes_feedback: bool
    samples_texts: bool = False
    """True if the service keeps a sample of the latest texts (`ServeClient.sampled_texts`)."""
    candidate: int | None
    """The version that is tried on a share of the requests; None if there is none."""
    created: str
    """Time of training, in UTC."""

    @property
    def is_multilabel(self) -> bool:
        """True if several labels, or none, may apply to a text."""
        return self.task == "multilabel"


@dataclass(frozen=True)
class Answer:
    """The prediction for one text or pair."""

    labels: list[str]
    """Labels that apply: one, or for a multilabel model several or none."""
    scores: dict[str, float]
    """Probability by label, the most probable first."""
    uncertain: bool
    label_set: list[str]
    """Labels of which one is right with the model's `set_coverage`; empty for a model without label sets."""
    version: int
    latency_s: float
    """Seconds from request to answer, measured here."""
    is_out_of_scope: bool = False
    """True if the text is unlike all training rows."""


@dataclass(frozen=True)
class Word:
    """A word and its contribution to the label."""

    part: int
    """0, or 1 in the second text of a pair."""
    start: int
    end: int
    attribution: float
    """Its share of the change in log-odds. Below 0, it speaks against the label."""


@dataclass(frozen=True)
class Explanation:
    """Explanation of a label's probability."""

    label: str
    words: list[Word]
    complete: bool
    """True if the words' attributions add up to the whole change."""


@dataclass(frozen=True)
class FeedbackSummary:
    """Summary of the feedback on answers."""

    count: int
    """Texts that people have judged."""
    since_champion: int
    """Texts judged after the champion was trained."""
    corrected: int
    """Texts whose answer was wrong."""
    by_label: dict[str, int]
    """Number of texts by their right label."""
    duplicates: int
    """Texts that repeat another one, except for case and spaces, with the same label."""
    conflicts: list[dict[str, Any]]
    """Texts that differ only in case and spaces but have different labels, as `text` and `labels`. Only a few of them."""
    experiment: dict[str, Any]
    """Settings of a run that repeats the champion's training with the feedback added."""


@dataclass(frozen=True)
class SampledText:
    """A text that the service was asked lately."""

    texts: Text
    answer: Answer
    """Its answer then; `latency_s` is unknown and 0."""
    correction: Said | None
    """A person's judgment of it; None if there is none."""


class ServeClient:
    """A client of one Serve API. Any thread may use it."""

    def __init__(self, url: str, *, key: str | None = None, timeout_s: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self.has_key = bool(key)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=16)
        self._http = http_client(self.url, timeout_s=timeout_s, headers=headers, limits=limits)

    def check_ready(self) -> None:
        """Check that the API answers and a model is loaded. The check needs no key and does not count towards a rate limit.

        Raises:
            ApiError: the API is not ready; the message says why.
        """
        response = self._send("GET", "/readyz", timeout=READY_TIMEOUT_S)
        if not response.is_success:
            message = f"The model at {self.url} is not ready (status {response.status_code}); it may be starting."
            raise ApiError(message, status=response.status_code)

    def model(self, *, version: int | None = None) -> ModelInfo:
        """Return the version that answers now, or the requested version.

        Raises:
            ApiError: the API does not answer, or does not have this version.
        """
        body = self._json(self._send("GET", "/v1/model", headers=_pinned(version)))
        abstain = body["abstain"]
        examples = tuple((example,) if isinstance(example, str) else tuple(example) for example in body["examples"])
        return ModelInfo(
            name=body["name"],
            version=body["version"],
            task=body["task"],
            num_texts=body["num_texts"],
            labels=tuple(body["labels"]),
            metrics=body["metrics"],
            examples=examples,
            uncertain_below=abstain["below"],
            target_precision=abstain["target_precision"],
            precision=abstain["precision"],
            coverage=abstain["coverage"],
            guarantee=abstain.get("guarantee"),
            set_coverage=(body.get("sets") or {}).get("coverage"),
            scope_loss=(body.get("scope") or {}).get("loss"),
            takes_feedback=body["feedback"],
            samples_texts=body.get("sample_texts", False),
            candidate=body["candidate"],
            created=body["created"],
        )

    def classify(self, *texts: str, version: int | None = None) -> Answer:
        """Classify one text, or two as a pair.

        Raises:
            ApiError: the API does not answer, or refuses the text.
        """
        return self.classify_all([texts], version=version)[0]

    def classify_all(self, rows: Sequence[Text], *, version: int | None = None, top_k: int | None = None) -> list[Answer]:
        """Classify several texts or pairs in one request. The answers have the same order and all come from one version.

        `top_k` is the number of labels in the scores; by default, all.

        Raises:
            ApiError: the API does not answer, or refuses a text.
        """
        asked = {"texts": [_as_json(row) for row in rows]} | ({} if top_k is None else {"top_k": top_k})
        response = self._send("POST", "/v1/classify", json=asked, headers=_pinned(version))
        body = self._json(response)
        seconds, version = response.elapsed.total_seconds(), body["model"]["version"]
        return [_answer(prediction, version=version, latency_s=seconds) for prediction in body["predictions"]]

    def explain(self, *texts: str, version: int) -> Explanation:
        """Return the words' contributions to the label that a version gives. It takes as long as some hundred answers.

        Raises:
            ApiError: the API does not answer, refuses the text, or has too many explanations waiting.
        """
        asked = {"texts": [_as_json(texts)], "explain": True, "top_k": 1}
        timeout = httpx.Timeout(EXPLAIN_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        body = self._json(self._send("POST", "/v1/classify", json=asked, headers=_pinned(version), timeout=timeout))
        found = body["predictions"][0]["explanation"]
        words = [Word(**{name: word[name] for name in Word.__dataclass_fields__}) for word in found["words"]]
        return Explanation(label=found["label"], words=words, complete=found["complete"])

    def say(self, texts: Text, *, answer: Said, correction: Said, version: int) -> bool:
        """Send the right label of a text. Return False if the same was sent before.

        Raises:
            ApiError: the API does not answer, or stores no feedback (status 403).
        """
        said = {"text": _as_json(texts), "answer": answer, "correction": correction, "version": version}
        return bool(self._json(self._send("POST", "/v1/feedback", json=said))["stored"])

    def feedback(self) -> FeedbackSummary:
        """Return a summary of the feedback so far.

        Raises:
            ApiError: the API does not answer, or stores no feedback (status 403).
        """
        body = self._json(self._send("GET", "/v1/feedback"))
        return FeedbackSummary(**{name: body[name] for name in FeedbackSummary.__dataclass_fields__})

    def sampled_texts(self) -> tuple[list[SampledText], int]:
        """Return a random sample of the latest texts in random order, and the number of latest answers that it is from.

        Raises:
            ApiError: the API does not answer, keeps no texts, or the key is not for reading them (status 403).
        """
        body = self._json(self._send("GET", "/v1/feedback/texts"))
        version = body["model"]["version"]
        sampled = [
            SampledText(
                texts=(item["text"],) if isinstance(item["text"], str) else tuple(item["text"]),
                answer=_answer(item["prediction"], version=version, latency_s=0.0),
                correction=item.get("correction"),
            )
            for item in body["texts"]
        ]
        return sampled, body["num_answers"]

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise self._gone(error) from None

    def _gone(self, error: httpx.HTTPError) -> ApiError:
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return ApiError(f"The model at {self.url} takes too long to answer. Try again in a moment.")
        return ApiError(f"No model answers at {self.url}. Start it with: manta serve")

    def _json(self, response: httpx.Response) -> Any:
        try:
            body = response.json()
        except ValueError:
            raise ApiError(
                f"{self.url} answered, but not as Manta's API does (status {response.status_code}).", status=response.status_code
            ) from None
        if response.is_success:
            return body
        problem = body.get("error", {}) if isinstance(body, dict) else {}
        message = problem.get("message", f"The model at {self.url} refused (status {response.status_code}).")
        if response.status_code == 401:
            message = f"The model at {self.url} asks for an API key; start the page with MANTA_API_KEY set to one."
        retry = response.headers.get("retry-after", "")
        raise ApiError(
            message,
            status=response.status_code,
            retry_after_s=float(retry) if retry.isdecimal() else None,
            field=problem.get("field"),
        )


def _answer(prediction: dict[str, Any], *, version: int, latency_s: float) -> Answer:
    return Answer(
        labels=prediction["labels"],
        scores=prediction["scores"],
        uncertain=prediction["uncertain"],
        label_set=prediction.get("set", []),
        version=version,
        latency_s=latency_s,
        is_out_of_scope=prediction.get("uncertain_reason") == "out_of_scope",
    )


def _as_json(texts: Text) -> str | list[str]:
    return texts[0] if len(texts) == 1 else list(texts)


def _pinned(version: int | None) -> dict[str, str]:
    return {} if version is None else {"Manta-Version": str(version)}
